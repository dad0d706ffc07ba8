//! Which connections are open, and which of them makes room.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Limits, Told};

/// What a connection is at.
#[derive(Debug)]
pub struct ConnectionActivity {
    now: Mutex<Now>,
    /// Told when a deadline may have come nearer.
    pub changed: Notify,
    /// The body of a request was not read to its end: the peer may still be sending it.
    left_unread: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Now {
    /// Requests that are answered: one, for a connection has no second at a time.
    in_flight: usize,
    /// When it last began or ended something.
    since: Instant,
    /// When the first byte of the request came whose head is not complete.
    head: Option<Instant>,
    /// Since when the peer reads nothing of what it was sent.
    unread: Option<Instant>,
    /// It has sent a request.
    is_used: bool,
}

impl ConnectionActivity {
    fn new() -> Self {
        let now = Now { in_flight: 0, since: Instant::now(), head: None, unread: None, is_used: false };
        Self { now: Mutex::new(now), changed: Notify::new(), left_unread: AtomicBool::new(false) }
    }

    /// Bytes came.
    pub fn read(&self) {
        let mut now = self.now.lock();
        if now.in_flight == 0 && now.head.is_none() {
            now.head = Some(Instant::now());
            drop(now);
            self.changed.notify_one();
        }
    }

    /// The peer took bytes, or takes none now.
    pub fn wrote(&self, took: bool) {
        let mut now = self.now.lock();
        if took {
            now.unread = None;
            now.since = Instant::now();
        } else if now.unread.is_none() {
            now.unread = Some(Instant::now());
            drop(now);
            self.changed.notify_one();
        }
    }

    pub fn left_unread(&self) {
        self.left_unread.store(true, Relaxed);
    }

    pub fn has_left_unread(&self) -> bool {
        self.left_unread.load(Relaxed)
    }

    /// A request begins; it ends when what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        let mut now = self.now.lock();
        now.in_flight += 1;
        now.head = None;
        now.is_used = true;
        InFlight(Arc::clone(self))
    }

    /// When it must have come further, unless something changes before.
    pub fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let now = *self.now.lock();
        let unread = now.unread.map(|since| since + limits.unread);
        let next = match (now.in_flight, now.head) {
            (0, Some(began)) => Some(began + limits.head),
            (0, None) if now.is_used => Some(now.since + limits.idle),
            (0, None) => Some(now.since + limits.head),
            _ => None,
        };
        [unread, next].into_iter().flatten().min()
    }

    /// Since when it has been without a request.
    fn idle_since(&self) -> Option<Instant> {
        let now = *self.now.lock();
        (now.in_flight == 0).then_some(now.since)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct InFlight(Arc<ConnectionActivity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut now = self.0.now.lock();
        now.in_flight -= 1;
        now.since = Instant::now();
        drop(now);
        self.0.changed.notify_one();
    }
}

/// The open connections of a listener.
#[derive(Clone, Debug)]
pub struct ConnectionSlots {
    limits: Limits,
    open: Arc<Mutex<Open>>,
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Entry>,
    told: Told,
}

#[derive(Debug)]
struct Entry {
    peer: IpAddr,
    activity: Arc<ConnectionActivity>,
    evicted: CancellationToken,
}

impl ConnectionSlots {
    pub fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default(), closing: CancellationToken::new() }
    }

    /// A slot for a new connection. `None`: as many have requests in flight as may be open.
    pub fn take(&self, peer: IpAddr) -> Option<ConnectionSlot> {
        let peer = network(peer);
        let mut open = self.open.lock();
        let of_peer = open.connections.values().filter(|entry| entry.peer == peer).count();
        if of_peer >= self.limits.per_peer {
            open.evict(Some(peer))?;
        } else if open.connections.len() >= self.limits.connections {
            open.evict(None)?;
        }
        let (id, activity, evicted) = (open.next, Arc::new(ConnectionActivity::new()), self.closing.child_token());
        open.next += 1;
        open.connections.insert(id, Entry { peer, activity: Arc::clone(&activity), evicted: evicted.clone() });
        drop(open);
        Some(ConnectionSlot { id, slots: self.clone(), activity, evicted })
    }

    /// Closes the connection that has been idle for longest, if there is one.
    pub fn evict_idle(&self) -> bool {
        self.open.lock().evict(None).is_some()
    }

    pub fn open(&self) -> usize {
        self.open.lock().connections.len()
    }

    pub fn close_all(&self) {
        self.closing.cancel();
    }
}

