use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// A real part, served by a script of `tests/parts/` for as long as this process holds the script's standard input.
///
/// The pipe closes with the last process that holds it, so the part goes even when the test binary is killed. It has a
/// process group of its own, so that a Ctrl-C meant for the tests does not cut its teardown short.
pub struct Part {
    script: String,
    dir: PathBuf,
    greeting: String,
    talk: Mutex<Talk>,
}

struct Talk {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Part {
    /// Runs `tests/parts/SCRIPT DIR ARGS…` and waits until it serves; `DIR` is new and removed by the script.
    ///
    /// # Panics
    /// If it can't serve; the script says why on standard error.
    pub fn start(script: &str, args: &[&str]) -> Self {
        let dir = new_dir(script);
        let mut child = Command::new(part_script(script))
            .arg(&dir)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("can't run tests/parts/{script}: {error}"));
        let talk =
            Talk { commands: child.stdin.take(), answers: BufReader::new(child.stdout.take().expect("piped")), child };
        let mut part = Self { script: script.to_owned(), dir, greeting: String::new(), talk: Mutex::new(talk) };
        let greeting = part.answer(&mut part.lock());
        part.greeting = greeting;
        part
    }

    /// What the script said when it began to serve: an address, a port.
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// The part's folder: `logs/` and what the script keeps there.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sends one command and waits for its answer.
    ///
    /// # Panics
    /// When the script answers with an error, or is gone.
    pub fn tell(&self, command: &str) -> String {
        let mut talk = self.lock();
        let commands = talk.commands.as_mut().expect("open until dropped");
        writeln!(commands, "{command}")
            .unwrap_or_else(|error| panic!("{}: can't send {command:?}: {error}", self.script));
        self.answer(&mut talk)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn answer(&self, talk: &mut Talk) -> String {
        let mut line = String::new();
        talk.answers.read_line(&mut line).expect("read the script's answer");
        match line.trim_end_matches('\n').split_once(' ') {
            Some(("ok", rest)) => rest.trim().to_owned(),
            Some(("error", why)) => panic!("tests/parts/{}: {why}", self.script),
            _ => panic!("tests/parts/{} ended; does `tests/run` pass its preparation on this machine?", self.script),
        }
    }
}

impl Drop for Part {
    /// Waits for the teardown, so that the next test finds the machine as it was.
    fn drop(&mut self) {
        let mut talk = self.lock();
        drop(talk.commands.take());
        let ended = talk.child.wait();
        if let Err(error) = ended {
            eprintln!("tests/parts/{}: can't wait for its end: {error}", self.script);
        }
    }
}

/// The path of a file in `tests/parts/`.
pub fn part_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts").join(name)
}

/// Where `tests/run` keeps what it built: `bin/`, `python/`.
pub fn cache() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("OSTLER_TEST_CACHE").unwrap_or_else(|| {
        from("XDG_CACHE_HOME")
            .or_else(|| from("HOME").map(|home| home.join(".cache")))
            .expect("HOME is set")
            .join("ostler-tests")
    })
}

fn new_dir(script: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = script.split('/').next().unwrap_or(script);
    let root = std::env::var_os("OSTLER_TEST_TMP").map_or_else(std::env::temp_dir, PathBuf::from);
    root.join(format!("ostler-{name}-{}-{count}", std::process::id()))
}
