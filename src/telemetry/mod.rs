//! Metrics, tracing, and which loops are alive.

mod crash;

pub use crash::crash_point;

/// Makes rustls use ring in this process. The one TLS stack is chosen here because reqwest and kube are built without a
/// default provider. Calling it twice does no harm.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
