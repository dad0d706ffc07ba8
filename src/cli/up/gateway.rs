//! The gateway of this process: for the agents, IDEs and scripts of this machine.

use std::{net::SocketAddr, str::FromStr, sync::Arc};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::{
    CliError,
    gateway::{OriginArgs, USUAL_ADDRESS},
    process::{self, holder, host},
};
use crate::{
    calls::PlatformSecrets,
    gateway::{Gateway, GatewayParts, GatewayTimings},
    net::HttpClient,
    platform::Platform,
    store::Store,
    telemetry::{GatewayMetrics, Loops},
};

/// Of the calls that need no key.
const NAMESPACE: &str = "default";

/// Where the gateway is
#[derive(Debug, clap::Args)]
pub struct UpGatewayArgs {
    /// Where agents, IDEs and scripts call, or `off`; beyond this machine each needs a key [default: 127.0.0.1:9181]
    #[arg(long, value_name = "ADDRESS|off")]
    gateway: Option<GatewayAddress>,
    #[command(flatten)]
    origins: OriginArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GatewayAddress {
    Off,
    At(SocketAddr),
}

impl FromStr for GatewayAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| "write an address, such as 127.0.0.1:9181, or off".to_owned()),
        }
    }
}

/// What the gateway is made of, beside its address.
pub struct UpGatewayParts {
    pub store: Arc<dyn Store>,
    pub platform: Arc<dyn Platform>,
    pub http: HttpClient,
    pub loops: Loops,
    pub metrics: GatewayMetrics,
}

/// The gateway at work; `None` inside: there is none.
pub struct UpGateway {
    serving: Option<JoinHandle<std::io::Result<()>>>,
    stop: CancellationToken,
    /// For people: where it is, or why it is nowhere.
    pub said: String,
}

impl UpGatewayArgs {
    /// Serves. An address that nobody asked for and somebody has is no reason not to start.
    pub async fn start(self, parts: UpGatewayParts) -> Result<UpGateway, CliError> {
        let none = |said: String| UpGateway { serving: None, stop: CancellationToken::new(), said };
        let listener = match self.gateway {
            Some(GatewayAddress::Off) => return Ok(none("no gateway: --gateway off".to_owned())),
            Some(GatewayAddress::At(address)) => process::listen_as(address, "--gateway").await?,
            None => {
                let usual: SocketAddr = USUAL_ADDRESS.parse().map_err(CliError::failed)?;
                match process::listen_as(usual, "--gateway").await {
                    Ok(listener) => listener,
                    Err(error) => return Ok(none(format!("! no gateway: {error}"))),
                }
            }
        };
        let address = listener.local_addr().map_err(CliError::failed)?;
        let UpGatewayParts { store, platform, http, loops, metrics } = parts;
        let gateway = Gateway::new(GatewayParts {
            store,
            secrets: Arc::new(PlatformSecrets(platform)),
            http,
            loops,
            metrics,
            holder: holder(),
            host: host(),
            namespace: NAMESPACE.to_owned(),
            origins: self.origins.origins(),
            timings: GatewayTimings::default(),
        });
        let stop = CancellationToken::new();
        let serving = Some(tokio::spawn(gateway.run(listener, stop.clone())));
        let said = format!(
            "gateway for agents, IDEs and scripts on http://{address} (OpenAI and Anthropic: /v1, Ollama: /api)"
        );
        Ok(UpGateway { serving, stop, said })
    }
}

impl UpGateway {
    /// Takes no more calls, and finishes those that run.
    pub async fn end(&mut self) {
        self.stop.cancel();
        let Some(serving) = self.serving.take() else { return };
        match serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the gateway failed"),
            Err(error) => tracing::error!(%error, "the gateway failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_off() {
        assert_eq!("off".parse(), Ok(GatewayAddress::Off));
        assert_eq!("[::1]:1".parse(), Ok(GatewayAddress::At("[::1]:1".parse().unwrap())));
        assert!("9181".parse::<GatewayAddress>().is_err());
    }
}
