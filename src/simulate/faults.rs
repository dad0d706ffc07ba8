use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What goes wrong. As JSON `{"type": "status", "code": 500, "path": "/v1/models"}`, on the command line
/// `status:code=500,path=/v1/models`; either takes `for_seconds`, after which the fault is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Inference stands still, also what runs already; listings answer. As on Ollama, unloading the model ends it, unless told
    /// otherwise.
    HangInference {
        #[serde(default)]
        survives_unload: bool,
    },
    /// Connections are accepted, nothing is answered.
    Hang {},
    /// Nothing listens on the port, and what was connected is cut off.
    Refuse {},
    /// Each request's connection is reset.
    Reset {},
    /// The connection of an inference is reset after so many tokens.
    ResetAfter {
        tokens: u32,
    },
    /// An HTTP status in place of the answer, on one path or on all.
    Status {
        code: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_seconds: Option<u64>,
    },
    /// 200 and nothing, as mlx_lm answers on `/v1/models` without a hub cache.
    EmptyBody {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// 200 and what is no JSON.
    GarbageBody {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// Every answer comes late.
    Latency {
        millis: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    SlowTokens {
        tokens_per_second: f64,
    },
    /// Each inference yields so many tokens and then stands still.
    StallAfter {
        tokens: u32,
    },
    /// The server lists no models and knows none: Ollama run by the wrong user.
    NoModels {},
    /// One model is gone; a pull brings it back.
    MissingModel {
        model: String,
    },
    /// The process exits: at once, or as `Trigger` says.
    Crash {
        #[serde(default = "one")]
        exit_code: i32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_requests: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        above_in_flight: Option<usize>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_seconds: Option<f64>,
    },
    /// The engine's own message of memory exhaustion on standard error, then SIGKILL (exit code 137).
    OutOfMemory {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_requests: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        above_in_flight: Option<usize>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_seconds: Option<f64>,
    },
    /// A model takes so long to load.
    SlowLoad {
        seconds: f64,
    },
    SlowPull {
        seconds: f64,
    },
    FailPull {},
}

/// When a crash comes: at once, or as soon as one of these holds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Trigger {
    /// With the call after so many inference calls, counted since the fault was set.
    pub after_requests: Option<u64>,
    /// With more inference calls than this at a time.
    pub above_in_flight: Option<usize>,
    pub after_seconds: Option<f64>,
}

/// A fault that is set, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveFault {
    pub fault: Fault,
    pub lasts: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "fault {given} is not understood: {why}; write it like \"hang-inference\" or \"status:code=500,path=/v1/models\""
)]
pub struct FaultError {
    given: String,
    why: String,
}

fn one() -> i32 {
    1
}

const FOR_SECONDS: &str = "for_seconds";

impl Trigger {
    pub(super) fn is_now(&self) -> bool {
        *self == Trigger::default()
    }
}

impl Fault {
    pub fn lasting(self, time: Duration) -> ActiveFault {
        ActiveFault { fault: self, lasts: Some(time) }
    }

    pub fn crash(exit_code: i32, when: Trigger) -> Self {
        let Trigger { after_requests, above_in_flight, after_seconds } = when;
        Fault::Crash { exit_code, after_requests, above_in_flight, after_seconds }
    }

    pub fn out_of_memory(when: Trigger) -> Self {
        let Trigger { after_requests, above_in_flight, after_seconds } = when;
        Fault::OutOfMemory { after_requests, above_in_flight, after_seconds }
    }

    pub(super) fn trigger(&self) -> Option<Trigger> {
        match *self {
            Fault::Crash { after_requests, above_in_flight, after_seconds, .. }
            | Fault::OutOfMemory { after_requests, above_in_flight, after_seconds } => {
                Some(Trigger { after_requests, above_in_flight, after_seconds })
            }
            _ => None,
        }
    }

    /// Numbers that a duration or a status can't be made of are refused here, once.
    fn check(&self) -> Result<(), String> {
        let seconds = match self {
            Fault::SlowLoad { seconds } | Fault::SlowPull { seconds } => Some(*seconds),
            other => other.trigger().and_then(|when| when.after_seconds),
        };
        if let Some(seconds) = seconds {
            Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?;
        }
        match self {
            Fault::SlowTokens { tokens_per_second } if !(tokens_per_second.is_finite() && *tokens_per_second > 0.0) => {
                Err("tokens_per_second must be above 0".into())
            }
            Fault::Status { code, .. } if !(200..=599).contains(code) => Err("code must be 200 to 599".into()),
            _ => Ok(()),
        }
    }
}

impl From<Fault> for ActiveFault {
    fn from(fault: Fault) -> Self {
        Self { fault, lasts: None }
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
        if let Some(lasts) = self.lasts {
            value[FOR_SECONDS] = lasts.as_secs_f64().into();
        }
        value
    }

    fn from_fields(mut fields: Map<String, Value>) -> Result<Self, String> {
        let lasts = match fields.remove(FOR_SECONDS) {
            None => None,
            Some(seconds) => {
                let seconds = seconds.as_f64().ok_or("for_seconds must be a number")?;
                Some(Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?)
            }
        };
        let fault: Fault = serde_json::from_value(Value::Object(fields)).map_err(|e| e.to_string())?;
        fault.check()?;
        Ok(Self { fault, lasts })
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
    use super::*;
    use serde_json::json;

    #[test]
    fn a_fault_is_written_alike_on_the_command_line_and_in_json() {
        let status = Fault::Status { code: 429, path: Some("/v1/models".into()), retry_after_seconds: Some(7) };
        let crash = Fault::crash(1, Trigger { above_in_flight: Some(14), ..Trigger::default() });
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
            ("crash:above_in_flight=14", json!({"type": "crash", "above_in_flight": 14}), ActiveFault::from(crash)),
            (
                "missing-model:model=a:1",
                json!({"type": "missing-model", "model": "a:1"}),
                Fault::MissingModel { model: "a:1".into() }.into(),
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
            ("hang:path=/x", "path"),
            ("hang-inference:path=/x", "path"),
            ("slow-load:seconds=-1", "negative"),
            ("slow-tokens:tokens-per-second=0", "above 0"),
            ("refuse:for-seconds=soon", "for_seconds"),
            ("crash:after-second=1", "after_second"),
        ];
        for (text, why) in cases {
            let error = text.parse::<ActiveFault>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
