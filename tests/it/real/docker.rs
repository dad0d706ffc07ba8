use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Part, cache};

/// A real Docker engine in namespaces of its own (Linux, root), and compose. Its one image is [`Docker::IMAGE`].
pub struct Docker {
    part: Part,
}

impl Docker {
    /// Busybox: sh, sleep, cat, tail, head and a few more.
    pub const IMAGE: &str = "local/busybox:1";

    /// # Panics
    /// If Docker or compose is missing: run ./tests/run, which installs the one and builds the other.
    pub fn start() -> Self {
        let part = Part::start("docker/serve.sh", &[]);
        assert!(compose().exists(), "{} is missing: run ./tests/run, which builds it", compose().display());
        Self { part }
    }

    pub fn socket(&self) -> PathBuf {
        self.part.dir().join("docker.sock")
    }

    /// For an agent's `composeCommand`.
    pub fn compose_command() -> Vec<String> {
        vec![compose().display().to_string()]
    }

    /// `docker ARGS…` and what it prints.
    ///
    /// # Panics
    /// With its complaint, if it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        self.run(OsStr::new("docker"), args, Path::new("/"))
    }

    /// `docker compose ARGS…` in a project's folder.
    ///
    /// # Panics
    /// With its complaint, if it fails.
    pub fn compose(&self, folder: &Path, args: &[&str]) -> String {
        self.run(compose().as_os_str(), args, folder)
    }

    /// A container with a name, made and started from [`Docker::IMAGE`]; its id.
    pub fn run_container(&self, name: &str, options: &[&str], command: &[&str]) -> String {
        let first = ["run", "--detach", "--stop-timeout", "1", "--name", name];
        let args = [&first, options, &[Self::IMAGE], command].concat();
        self.docker(&args).trim().to_owned()
    }

    /// An orderly stop of the engine: it stops its containers. [`Docker::resume`] brings it back.
    pub fn stop(&self) {
        self.part.tell("stop");
    }

    /// As if the engine had crashed.
    pub fn kill(&self) {
        self.part.tell("kill");
    }

    pub fn resume(&self) {
        self.part.tell("start");
    }

    /// SIGSTOP: it accepts connections and answers nothing.
    pub fn freeze(&self) {
        self.part.tell("freeze");
    }

    pub fn thaw(&self) {
        self.part.tell("thaw");
    }

    fn run(&self, program: &OsStr, args: &[&str], folder: &Path) -> String {
        let output = Command::new(program)
            .args(args)
            .current_dir(folder)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            // The builder of newer clients is a plugin, which is not there.
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", self.part.dir().join("config"))
            .output()
            .unwrap_or_else(|error| panic!("can't run {}: {error}", program.display()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{} {}: {}", program.display(), args.join(" "), text(&output.stderr));
        text(&output.stdout)
    }
}

fn compose() -> PathBuf {
    cache().join("bin/docker-compose")
}