impl Open {
    /// Makes room: closes the longest idle connection of a peer; without one, of the peer that has the most. `None`: all are at work.
    fn evict(&mut self, peer: Option<IpAddr>) -> Option<()> {
        let mut of_peer: HashMap<IpAddr, usize> = HashMap::new();
        for entry in self.connections.values() {
            *of_peer.entry(entry.peer).or_default() += 1;
        }
        let candidates = self.connections.iter().filter(|(_, entry)| peer.is_none_or(|wanted| entry.peer == wanted));
        let idle = candidates.filter_map(|(id, entry)| Some((*id, entry.peer, entry.activity.idle_since()?)));
        let found = idle.max_by_key(|(id, peer, since)| (of_peer.get(peer).copied(), Reverse((*since, *id))));
        let evicted = found.and_then(|(id, ..)| self.connections.remove(&id));
        if self.told.is_due() {
            let open = self.connections.len();
            match &evicted {
                Some(entry) => {
                    tracing::warn!(open, peer = %entry.peer, "too many connections: closing those that are idle for longest");
                }
                None => tracing::warn!(open, ?peer, "too many connections with open requests: refusing new ones"),
            }
        }
        evicted.map(|entry| entry.evicted.cancel())
    }
}

/// A connection's place among the open ones, until dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    id: u64,
    slots: ConnectionSlots,
    pub activity: Arc<ConnectionActivity>,
    /// Another connection got its place, or the server ends.
    pub evicted: CancellationToken,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.open.lock().connections.remove(&self.id);
    }
}

/// What counts as one peer: who has an IPv6 address has 2⁶⁴ of them.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn slots() -> ConnectionSlots {
        ConnectionSlots::new(Limits { connections: 4, per_peer: 3, ..Limits::of_process() })
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn there(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test]
    async fn the_longest_idle_connection_of_the_same_peer_makes_room() {
        let slots = slots();
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(slots.take(HERE).unwrap());
        }
        let other = slots.take(there(1)).unwrap();
        let answering = taken[0].activity.begin();
        let fourth = slots.take(HERE).expect("the second makes room");
        let evicted: Vec<bool> = taken.iter().map(|slot| slot.evicted.is_cancelled()).collect();
        assert_eq!((evicted, other.evicted.is_cancelled()), (vec![false, true, false], false));
        assert_eq!(slots.open(), 4);
        drop((answering, fourth, taken));
        assert_eq!(slots.open(), 1);
    }

    #[tokio::test]
    async fn who_has_the_most_makes_room_for_others() {
        let slots = slots();
        let many = [slots.take(HERE).unwrap(), slots.take(HERE).unwrap(), slots.take(HERE).unwrap()];
        let _one = slots.take(there(1)).unwrap();
        let _new = slots.take(there(2)).expect("somebody makes room");
        assert_eq!(many.iter().filter(|slot| slot.evicted.is_cancelled()).count(), 1);
    }

    #[tokio::test]
    async fn what_is_at_work_is_never_closed_for_another() {
        let slots = slots();
        let taken: Vec<ConnectionSlot> = (0..3).map(|_| slots.take(HERE).unwrap()).collect();
        let _at_work: Vec<InFlight> = taken.iter().map(|slot| slot.activity.begin()).collect();
        assert!(slots.take(HERE).is_none());
        assert!(slots.take(there(1)).is_some());
        assert!(taken.iter().all(|slot| !slot.evicted.is_cancelled()));
    }

    #[tokio::test]
    async fn each_step_of_a_connection_has_its_time() {
        let limits = Limits::of_process();
        let slot = slots().take(HERE).unwrap();
        let activity = &slot.activity;
        // Between `since` and now, both later by `allowed`.
        let is_due = |since: Instant, allowed: Duration| {
            let deadline = activity.deadline(&limits).expect("a deadline");
            deadline >= since + allowed && deadline <= Instant::now() + allowed
        };
        assert!(activity.deadline(&limits).unwrap() <= Instant::now() + limits.head, "a new one");
        let since = Instant::now();
        activity.read();
        assert!(is_due(since, limits.head), "a head");
        let first = activity.deadline(&limits);
        activity.read();
        assert_eq!(activity.deadline(&limits), first, "byte by byte");
        let answering = activity.begin();
        assert_eq!(activity.deadline(&limits), None, "a request");
        let since = Instant::now();
        activity.wrote(false);
        assert!(is_due(since, limits.unread), "an answer that nobody reads");
        activity.wrote(true);
        let since = Instant::now();
        drop(answering);
        assert!(is_due(since, limits.idle), "after it");
    }

    #[test]
    fn one_network_is_one_peer() {
        let peer = |text: &str| network(text.parse().unwrap());
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:0:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:192.0.2.1"), there(1));
    }
}
