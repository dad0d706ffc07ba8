use super::Part;

/// A real mlx_lm.server with a tiny model, on a port of its own.
pub struct Mlx {
    part: Part,
    port: u16,
    model: String,
}

impl Mlx {
    /// # Panics
    /// If the cache lacks mlx_lm: run ./tests/run, which installs it.
    pub fn start() -> Self {
        Self::run(&[])
    }

    /// It answers 200 with an empty body on `/v1/models`, and chats.
    pub fn without_hub() -> Self {
        Self::run(&["nohub"])
    }

    fn run(args: &[&str]) -> Self {
        let part = Part::start("mlx/serve.sh", args);
        let (port, model) = part.greeting().split_once(' ').expect("the script greets with port and model");
        let (port, model) = (port.parse().expect("a port"), model.to_owned());
        Self { part, port, model }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How to start it again on its port, for tests whose subject does; [`Mlx::kill`] it first.
    pub fn command(&self) -> Vec<String> {
        let python = super::cache().join("python/bin/python").display().to_string();
        let port = self.port.to_string();
        let words = ["-m", "mlx_lm.server", "--model", &self.model, "--host", "127.0.0.1", "--port", &port];
        std::iter::once(python).chain(words.map(str::to_owned)).collect()
    }

    pub fn environment(&self) -> Vec<(String, String)> {
        let dir = |name: &str| self.part.dir().join(name).display().to_string();
        let all = [("HOME", dir("home")), ("HF_HUB_CACHE", dir("hub")), ("HF_HUB_OFFLINE", "1".to_owned())];
        all.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// As `/v1/models` lists it: the model's folder.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The servers on its port, whoever started them.
    pub fn processes(&self) -> Vec<i32> {
        let port = self.port.to_string();
        let all = std::fs::read_dir("/proc").expect("/proc").filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        let serves = |pid: &i32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            words.get(2).is_some_and(|w| w == "mlx_lm.server") && words.iter().any(|w| *w == port)
        };
        all.filter(serves).collect()
    }

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

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.part.dir().join("logs/mlx.log")).expect("the script keeps its log")
    }
}
