//! The HTTP client that engines are spoken to with.

use std::time::Duration;

use reqwest::{Client, NoProxy, Proxy, redirect};

const CONNECT: Duration = Duration::from_secs(5);
/// Never through a proxy, whatever NO_PROXY says: this machine, and the addresses of private networks (RFC 1918, 6598, 3927,
/// 4193, 4291).
const PRIVATE: &str =
    "localhost,127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,169.254.0.0/16,fc00::/7,fe80::/10";

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{variable} can't be used as a proxy: {source}; correct or unset it")]
    Proxy { variable: &'static str, source: reqwest::Error },
    #[error("can't build an HTTP client: {0}")]
    Build(#[from] reqwest::Error),
}

/// A client without a total timeout: whoever asks says how long they wait. It follows no redirect, since an engine sends
/// none: prompts and keys would go to whatever answers there. The proxies of the environment (HTTP_PROXY, HTTPS_PROXY,
/// ALL_PROXY, NO_PROXY) are honored for public addresses and names.
pub fn http_client() -> Result<Client, ClientError> {
    // As curl: HTTP_PROXY in capitals could be a request's header in CGI, and is taken all the same, as most programs do.
    let set = |name: &str| {
        [name.to_ascii_lowercase(), name.to_owned()]
            .iter()
            .find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()))
    };
    let mut builder =
        Client::builder().connect_timeout(CONNECT).redirect(redirect::Policy::none()).referer(false).no_proxy();
    let without = NoProxy::from_string(&format!("{PRIVATE},{}", set("NO_PROXY").unwrap_or_default()));
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let Some(url) = set(variable) else { continue };
        let proxy = match variable {
            "HTTP_PROXY" => Proxy::http(url),
            "HTTPS_PROXY" => Proxy::https(url),
            _ => Proxy::all(url),
        };
        let proxy = proxy.map_err(|source| ClientError::Proxy { variable, source })?;
        builder = builder.proxy(proxy.no_proxy(without.clone()));
    }
    Ok(builder.build()?)
}
