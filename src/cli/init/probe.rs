//! Which inference servers answer on this machine.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use serde_json::Value;

use super::super::process::{PortHolder, port_owner};
use crate::{api::EngineKind, net::HttpClient};

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_LISTING_BYTES: usize = 8 << 20;
/// Ports on which such servers listen unless told otherwise: Ollama, MLX (mlx-lm's own, and the one that stands beside
/// Ollama's), vLLM, LM Studio, SGLang.
const PORTS: [u16; 6] = [11434, 11435, 8080, 8000, 1234, 30000];

/// A server that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedServer {
    pub engine: EngineKind,
    pub address: SocketAddr,
    /// As the server lists them.
    pub models: Vec<String>,
    pub owner: Option<PortHolder>,
}

impl ProbedServer {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Asks every usual port, and that of OLLAMA_HOST.
pub async fn servers(http: &HttpClient) -> Vec<ProbedServer> {
    let given = std::env::var("OLLAMA_HOST").ok().and_then(|text| ollama_host(&text));
    let mut all: Vec<SocketAddr> = PORTS.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
    all.extend(given.filter(|address| !all.contains(address)));
    join_all(all.into_iter().map(|address| server(http, address))).await.into_iter().flatten().collect()
}

/// As Ollama reads its own variable: `[http://]host[:port]`, 0.0.0.0 meaning this machine. Other hosts are not of this machine.
fn ollama_host(text: &str) -> Option<SocketAddr> {
    let host = text.trim().trim_start_matches("http://").trim_end_matches('/');
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (host, 11434),
    };
    match host {
        "" | "0.0.0.0" | "localhost" => Some(SocketAddr::from(([127, 0, 0, 1], port))),
        host => host.parse().ok().map(|ip| SocketAddr::new(ip, port)).filter(|a: &SocketAddr| a.ip().is_loopback()),
    }
}

async fn server(http: &HttpClient, address: SocketAddr) -> Option<ProbedServer> {
    let owner = port_owner(address);
    let get = async |path: &str| {
        // A gateway takes this for a call of its own, and refuses it: it is no engine.
        let asked = http.get(format!("http://{address}{path}")).header("ostler-call-id", "init");
        let reply = http.send_within(asked, TIMEOUT).await.ok()?;
        if !reply.status().is_success() {
            return None;
        }
        reply.whole(MAX_LISTING_BYTES).await.ok()
    };
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    if let Some(tags) = get("/api/tags").await.and_then(|b| json(&b)).filter(|tags| tags.get("models").is_some()) {
        return Some(ProbedServer {
            engine: EngineKind::Ollama,
            address,
            models: names(&tags, "models", "name"),
            owner,
        });
    }
    let listing = get("/v1/models").await?;
    let models = json(&listing).map(|v| names(&v, "data", "id"));
    let is_mlx = owner.as_ref().and_then(|o| o.command.as_deref()).is_some_and(|c| c.contains("mlx"));
    match (is_mlx, models) {
        // MLX answers 200 with an empty body when the folder of its model hub is missing.
        (true, models) => {
            Some(ProbedServer { engine: EngineKind::Mlx, address, models: models.unwrap_or_default(), owner })
        }
        (false, Some(models)) => Some(ProbedServer { engine: EngineKind::OpenAi, address, models, owner }),
        (false, None) => None,
    }
}

fn names(listing: &Value, list: &str, field: &str) -> Vec<String> {
    let items = listing.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item.get(field).and_then(Value::as_str).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollamas_own_variable_is_read_as_ollama_reads_it() {
        for (text, expected) in [
            ("127.0.0.1:9999", Some("127.0.0.1:9999")),
            ("0.0.0.0", Some("127.0.0.1:11434")),
            ("http://localhost:11500/", Some("127.0.0.1:11500")),
            (":7", Some("127.0.0.1:7")),
            ("gpu.example:11434", None),
            ("10.0.0.5:11434", None),
        ] {
            assert_eq!(ollama_host(text).map(|a| a.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_listing_without_models_names_none() {
        let names = |text: &str| names(&serde_json::from_str(text).unwrap(), "data", "id");
        assert_eq!(names(r#"{"data": null}"#), Vec::<String>::new());
        assert_eq!(names(r#"{"data": [{"id": "a"}, {}, {"id": "b"}]}"#), ["a", "b"]);
    }
}
