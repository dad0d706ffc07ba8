//! Scripts of servers: how one behaves at each second, in each of its processes.

use super::*;

/// How a server behaves at a moment of one process's life.
#[derive(Clone, Debug)]
pub struct Behavior {
    pub probe: ProbeVerdict,
    pub reply: Reply,
    /// Its processes use CPU beside what our calls make them use.
    pub works: bool,
    /// The process is gone.
    pub dead: bool,
}

/// What an inference gets.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Bytes each second after `first` seconds, until `total` seconds.
    Served {
        first: i64,
        total: i64,
    },
    /// The model has to be loaded first: so many seconds after the process began at the earliest.
    Loads {
        seconds: i64,
    },
    Fails(Failure),
    /// Comments only, then tokens.
    Keepalive {
        seconds: i64,
    },
    /// Not a byte; open calls stop getting any.
    Silent,
}

impl Behavior {
    pub fn well() -> Self {
        Self { probe: listing(), reply: Reply::Served { first: 0, total: 1 }, works: false, dead: false }
    }

    pub fn served(&self) -> (i64, i64) {
        match self.reply {
            Reply::Served { first, total } => (first, total),
            _ => (0, 1),
        }
    }

    pub fn replies(reply: Reply) -> Self {
        Self { reply, ..Self::well() }
    }

    pub fn probes(probe: ProbeVerdict) -> Self {
        Self { probe, ..Self::well() }
    }

    pub fn dead() -> Self {
        let probe = ProbeVerdict::Refused;
        Self { probe, reply: Reply::Fails(Failure::Refused), works: false, dead: true }
    }
}

/// A script: how the server behaves at a second, in its n-th process (0 at first).
pub type Script = Box<dyn Fn(Moment) -> Behavior>;

#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub second: i64,
    pub process: i64,
    /// Unloaded so often.
    pub unloads: usize,
}

/// Changes what is observed before it is judged: a rule that is broken on purpose.
pub type Tamper = fn(&mut BackendFacts, Timestamp);

/// What a call gets in one second.
pub enum CallStep {
    Nothing,
    Byte,
    Ends(Result<(), Failure>),
}
