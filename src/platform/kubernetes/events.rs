//! Publishes Events; the same one again is counted.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use parking_lot::Mutex;

use super::error::answer;
use crate::{
    api::API_VERSION,
    platform::{Note, ObjectId, PlatformError},
};

/// How long an Event is counted on, as in kube and client-go.
const SERIES: Duration = Duration::from_mins(6);
/// Events may say this much (events.k8s.io).
const NOTE_BYTES: usize = 1024;

/// Publishes as one reporter.
pub struct Events {
    client: Client,
    reporter: Reporter,
    /// kube's recorder counts together whatever has the same reason, and keeps the first text: "restart 1 of 3", three
    /// times. So each text has a recorder of its own.
    recorders: Mutex<HashMap<String, (Recorder, Instant)>>,
}

impl Events {
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: "ostler.dev/controller".to_owned(), instance: Some(instance.to_owned()) };
        Self { client, reporter, recorders: Mutex::default() }
    }

    pub async fn publish(&self, about: &ObjectId, note: &Note) -> Result<(), PlatformError> {
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.clone(),
            note: Some(shortened(&note.message)),
            action: note.action.clone(),
            secondary: None,
        };
        // Without a resourceVersion: events of all versions of an object are counted together.
        let reference = ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(about.kind.clone()),
            namespace: Some(about.namespace.clone()),
            name: Some(about.name.clone()),
            uid: Some(about.uid.clone()),
            ..ObjectReference::default()
        };
        let recorder = self.recorder(&note.message);
        let attempt = format!("event {} about {}", note.reason, about.key());
        answer(attempt, recorder.publish(&event, &reference)).await
    }

    fn recorder(&self, text: &str) -> Recorder {
        let now = Instant::now();
        let mut recorders = self.recorders.lock();
        recorders.retain(|_, (_, used)| now.duration_since(*used) < SERIES);
        let new = || (Recorder::new(self.client.clone(), self.reporter.clone()), now);
        let (recorder, used) = recorders.entry(text.to_owned()).or_insert_with(new);
        *used = now;
        recorder.clone()
    }
}

fn shortened(message: &str) -> String {
    if message.len() <= NOTE_BYTES {
        return message.to_owned();
    }
    let end = (0..=NOTE_BYTES - '…'.len_utf8()).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "ä".repeat(2000);
        let cut = shortened(&long);
        assert!(cut.len() <= NOTE_BYTES && cut.ends_with("ä…"), "{}", cut.len());
        assert_eq!(shortened("short"), "short");
    }
}
