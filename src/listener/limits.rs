//! What a peer may hold.

use std::time::Duration;

use super::files;

/// Bounds of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Open connections of one peer: an IPv4 address, or an IPv6 network of 64 bits.
    pub per_peer: usize,
    /// From a request's first byte, or a new connection, to the end of the head; a TLS handshake has as long.
    pub head: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Between two parts of a body.
    pub body_gap: Duration,
    /// For a whole body.
    pub body: Duration,
    /// Without the peer reading any of an answer.
    pub unread: Duration,
    /// How long open requests may take when the server ends.
    pub drain: Duration,
}

const MOST_CONNECTIONS: usize = 512;
const LEAST_CONNECTIONS: usize = 16;
/// One of so many descriptors is for the connections of a listener; the rest is for the process' own work: the database, probes, logs,
/// the processes that it starts, and the other listeners of an `ostler up`.
const SHARE: u64 = 8;

impl Limits {
    /// With the descriptors that this process may open now.
    pub fn of_process() -> Self {
        Self::of_files(files::open_files())
    }

    fn of_files(files: u64) -> Self {
        let share = usize::try_from(files / SHARE).unwrap_or(MOST_CONNECTIONS);
        let connections = share.clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS);
        Self {
            connections,
            per_peer: connections / 2,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_gap: Duration::from_secs(10),
            body: Duration::from_secs(120),
            unread: Duration::from_secs(60),
            drain: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_descriptors_stay_for_the_process_own_work() {
        for (files, connections) in [(64, 16), (256, 32), (1024, 128), (524_288, 512), (u64::MAX, 512)] {
            let limits = Limits::of_files(files);
            assert_eq!((limits.connections, limits.per_peer), (connections, connections / 2), "{files} files");
        }
    }
}
