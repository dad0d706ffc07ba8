//! Certificate and key of what `controller` and `gateway` expose.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::CliError;
use crate::listener::{Tls, TlsFiles};

// No doc comment: clap would show it in place of the command's own.
#[derive(Debug, Default, clap::Args)]
pub struct TlsArgs {
    /// Certificate chain (PEM); a newer one is taken up while running
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads both files, and follows their changes until `shutdown`. `None`: no TLS was asked for.
    pub fn read(self, shutdown: &CancellationToken) -> Result<Option<Tls>, CliError> {
        let (Some(cert), Some(key)) = (self.tls_cert, self.tls_key) else { return Ok(None) };
        let tls = Tls::read(&cert, &key).map_err(|error| {
            CliError::failed(format!(
                "can't use the certificate {} with the key {}: {error}; both must be PEM files that belong together",
                cert.display(),
                key.display()
            ))
        })?;
        tokio::spawn(tls.clone().keep_renewed(TlsFiles { cert, key }, shutdown.clone()));
        Ok(Some(tls))
    }
}
