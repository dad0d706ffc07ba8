use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Part;

/// A PostgreSQL server on a port of its own. Its superuser is `ostler`, without a password.
pub struct Postgres {
    part: Part,
    port: u16,
}

impl Postgres {
    /// A server for one test: for those that take the database away.
    pub fn start() -> Self {
        Self::run(&[])
    }

    /// A server that also listens at `address` and trusts that interface's subnet: for pods.
    pub fn listening_at(address: &str) -> Self {
        Self::run(&[address])
    }

    /// The one server that all tests share. Each takes its own [`Postgres::database`].
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
        &SHARED
    }

    fn run(args: &[&str]) -> Self {
        let part = Part::start("postgres/serve.sh", args);
        let port = part.greeting().parse().expect("the script greets with its port");
        Self { part, port }
    }

    /// Makes an empty database and returns its URL.
    pub fn database(&self) -> String {
        self.database_at("127.0.0.1")
    }

    /// Like [`Postgres::database`], with the URL that one uses who reaches the server at `address`.
    pub fn database_at(&self, address: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.part.tell(&format!("database {name}"));
        format!("postgres://ostler@{address}:{}/{name}?sslmode=disable", self.port)
    }

    /// An orderly stop: open connections are ended. [`Postgres::resume`] brings it back.
    pub fn stop(&self) {
        self.part.tell("stop");
    }

    /// As if the server had crashed: it recovers when it is resumed.
    pub fn kill(&self) {
        self.part.tell("kill");
    }

    /// After [`Postgres::stop`] or [`Postgres::kill`]: the same data on the same port.
    pub fn resume(&self) {
        self.part.tell("start");
    }

    pub fn restart(&self) {
        self.stop();
        self.resume();
    }
}
