//! A certificate that can be renewed while connections are open.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// PEM files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Certificate and key of a listener.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<TlsAcceptor>>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Tls {
    /// Of PEM files.
    pub fn read(cert: &Path, key: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(RwLock::new(acceptor(cert, key)?))))
    }

    /// Takes up what the files contain now; when they can't be read, the former certificate stays in force.
    pub fn renew(&self, cert: &Path, key: &Path) -> io::Result<()> {
        let renewed = acceptor(cert, key)?;
        *self.0.write() = renewed;
        Ok(())
    }

    /// Takes up a renewed certificate, until `shutdown`; one that can't be read leaves the old one in force.
    pub async fn keep_renewed(self, files: TlsFiles, shutdown: CancellationToken) {
        let age = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        let both = || (age(&files.cert), age(&files.key));
        let mut seen = both();
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_AGAIN)).await.is_some() {
            let now = both();
            if now != seen {
                match self.renew(&files.cert, &files.key) {
                    Ok(()) => tracing::info!(cert = %files.cert.display(), "certificate renewed"),
                    Err(error) => {
                        tracing::error!(cert = %files.cert.display(), %error, "cannot use the new certificate; keeping the old one")
                    }
                }
                seen = now;
            }
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.read().clone()
    }
}

fn acceptor(cert: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    let certs = CertificateDer::pem_file_iter(cert).map_err(io::Error::other)?;
    let certs = certs.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key))
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
