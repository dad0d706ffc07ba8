//! A fault with its time: how both are written, and when the fault is in force.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::faults::{Fault, duration};

/// When a fault is in force: it begins at once, or as soon as one of the first three holds; calls are inference calls.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct When {
    pub after_seconds: Option<f64>,
    /// With the call after so many, counted since the fault was set.
    pub after_requests: Option<u64>,
    /// With more calls than this at a time.
    pub above_in_flight: Option<usize>,
    /// Once begun it ends after so long, or after so many calls.
    pub for_seconds: Option<f64>,
    pub for_requests: Option<u64>,
    /// Once begun it is in force while at least so many calls are open.
    pub while_in_flight: Option<usize>,
    /// Only in the first so many starts of the process, which `--state-file` counts.
    pub starts: Option<u64>,
}

const KEYS: [&str; 7] =
    ["after_seconds", "after_requests", "above_in_flight", "for_seconds", "for_requests", "while_in_flight", "starts"];

impl When {
    /// It waits for nothing.
    pub(super) fn begins_at_once(&self) -> bool {
        self.after_seconds.is_none() && self.after_requests.is_none() && self.above_in_flight.is_none()
    }

    fn check(&self) -> Result<(), String> {
        for seconds in [self.after_seconds, self.for_seconds].into_iter().flatten() {
            duration(seconds)?;
        }
        Ok(())
    }
}

/// A fault that is set, and when it is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveFault {
    pub fault: Fault,
    pub when: When,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't read fault {given}: {why}; write it like \"hang-inference\" or \"status:code=500,path=/v1/models\"")]
pub struct FaultError {
    given: String,
    why: String,
}

impl From<Fault> for ActiveFault {
    fn from(fault: Fault) -> Self {
        Self { fault, when: When::default() }
    }
}

impl ActiveFault {
    /// From an object, or from a string as on the command line.
    pub fn from_json(value: &Value) -> Result<Self, FaultError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Object(fields) => {
                Self::from_fields(fields.clone()).map_err(|why| FaultError { given: value.to_string(), why })
            }
            other => Err(FaultError { given: other.to_string(), why: "it is no object and no string".into() }),
        }
    }

    pub fn to_json(&self) -> Value {
        let mut value = serde_json::to_value(&self.fault).unwrap_or_default();
        if let (Some(fields), Ok(Value::Object(when))) = (value.as_object_mut(), serde_json::to_value(self.when)) {
            fields.extend(when);
        }
        value
    }

    fn from_fields(mut fields: Map<String, Value>) -> Result<Self, String> {
        let mut when = Map::new();
        for key in KEYS {
            if let Some(value) = fields.remove(key) {
                // serde names the type that it wants, but not the field.
                serde_json::from_value::<When>(Value::Object(Map::from_iter([(key.to_owned(), value.clone())])))
                    .map_err(|error| format!("{key}: {error}"))?;
                when.insert(key.to_owned(), value);
            }
        }
        let when: When = serde_json::from_value(Value::Object(when)).map_err(|error| error.to_string())?;
        when.check()?;
        let fault: Fault = serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
        fault.check()?;
        Ok(Self { fault, when })
    }
}

impl FromStr for ActiveFault {
    type Err = FaultError;

    /// `NAME` or `NAME:key=value,…`; keys may be written with dashes, values are numbers, booleans or words.
    fn from_str(text: &str) -> Result<Self, FaultError> {
        let failed = |why: String| FaultError { given: format!("{text:?}"), why };
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut fields = Map::new();
        for pair in rest.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| failed(format!("{pair:?} lacks a value")))?;
            let number = value.parse::<u64>().map(Value::from).or_else(|_| value.parse::<f64>().map(Value::from));
            let value =
                number.or_else(|_| value.parse::<bool>().map(Value::from)).unwrap_or_else(|_| Value::from(value));
            fields.insert(key.trim().replace('-', "_"), value);
        }
        fields.insert("type".into(), name.trim().into());
        Self::from_fields(fields).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::replies::Like;
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_fault_is_written_alike_on_the_command_line_and_in_json() {
        let status = Fault::Status { code: 429, path: Some("/v1/models".into()), retry_after_seconds: Some(7) };
        let crash = Fault::Crash { exit_code: 1 }.when(When { above_in_flight: Some(14), ..When::default() });
        let reply = Fault::Reply {
            like: Like::LoadFailed,
            path: None,
            model: Some("a:1".into()),
            contains: None,
            below_tokens: None,
        };
        let first = When { for_requests: Some(2), starts: Some(1), ..When::default() };
        let busy = When { while_in_flight: Some(1), ..When::default() };
        let cases = [
            (
                "hang-inference",
                json!({"type": "hang-inference"}),
                Fault::HangInference { survives_unload: false }.into(),
            ),
            (
                "hang-inference:survives-unload=true",
                json!({"type": "hang-inference", "survives_unload": true}),
                Fault::HangInference { survives_unload: true }.into(),
            ),
            (
                "refuse:for-seconds=2.5",
                json!({"type": "refuse", "for_seconds": 2.5}),
                Fault::Refuse {}.lasting(Duration::from_millis(2500)),
            ),
            (
                "status:code=429,path=/v1/models,retry-after-seconds=7",
                json!({"type": "status", "code": 429, "path": "/v1/models", "retry_after_seconds": 7}),
                status.into(),
            ),
            ("crash:above_in_flight=14", json!({"type": "crash", "above_in_flight": 14}), crash),
            (
                "missing-model:model=a:1",
                json!({"type": "missing-model", "model": "a:1"}),
                Fault::MissingModel { model: "a:1".into() }.into(),
            ),
            (
                "reply:like=load-failed,model=a:1,for-requests=2,starts=1",
                json!({"type": "reply", "like": "load-failed", "model": "a:1", "for_requests": 2, "starts": 1}),
                reply.when(first),
            ),
            (
                "hang:path=listings,while-in-flight=1",
                json!({"type": "hang", "path": "listings", "while_in_flight": 1}),
                Fault::Hang { path: Some("listings".into()) }.when(busy),
            ),
        ];
        for (text, value, fault) in cases {
            assert_eq!(text.parse::<ActiveFault>().as_ref(), Ok(&fault), "{text}");
            assert_eq!(ActiveFault::from_json(&value).as_ref(), Ok(&fault), "{value}");
            assert_eq!(ActiveFault::from_json(&json!(text)).as_ref(), Ok(&fault));
            assert_eq!(ActiveFault::from_json(&fault.to_json()).as_ref(), Ok(&fault), "round trip");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_reason() {
        let cases = [
            ("explode", "explode"),
            ("status", "code"),
            ("status:code=99", "200 to 599"),
            ("status:code", "lacks a value"),
            ("refuse:path=/x", "path"),
            ("hang-inference:path=/x", "path"),
            ("slow-load:seconds=-1", "negative"),
            ("slow-tokens:tokens-per-second=0", "above 0"),
            ("prefill", "one of seconds and tokens_per_second"),
            ("prefill:seconds=1,tokens-per-second=1", "one of seconds and tokens_per_second"),
            ("reply:like=nothing", "loading-model"),
            ("stream:shape=nothing", "error-field"),
            ("redirect:to=login,code=200", "300 to 399"),
            ("refuse:for-seconds=soon", "for_seconds"),
            ("refuse:after-seconds=-1", "negative"),
            ("crash:after-second=1", "after_second"),
        ];
        for (text, why) in cases {
            let error = text.parse::<ActiveFault>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
