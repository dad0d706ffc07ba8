//! Random bytes for whatever reads bytes from outside: a small fuzzer over a corpus of examples.
//!
//! A run of all tests tries a few thousand inputs for each target. `OSTLER_TEST_FUZZ_SECONDS=3600 cargo test --lib any_bytes -- --test-threads 1`
//! goes on for an hour each, and then also watches the memory of the process. `OSTLER_SEED` plays a run again.

use std::{
    collections::HashSet,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// What a target may take in a run of all tests.
const SHORT_RUN: Duration = Duration::from_millis(1_200);
/// CPU time that one input may take, without optimization: a part for each input, and one for each of its bytes.
const MOST_TIME: Duration = Duration::from_millis(500);
const MOST_TIME_OF_BYTE: Duration = Duration::from_micros(20);
/// An input that takes so long by the clock hangs.
const HANG: Duration = Duration::from_secs(120);
/// How far the peak of the process may rise above what it had after warming up, in bytes.
const MOST_GROWTH: u64 = 192 << 20;
/// Inputs of before the memory is measured, and between two measures.
const WARM_UP: u64 = 2_000;
const BATCH: u64 = 500;
/// Longest input, and how many that led to something new are kept.
const MOST_BYTES: usize = 32 << 10;
const MOST_KEPT: usize = 4_096;

/// Pieces that mean something to one format or another.
const PIECES: [&str; 66] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "\\",
    "\\u0000",
    "\\ud800",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\t",
    " ",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "é",
    "data:",
    "data: ",
    "event: error\n",
    "id:",
    "retry:",
    "[DONE]",
    "null",
    "true",
    "-0",
    "1e309",
    "18446744073709551616",
    "-9223372036854775808",
    "0.1",
    "---\n",
    "...\n",
    "- ",
    "? ",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "|\n",
    ">-\n",
    "#",
    "%YAML 1.1\n",
    "'",
    "~",
    "0x1f",
    "0o17",
    ".nan",
    ".inf",
    "2001-01-01",
    "yes",
    "v1,",
    "whsec_",
    "claim_",
    "_",
    ".",
    ";",
    "=",
    "/",
    "../",
    "://",
    "-f",
    "\u{1b}[2J",
    "\u{202e}",
];

/// Feeds `run` with changed examples of `tests/corpus/NAME`. It panics where something is wrong, and else returns a word for what it
/// saw: inputs that lead to a new one are changed further.
pub fn any_bytes(name: &str, run: impl Fn(&[u8]) -> String) {
    let seconds = env::var("OSTLER_TEST_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let seed = env::var("OSTLER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| if seconds.is_some() { rand::random() } else { 1 });
    let length = seconds.map_or(SHORT_RUN, Duration::from_secs);
    let mut kept = examples(name);
    let watch = Watchdog::start(name);
    let mut random = StdRng::seed_from_u64(seed);
    let mut words = HashSet::new();
    let (begun, mut count, mut base, mut slowest) = (Instant::now(), 0_u64, None, Duration::ZERO);
    let examples = kept.len() as u64;
    while count < examples || begun.elapsed() < length {
        let input = match kept.get(count as usize).filter(|_| count < examples) {
            Some(example) => example.clone(),
            None => changed(&kept, &mut random),
        };
        count += 1;
        watch.about(&input);
        let before = cpu_time();
        let word = catch_unwind(AssertUnwindSafe(|| run(&input)))
            .unwrap_or_else(|_| panic!("{name} panicked, seed {seed}: the input is {}", saved(name, &input)));
        let took = cpu_time().saturating_sub(before);
        slowest = slowest.max(took);
        let most = MOST_TIME + MOST_TIME_OF_BYTE * u32::try_from(input.len()).unwrap_or(u32::MAX);
        assert!(took < most, "{name} took {took:?} of CPU time, {most:?} are allowed: {}", saved(name, &input));
        if words.insert(word) && count > examples && kept.len() < MOST_KEPT {
            kept.push(input);
        }
        if seconds.is_some() && count > WARM_UP && count % BATCH == 0 {
            let now = peak();
            let base = *base.get_or_insert(now);
            assert!(
                now < base + MOST_GROWTH,
                "{name} grew from {base} to {now} bytes after {count} inputs, seed {seed}"
            );
        }
    }
    drop(watch);
    let (words, kept) = (words.len(), kept.len());
    eprintln!(
        "{name}: seed {seed}, {count} inputs, {words} outcomes, {kept} kept, slowest {slowest:?}, peak {} MiB",
        peak() >> 20
    );
}

fn examples(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let examples: Vec<_> = files.iter().map(|file| fs::read(file).expect("an example")).collect();
    assert!(!examples.is_empty(), "{} is empty", folder.display());
    examples
}

fn changed(kept: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = kept.choose(random).cloned().unwrap_or_default();
    for _ in 0..1 << random.random_range(0..4) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..64)).min(input.len());
        match random.random_range(0..9) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => {
                let piece = PIECES.choose(random).copied().unwrap_or_default();
                input.splice(at..at, piece.bytes());
            }
            5 => {
                let piece = PIECES.choose(random).copied().unwrap_or_default();
                input.splice(at..end, piece.bytes());
            }
            // The same again and again: what costs more than linear time shows.
            6 => {
                let times = if random.random_bool(0.05) { 4_000 } else { random.random_range(2..40) };
                let piece = input[at..end].repeat(times);
                input.splice(at..at, piece);
            }
            7 => {
                let piece = PIECES.choose(random).copied().unwrap_or_default().repeat(random.random_range(2..200));
                input.splice(at..at, piece.bytes());
            }
            _ => {
                let other = kept.choose(random).map(Vec::as_slice).unwrap_or_default();
                let from = random.random_range(0..=other.len());
                input.splice(at..end, other[from..].iter().copied());
            }
        }
        input.truncate(MOST_BYTES);
    }
    input
}

fn saved(name: &str, input: &[u8]) -> String {
    let file = env::temp_dir().join(format!("ostler-{name}-{}", std::process::id()));
    let told = fs::write(&file, input).map_or_else(|error| error.to_string(), |()| file.display().to_string());
    format!("in {told}, {:?}…", String::from_utf8_lossy(&input[..input.len().min(200)]))
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The most memory that the process had since it was asked last, in bytes; 0 where the system doesn't tell.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10;
    // Sets the mark back.
    let _ = fs::write("/proc/self/clear_refs", "5");
    peak
}

/// Ends the process when one input takes too long, for nothing else can.
struct Watchdog {
    now: Arc<Mutex<(Instant, Vec<u8>)>>,
    _ends: mpsc::Sender<()>,
}

impl Watchdog {
    fn start(name: &str) -> Self {
        let now = Arc::new(Mutex::new((Instant::now(), Vec::new())));
        let (name, seen, (ends, ended)) = (name.to_owned(), Arc::clone(&now), mpsc::channel());
        thread::spawn(move || {
            while ended.recv_timeout(Duration::from_secs(5)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = seen.lock().expect("the input");
                if now.0.elapsed() > HANG {
                    eprintln!("{name} hangs: {}", saved(&name, &now.1));
                    std::process::abort();
                }
            }
        });
        Self { now, _ends: ends }
    }

    fn about(&self, input: &[u8]) {
        let mut now = self.now.lock().expect("the input");
        now.0 = Instant::now();
        now.1.clear();
        now.1.extend_from_slice(input);
    }
}
