//! Asks a service whether it is up: any answer below 500 means so.

use reqwest::{Client, header};

use crate::{agent::config::CheckSpec, host::root_cause};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOutcome {
    pub ok: bool,
    /// It took the connection, and did not answer in time: busy or hung.
    pub timed_out: bool,
    pub detail: String,
}

pub async fn check(http: &Client, spec: &CheckSpec) -> CheckOutcome {
    let asked = http
        .get(spec.url.clone())
        // A kept connection would be one to the process before.
        .header(header::CONNECTION, "close")
        .timeout(spec.timeout)
        .send()
        .await;
    match asked {
        Ok(answer) => {
            let status = answer.status().as_u16();
            CheckOutcome { ok: status < 500, timed_out: false, detail: format!("HTTP {status}") }
        }
        Err(e) if e.is_timeout() => CheckOutcome {
            ok: false,
            timed_out: true,
            detail: format!("no answer within {} s", spec.timeout.as_secs()),
        },
        Err(e) => CheckOutcome { ok: false, timed_out: false, detail: root_cause(&e) },
    }
}
