//! A leader that is stopped (SIGSTOP) and continued: it knows by itself that it is none.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler::store::{self, BootInstant, Home, LeaseTimings, lead};
use ostler::telemetry::Loops;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, LEASE, eventually};

const DATABASE: &str = "OSTLER_TEST_STOPPED_LEADER_DATABASE";
const TIMINGS: LeaseTimings = LeaseTimings {
    lease: Duration::from_millis(1_500),
    renew_deadline: Duration::from_millis(1_000),
    retry: Duration::from_millis(100),
    renew: Duration::from_millis(100),
};

/// Not a test of its own: the process that is stopped. It acts all the time, as long as it believes that it leads, and says
/// at which time it believed so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test below, in a process of its own"]
async fn leads_until_it_is_killed() {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let home = Home::Postgres(url.parse().expect("a URL"));
    let store = store::open(&home, None).await.expect("open");
    let watch = lead(store, "stopped".to_owned(), TIMINGS, &Loops::new(), CancellationToken::new());
    loop {
        let now = BootInstant::now();
        if let Some(term) = watch.term() {
            println!("acts {} {}", term.fence().epoch, now.since_boot().as_millis());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Leader {
    child: Child,
    /// Epoch, and when it acted, in milliseconds since boot.
    acts: mpsc::Receiver<(i64, u128)>,
}

impl Leader {
    fn start(url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "store::stopped::leads_until_it_is_killed", "--ignored", "--nocapture"])
            .env(DATABASE, url)
            .stdout(Stdio::piped())
            .spawn()
            .expect("run this binary again");
        let (send, acts) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut words = line.split_whitespace().skip_while(|word| *word != "acts").skip(1);
                let (Some(epoch), Some(at)) = (words.next(), words.next()) else { continue };
                let act = (epoch.parse().expect("an epoch"), at.parse().expect("a time"));
                if send.send(act).is_err() {
                    return;
                }
            }
        });
        Self { child, acts }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("signal the leader");
    }

    /// The next act that `wanted` accepts.
    fn next(&self, wanted: impl Fn(i64) -> bool) -> (i64, u128) {
        loop {
            let act = self.acts.recv_timeout(Duration::from_secs(20)).expect("it acts in time");
            if wanted(act.0) {
                return act;
            }
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("can't end the leader: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_a_leader_that_was_stopped_does_nothing_after_its_successor_began() {
    let bench = Bench::postgres().await;
    let leader = Leader::start(&bench.url);
    let (old, _) = tokio::task::block_in_place(|| leader.next(|_| true));

    leader.signal(Signal::SIGSTOP);
    let mut successor = None;
    eventually("the lease lapses", async || {
        successor = bench.store.campaign("successor", LEASE).await.expect("campaign");
        successor.is_some()
    })
    .await;
    let successor = successor.expect("leads");
    let began = BootInstant::now().since_boot().as_millis();
    assert!(successor.epoch > old);

    leader.signal(Signal::SIGCONT);
    // It follows at first; it leads again, with a new epoch, when its successor resigns.
    bench.store.renew(&successor, LEASE).await.expect("leads");
    tokio::time::sleep(TIMINGS.lease).await;
    bench.store.resign(&successor).await.expect("resign");
    let mut late = Vec::new();
    let (again, _) = tokio::task::block_in_place(|| {
        loop {
            let act = leader.next(|_| true);
            if act.0 > old {
                return act;
            }
            late.extend((act.1 >= began).then_some(act));
        }
    });
    assert!(again > successor.epoch);
    assert_eq!(late, [], "acts of the old epoch after the successor began");
}
