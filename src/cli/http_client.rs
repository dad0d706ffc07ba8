//! The process's one HTTP client.

use std::time::Duration;

use reqwest::{Client, NoProxy, Proxy};

use super::CliError;

const CONNECT: Duration = Duration::from_secs(10);
/// Never through a proxy, whatever NO_PROXY says: engines and agents of this machine.
const THIS_MACHINE: &str = "localhost,127.0.0.0/8,::1";

/// A client without a total timeout: whoever asks says how long they wait. The proxies of the environment (HTTP_PROXY,
/// HTTPS_PROXY, ALL_PROXY, NO_PROXY) are honored, but for this machine.
pub fn http_client() -> Result<Client, CliError> {
    // As curl: HTTP_PROXY in capitals could be a request's header in CGI, and is taken all the same, as most programs do.
    let set = |name: &str| {
        [name.to_ascii_lowercase(), name.to_owned()]
            .iter()
            .find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()))
    };
    let mut builder = Client::builder().connect_timeout(CONNECT).no_proxy();
    let without = NoProxy::from_string(&format!("{THIS_MACHINE},{}", set("NO_PROXY").unwrap_or_default()));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let Some(url) = set(name) else { continue };
        let proxy = match name {
            "HTTP_PROXY" => Proxy::http(url),
            "HTTPS_PROXY" => Proxy::https(url),
            _ => Proxy::all(url),
        };
        let proxy = proxy.map_err(|e| CliError::failed(format!("{name} can't be used: {e}; correct or unset it")))?;
        builder = builder.proxy(proxy.no_proxy(without.clone()));
    }
    builder.build().map_err(|e| CliError::failed(format!("can't build an HTTP client: {e}")))
}
