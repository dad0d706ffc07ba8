use super::CliError;
use crate::net::HttpClient;

/// The client for everything that this process asks.
pub fn http_client() -> Result<HttpClient, CliError> {
    HttpClient::new().map_err(|error| CliError::failed(error.to_string()))
}
