//! The process's one HTTP client.

use reqwest::Client;

use super::CliError;
use crate::engines;

/// The client that engines are spoken to with, which is as good for agents, webhooks and the API.
pub fn http_client() -> Result<Client, CliError> {
    engines::http_client().map_err(|error| CliError::failed(error.to_string()))
}
