//! Tells whoever sits at this machine of what only a person can mend, where no Notifier does: by the desktop's own notifications.

use std::{collections::BTreeSet, process::Stdio, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Kind,
    base::tick,
    causes::{CauseSeverity, KnownCause, Letter, LetterItem, LetterWords, Telling},
    platform::Platform,
    store::Store,
};

const PERIOD: Duration = Duration::from_secs(10);
/// Such a program hands over what it says, and ends.
const PATIENCE: Duration = Duration::from_secs(5);
/// As an AppleScript that takes both texts as arguments.
const APPLE: [&str; 6] =
    ["-e", "on run argv", "-e", "display notification (item 2 of argv) with title (item 1 of argv)", "-e", "end run"];

/// What shows notifications here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desktop {
    Apple,
    Freedesktop,
}

impl Desktop {
    /// `None`: nobody sits here.
    pub fn of_session() -> Option<Self> {
        Self::of(cfg!(target_os = "macos"), |name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    }

    fn of(apple: bool, is_set: impl Fn(&str) -> bool) -> Option<Self> {
        match (apple, is_set("SSH_CONNECTION")) {
            (_, true) => None,
            (true, false) => Some(Self::Apple),
            (false, false) => (is_set("WAYLAND_DISPLAY") || is_set("DISPLAY")).then_some(Self::Freedesktop),
        }
    }

    /// Program and arguments: nothing of the texts is read by a shell.
    fn command(self, words: &LetterWords) -> (&'static str, Vec<String>) {
        let texts = [words.subject.clone(), words.text.clone()];
        match self {
            Self::Apple => ("osascript", APPLE.map(str::to_owned).into_iter().chain(texts).collect()),
            Self::Freedesktop => {
                let options = ["--app-name=Ostler", "--urgency=critical", "--"].map(str::to_owned);
                ("notify-send", options.into_iter().chain(texts).collect())
            }
        }
    }

    async fn show(self, words: &LetterWords) -> Result<(), String> {
        let (program, arguments) = self.command(words);
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(PATIENCE, command.status()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{program} ended with {status}")),
            Ok(Err(error)) => Err(format!("can't run {program}: {error}")),
            Err(_) => Err(format!("{program} did not end within {} s", PATIENCE.as_secs())),
        }
    }
}

/// Looks for causes until then.
pub async fn tell(desktop: Desktop, store: Arc<dyn Store>, platform: Arc<dyn Platform>, stop: CancellationToken) {
    let mut told = BTreeSet::new();
    while stop.run_until_cancelled(tick(PERIOD)).await.is_some() {
        let now = Timestamp::now();
        let Ok(causes) = store.causes(now).await else { continue };
        let fresh = fresh(&causes, &mut told, now);
        let is_told_elsewhere = platform.list(Kind::Notifier.as_str()).await.is_ok_and(|all| !all.is_empty());
        if is_told_elsewhere || fresh.items.is_empty() {
            continue;
        }
        if let Err(error) = desktop.show(&fresh.words()).await {
            tracing::debug!(error, "could not show a notification");
        }
    }
}

/// What only a person can mend, and was not told yet: by key and how often it came.
fn fresh(causes: &[KnownCause], told: &mut BTreeSet<(String, u32)>, now: Timestamp) -> Letter {
    let is_due = |known: &&KnownCause| {
        let cause = &known.cause;
        let is_time = cause.told_from().is_some_and(|at| at <= now) && cause.well_since.is_none();
        cause.is_root() && cause.severity == CauseSeverity::Critical && is_time
    };
    let due = causes.iter().filter(is_due).map(|known| known.cause.clone());
    let new = due.filter(|cause| told.insert((cause.key.clone(), cause.times)));
    let items = new.map(|cause| LetterItem { telling: Telling::Opened, due_at: now, cause }).collect();
    told.retain(|(key, _)| causes.iter().any(|known| known.cause.key == *key));
    Letter { at: now, items }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_sits_here_is_told_and_a_server_shows_nothing() {
        let of = |apple, set: &[&str]| Desktop::of(apple, |name| set.contains(&name));
        assert_eq!(of(true, &[]), Some(Desktop::Apple));
        assert_eq!(of(true, &["SSH_CONNECTION"]), None);
        assert_eq!(of(false, &["DISPLAY"]), Some(Desktop::Freedesktop));
        assert_eq!(of(false, &["WAYLAND_DISPLAY", "SSH_CONNECTION"]), None);
        assert_eq!(of(false, &[]), None);
    }

    #[test]
    fn texts_are_arguments_of_their_own() {
        let text = "--help; $(reboot) \" & do shell script".to_owned();
        let words = LetterWords { subject: text.clone(), text: text.clone(), severity: None };
        for desktop in [Desktop::Apple, Desktop::Freedesktop] {
            let (_, arguments) = desktop.command(&words);
            assert_eq!(arguments[arguments.len() - 2..], [text.clone(), text.clone()]);
            assert!(arguments[..arguments.len() - 2].iter().all(|argument| !argument.contains("reboot")));
        }
    }
}
