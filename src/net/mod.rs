//! The one HTTP client for everything that Ostler asks: servers, host agents, webhooks, its own API. It follows no redirect, sends
//! no Referer, uses no proxy for local addresses, and reads nothing without a bound.

mod broken;
mod client;
mod names;
mod place;
mod reply;
#[cfg(test)]
pub mod testing;

pub use broken::{Broken, TlsFault, json_fault, root_cause};
pub use client::{ClientError, HttpClient, exporting};
pub use place::{is_local, shown};
pub use reply::{HttpReply, redirected};

/// Makes rustls use ring in this process. The one TLS stack is chosen here because reqwest and kube are built without a
/// default provider. Calling it twice does no harm.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
