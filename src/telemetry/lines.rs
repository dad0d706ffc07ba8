//! How log lines are written: one event a line, whatever its fields hold, to a standard error that may be gone.

use std::{
    collections::HashSet,
    fmt,
    io::{self, Write},
};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::MakeExt,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{self, JsonFields, Writer},
    },
    registry::LookupSpan,
};

use crate::base::escape;

/// Fields as text, escaped.
pub fn text_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        let value = escape::for_line(&value);
        match field.name() {
            "message" => write!(writer, "{value}"),
            // What the `log` crate adds is told by the line itself.
            name if name.starts_with("log.") => Ok(()),
            name if writer.has_ansi_escapes() => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
            name => write!(writer, "{name}={value}"),
        }
    })
    .delimited(" ")
}

/// An object a line, with the fields of the event beside `timestamp`, `level`, `message` and `target`. No key stands there twice.
pub struct JsonLines;

const OWN: [&str; 6] = ["timestamp", "level", "message", "target", "span", "spans"];

impl<S: Subscriber + for<'l> LookupSpan<'l>> FormatEvent<S, JsonFields> for JsonLines {
    fn format_event(&self, ctx: &FmtContext<'_, S, JsonFields>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Map::new();
        line.insert("timestamp".into(), Timestamp::now().to_string().into());
        line.insert("level".into(), event.metadata().level().as_str().into());
        event.record(&mut Fields { line: &mut line, seen: HashSet::new() });
        line.insert("target".into(), event.metadata().target().into());
        let mut spans = Vec::new();
        for span in ctx.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>().map_or("", |fields| fields.fields.as_str());
            let mut fields: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
            fields.insert("name".into(), span.name().into());
            spans.push(Value::Object(fields));
        }
        if !spans.is_empty() {
            line.insert("spans".into(), spans.into());
        }
        writeln!(out, "{}", escape::for_json(Value::Object(line).to_string()))
    }
}

struct Fields<'a> {
    line: &'a mut Map<String, Value>,
    seen: HashSet<&'static str>,
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        let first = self.seen.insert(name);
        let key = match name {
            "message" if first => name.to_owned(),
            _ if name.starts_with("log.") => return,
            // A field that is called as the line's own goes beside it.
            _ if OWN.contains(&name) || self.line.contains_key(name) => format!("{name}_field"),
            _ => name.to_owned(),
        };
        self.line.insert(key, value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// Standard error. A log that nobody reads, or that has no room, is no reason to fail: the process does its work all the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lossy;

impl Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

impl MakeWriter<'_> for Lossy {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{Layer, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let lines = if json {
            lines.with_ansi(false).fmt_fields(JsonFields::new()).event_format(JsonLines).boxed()
        } else {
            lines.with_ansi(false).with_target(false).fmt_fields(text_fields()).boxed()
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    fn evil() {
        let span = tracing::info_span!("pass", name = "a\u{1b}[2J");
        let _within = span.enter();
        let (message, error) = ("it\nis\u{9b}31m", "x\u{202e}y");
        tracing::warn!(message, %error, target = "t", count = 3, "operation failed");
    }

    #[test]
    fn text_lines_are_one_line_each_and_steer_no_terminal() {
        let text = logged(false, evil);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("operation failed") && text.contains("count=3"), "{text}");
        assert!(text.contains("it\\nis\\u{9b}31m") || text.contains("it\\nis\\u009b31m"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text:?}");
    }

    #[test]
    fn json_lines_have_each_key_once_and_no_controls() {
        let text = logged(true, evil);
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text:?}");
        assert_eq!(text.matches("\"message\":").count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "operation failed");
        assert_eq!((&line["error"], &line["count"]), (&Value::from("x\u{202e}y"), &Value::from(3)));
        assert_eq!(line["message_field"], "it\nis\u{9b}31m");
        assert_eq!((&line["level"], &line["spans"][0]["name"]), (&"WARN".into(), &"pass".into()));
    }
}
