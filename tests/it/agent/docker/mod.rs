//! The agent's Docker side, on a real engine.

mod bench;
mod composing;
mod contained;
mod crashes;
mod engines;
mod evidence;
mod life;
mod refusing;
mod sockets;
