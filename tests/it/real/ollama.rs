use std::path::PathBuf;

use super::{Part, cache};

/// A real Ollama on a port of its own, with its own copy of two tiny models. Whatever was started on its folder, by whom ever,
/// is ended with it.
pub struct Ollama {
    part: Part,
    port: u16,
}

impl Ollama {
    pub const MODEL: &str = "tiny:latest";

    /// # Panics
    /// If the cache lacks Ollama: run ./tests/run, which builds it.
    pub fn start() -> Self {
        Self::run(&[])
    }

    /// Everything but the server: for tests whose subject starts it with [`Ollama::command`] and [`Ollama::environment`].
    pub fn idle() -> Self {
        Self::run(&["idle"])
    }

    fn run(args: &[&str]) -> Self {
        let part = Part::start("ollama/serve.sh", args);
        let port = part.greeting().parse().expect("the script greets with its port");
        Self { part, port }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn command() -> Vec<String> {
        vec![cache().join("bin/ollama").to_string_lossy().into_owned(), "serve".to_owned()]
    }

    pub fn environment(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.part.dir().join("environment")).expect("the script wrote it");
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// Without models: what a wrong user's `OLLAMA_MODELS` is.
    pub fn empty_models(&self) -> PathBuf {
        self.part.dir().join("empty")
    }

    /// `kill -9` of `ollama serve`, if this part started it.
    pub fn kill(&self) {
        self.part.tell("kill");
    }

    /// As a wrong user would start it.
    pub fn resume_without_models(&self) {
        self.part.tell("start_empty");
    }

    /// Stops its runners (SIGSTOP): inference hangs, listings answer.
    pub fn freeze_runners(&self) {
        self.part.tell("freeze");
    }

    /// Process ids.
    pub fn runners(&self) -> Vec<u32> {
        self.part.tell("runners").split_whitespace().map(|id| id.parse().expect("a process id")).collect()
    }
}
