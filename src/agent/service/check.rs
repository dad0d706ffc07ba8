//! Asks a service whether it is up: any answer below 500 means so.

use reqwest::header;

use super::{error::ServiceError, launch::Launcher};
use crate::{
    agent::config::{CheckSpec, CommandSpec},
    net::{Broken, HttpClient},
};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOutcome {
    pub ok: bool,
    /// It took the connection, and did not answer in time: busy or hung.
    pub timed_out: bool,
    pub detail: String,
}

/// The status alone is read, and where it redirects to is not asked.
pub async fn check(http: &HttpClient, spec: &CheckSpec) -> CheckOutcome {
    // A kept connection would be one to the process before.
    let request = http.get(&spec.url).header(header::CONNECTION, "close");
    match http.send_within(request, spec.timeout).await {
        Ok(reply) => {
            let status = reply.status().as_u16();
            CheckOutcome { ok: status < 500, timed_out: false, detail: format!("HTTP {status}") }
        }
        Err(Broken::Timeout) => CheckOutcome {
            ok: false,
            timed_out: true,
            detail: format!("no answer within {} s", spec.timeout.as_secs()),
        },
        Err(broken) => CheckOutcome { ok: false, timed_out: false, detail: broken.to_string() },
    }
}

/// Whether the status command says that the service is up; `None` without such a command.
pub async fn status(launcher: &Launcher, status: Option<&CommandSpec>) -> Result<Option<bool>, ServiceError> {
    match status {
        None => Ok(None),
        Some(spec) => Ok(Some(launcher.run(spec).await?.succeeded())),
    }
}
