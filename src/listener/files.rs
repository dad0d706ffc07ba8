//! How many files this process may open. Shells and service managers often allow 256 or 1,024 and permit more on demand.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// macOS permits no more, whatever its hard limit says.
const OPEN_MAX: u64 = 10_240;
/// Assumed where the system does not tell.
const USUAL: u64 = 256;

static AT_START: OnceLock<u64> = OnceLock::new();

/// Raises the limit as far as the system permits it without privileges; for processes that serve.
pub fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    AT_START.get_or_init(|| soft);
    if soft >= hard {
        return;
    }
    let raised = [hard, hard.min(OPEN_MAX)].into_iter().filter(|wanted| *wanted > soft);
    let mut errors = raised.map(|wanted| setrlimit(Resource::RLIMIT_NOFILE, wanted, hard));
    if !errors.any(|tried| tried.is_ok()) {
        tracing::warn!(
            soft,
            hard,
            "can't raise the limit of open files; `ulimit -n` of whoever starts this process counts"
        );
    }
}

/// The limit before it was raised: what the programs that this process starts get, for some can't deal with more than a thousand.
/// `None`: it was not raised.
pub fn open_files_at_start() -> Option<u64> {
    AT_START.get().copied()
}

/// Sets the limit of this process and of those that it becomes.
pub fn limit_open_files(soft: u64) {
    let set = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard));
    if let Err(error) = set {
        tracing::warn!(soft, %error, "can't set the limit of open files");
    }
}

/// As many as this process may open now.
pub(super) fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft)
}
