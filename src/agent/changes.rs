//! Tells those who wait for a report that something of a service may have changed.

use std::sync::Arc;

use tokio::sync::watch;

/// One of these is shared by all services of an agent.
#[derive(Clone, Debug)]
pub struct Changes {
    count: Arc<watch::Sender<u64>>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { count: Arc::new(watch::Sender::new(0)) }
    }
}

impl Changes {
    /// Something may have changed: who waits looks again. Cheap, and harmless when nothing has.
    pub fn tell(&self) {
        self.count.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Another number: something may have changed meanwhile.
    pub fn count(&self) -> u64 {
        *self.count.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }
}
