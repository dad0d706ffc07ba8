//! `ostler` with folders of its own, and an `up` that ends with the test.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::real::free_port;

/// Long for what takes seconds: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A finished command.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Folders for manifests and data.
pub struct Bench {
    folder: PathBuf,
    up: Option<Child>,
}

impl Bench {
    pub fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("ostler-cli-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("manifests")).unwrap();
        Self { folder, up: None }
    }

    /// The folder of an example, with free ports in place of its own two.
    pub fn of_quickstart() -> (Self, [u16; 2]) {
        let (bench, ports) = (Self::new(), [free_port(), free_port()]);
        for file in ["backends.yaml", "agent.yaml", "tasks.yaml"] {
            let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart").join(file);
            let text = fs::read_to_string(example).unwrap();
            let text = text.replace("21434", &ports[0].to_string()).replace("21435", &ports[1].to_string());
            bench.write(file, &text);
        }
        (bench, ports)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.folder.join("manifests").join(file), text).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        command.args(args).env("OSTLER_DATA_DIR", self.path("data")).stdin(Stdio::null());
        for name in [
            "OSTLER_SERVER",
            "OSTLER_TOKEN",
            "OSTLER_LOG",
            "OSTLER_DATABASE_URL",
            "OLLAMA_HOST",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ] {
            command.env_remove(name);
        }
        command
    }

    pub fn ostler(&self, args: &[&str]) -> Said {
        self.command(args).output().unwrap().into()
    }

    /// With this on its standard input.
    pub fn given(&self, args: &[&str], input: &str) -> Said {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Starts `up` and returns what it printed until it said what to type next.
    pub fn up(&mut self) -> String {
        self.up_with(&[], &[])
    }

    /// With more arguments, and with variables.
    pub fn up_with(&mut self, more: &[&str], environment: &[(&str, &str)]) -> String {
        self.up_of("manifests", more, environment)
    }

    /// Of another folder of this bench.
    pub fn up_of(&mut self, folder: &str, more: &[&str], environment: &[(&str, &str)]) -> String {
        let manifests = self.path(folder);
        let args = [&["up", "-f", manifests.to_str().unwrap(), "--listen", "127.0.0.1:0"], more].concat();
        let log = fs::File::create(self.path("up.log")).unwrap();
        let mut command = self.command(&args);
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = String::new();
        for line in lines.by_ref() {
            let line = line.unwrap();
            said += &format!("{line}\n");
            if line.starts_with("next: ") {
                // Whatever it says later must find a reader.
                std::thread::spawn(move || lines.for_each(drop));
                self.up = Some(child);
                return said;
            }
        }
        let _ = child.wait();
        panic!("up ended: {said}\n{}", fs::read_to_string(self.path("up.log")).unwrap_or_default());
    }

    /// Sends a signal to `up` and waits for its end.
    pub fn end_up(&mut self, signal: &str) {
        let mut child = self.up.take().expect("up runs");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        child.wait().unwrap();
    }

    /// Waits for the end of an `up` that was told to end.
    pub fn up_ended(&mut self) -> i32 {
        self.up.take().expect("up runs").wait().unwrap().code().expect("ended by itself")
    }

    /// Asks until the answer is good.
    pub fn until(&self, args: &[&str], good: impl Fn(&Said) -> bool) -> Said {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.ostler(args);
            if good(&said) {
                return said;
            }
            let log = || fs::read_to_string(self.path("up.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{args:?} still says {said:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn healthy(&self) -> Said {
        self.until(&["status", "--check"], |said| said.code == 0)
    }

    /// What `up` has written to its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    /// Waits until a child that was started has ended, and returns its exit code.
    pub fn ended(child: &mut Child) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code().expect("ended by itself");
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                panic!("it goes on and on");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Who listens on a port of this machine.
    pub fn pid_on(port: u16) -> Option<u32> {
        ostler::agent::os::listener([127, 0, 0, 1].into(), port).unwrap().and_then(|l| l.pid)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mut up) = self.up.take() {
            // The services that it started go with it.
            let _ = self.ostler(&["down"]);
            let _ = up.kill();
            let _ = up.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
