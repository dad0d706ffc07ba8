//! Causes: which unhealthy objects have one reason, who has to act, who is told of it, when, and in which words. Pure: whoever asks brings
//! facts and time.
//!
//! [`derive`] finds the causes of what is seen now, [`follow`] compares them with those that are known, [`due`] says what is to be told to
//! whom, [`Letter`] puts it in words, and [`night`] reports a span of time.

mod cause;
mod derive;
mod fact;
mod follow;
mod letter;
mod night;
mod telling;
#[cfg(test)]
mod tests;

pub use cause::{
    Acknowledgment, Cause, CauseClass, CauseSeverity, KnownCause, WhoActs, clean, group_key, named, object_key,
};
pub use derive::{DerivedCause, derive};
pub use fact::{CauseFact, CauseFacts, CauseHealth, CauseTrouble};
pub use follow::{AGAIN_WITHIN, follow};
pub use letter::{Letter, LetterItem, LetterWords};
pub use night::{NightReport, night};
pub use telling::{Audience, Delivery, QuietTime, Telling, due};
