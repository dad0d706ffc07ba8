//! What an idle `ostler up` costs: CPU, wake-ups, bytes written and memory, beside what it may cost.
//!
//!     cargo bench --bench idle [-- SECONDS]
//!
//! Runs `examples/quickstart` in a data folder of its own. With OSTLER_DATABASE_URL it also runs that against PostgreSQL, in a schema of
//! its own, and counts statements and transactions there. Linux only: the figures are the kernel's.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ostler::cli::bench::database_url;
use ostler::store::{DatabaseUrl, drop_schema};
use sqlx::{Connection, PgConnection};

const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");
/// Starting, first canaries, the leases of workers that rest: none of it is what a steady system costs.
const WARM_UP: Duration = Duration::from_secs(200);
const DAY: f64 = 24.0 * 3_600.0;

fn main() {
    ostler::net::install_crypto();
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(120);
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(async {
        measure(None, Duration::from_secs(seconds)).await;
        if let Ok(url) = std::env::var("OSTLER_DATABASE_URL") {
            measure(Some(url.parse().expect("a URL")), Duration::from_secs(seconds)).await;
        }
    });
}

async fn measure(database: Option<DatabaseUrl>, time: Duration) {
    let database = database
        .map(|url| url.with_schema(&format!("ostler_idle_{}", std::process::id())).expect("a name for a schema"));
    let folder = std::env::temp_dir().join(format!("ostler-idle-{}", std::process::id()));
    let up = Up::start(&folder, database.as_ref());
    tokio::time::sleep(WARM_UP).await;
    let (began, before, statements) = (Instant::now(), up.figures(), statements(database.as_ref()).await);
    tokio::time::sleep(time).await;
    let (after, seconds) = (up.figures(), began.elapsed().as_secs_f64());
    println!(
        "`ostler up` of the quickstart, {}, idle for {seconds:.0} s:",
        if database.is_some() { "PostgreSQL" } else { "SQLite" }
    );
    let rate = |of: fn(&Figures) -> f64| (of(&after) - of(&before)) / seconds;
    say("CPU, % of a core", rate(|f| f.cpu_seconds) * 100.0, 0.5);
    say("wake-ups a second", rate(|f| f.wakeups), 30.0);
    say("written a day, MB", rate(|f| f.written) * DAY / 1e6, 50.0);
    say("resident, MB", after.resident / 1e6, 40.0);
    if database.is_some() {
        let now = self::statements(database.as_ref()).await;
        say("transactions a second", (now - statements) / seconds, 1.0);
    }
    drop(up);
    if let Some(url) = database {
        drop_schema(&url).await.expect("drop the schema");
    }
    let _ = std::fs::remove_dir_all(folder);
}

fn say(what: &str, is: f64, goal: f64) {
    println!("  {what:<24} {is:>8.2}   goal: at most {goal}{}", if is <= goal { "" } else { "   MISSED" });
}

/// Transactions of the whole database so far: nobody else should use it meanwhile.
async fn statements(database: Option<&DatabaseUrl>) -> f64 {
    let Some(_) = database else { return 0.0 };
    let url = std::env::var("OSTLER_DATABASE_URL").expect("it was there before");
    let mut connection = PgConnection::connect(&url).await.expect("connect");
    let count = "SELECT (xact_commit + xact_rollback)::float8 FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(count).fetch_one(&mut connection).await.expect("count")
}

struct Up {
    child: Child,
    folder: PathBuf,
}

struct Figures {
    cpu_seconds: f64,
    wakeups: f64,
    written: f64,
    resident: f64,
}

impl Up {
    fn start(folder: &Path, database: Option<&DatabaseUrl>) -> Self {
        let mut command = Command::new(OSTLER);
        command.args(["up", "-f", "examples/quickstart", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder);
        if let Some(url) = database {
            let migrated = Command::new(OSTLER)
                .arg("migrate")
                .env("OSTLER_DATABASE_URL", database_url(url).expect("a URL"))
                .status();
            assert!(migrated.expect("run migrate").success());
            command.env("OSTLER_DATABASE_URL", database_url(url).expect("a URL"));
        } else {
            command.env_remove("OSTLER_DATABASE_URL");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start `up`");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        while let Some(Ok(line)) = lines.next() {
            if line.contains("next:") {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, folder: folder.to_owned() }
    }

    fn figures(&self) -> Figures {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let stat = read(&proc.join("stat"));
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|n| n.parse().unwrap_or(0.0)).collect();
        let named = |text: &str| -> BTreeMap<String, f64> {
            let line = |line: &str| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_owned(), value.split_whitespace().next()?.parse().ok()?))
            };
            text.lines().filter_map(line).collect()
        };
        let threads = std::fs::read_dir(proc.join("task")).expect("a running process").flatten();
        let wakeups =
            threads.map(|thread| named(&read(&thread.path().join("status")))["voluntary_ctxt_switches"]).sum();
        Figures {
            cpu_seconds: (fields[11] + fields[12]) / 100.0,
            wakeups,
            written: named(&read(&proc.join("io")))["write_bytes"],
            resident: named(&read(&proc.join("status")))["VmRSS"] * 1024.0,
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let down = Command::new(OSTLER).args(["down", "--data-dir"]).arg(&self.folder).status();
        assert!(down.expect("run `down`").success());
        let _ = self.child.wait();
    }
}
