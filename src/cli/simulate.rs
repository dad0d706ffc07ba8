//! `ostler simulate`.

use std::net::SocketAddr;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use crate::engines::{EngineKind, Secret};
use crate::simulate::{ActiveFault, OnCrash, Server, SimulateOptions};

use super::CliError;

/// Pose as an inference server, with faults on demand, to rehearse a failure before it happens
///
/// Faults are set by --fault, and changed while it runs:
///   curl -X PUT http://127.0.0.1:11434/simulate/faults -d '["hang-inference"]'
///   curl -X DELETE http://127.0.0.1:11434/simulate/faults
///   curl http://127.0.0.1:11434/simulate/log
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_long_help = FAULTS)]
pub struct Args {
    /// Which server to pose as
    #[arg(long, value_enum, default_value_t = EngineArg::Ollama)]
    engine: EngineArg,
    /// Address to listen on [default: 127.0.0.1 and the engine's own port: 11434, 11435 for mlx, 8000 for openai]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// A second address for /simulate, out of the faults' reach (refuse closes the first)
    #[arg(long, value_name = "ADDRESS")]
    control_listen: Option<SocketAddr>,
    /// A model that it has; may be repeated (mlx: the first is default_model)
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// A fault from the start; may be repeated
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<ActiveFault>,
    #[arg(long, value_name = "N", default_value = "50", value_parser = positive)]
    tokens_per_second: f64,
    /// The same seed answers the same calls with the same words
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Refuse calls that do not bear it [env: OSTLER_SIMULATE_API_KEY]
    #[arg(long, value_name = "KEY", env = "OSTLER_SIMULATE_API_KEY", hide_env = true)]
    api_key: Option<String>,
}

const FAULTS: &str = "\
Faults (NAME or NAME:key=value,…; for-seconds=N ends any of them by itself):
  hang-inference[:survives-unload=true]     inference stands still, listings answer
  hang                                      nothing is answered
  refuse                                    the port is closed, connections are cut
  reset                                     every request's connection is reset
  reset-after:tokens=N                      an inference is cut off after N tokens
  status:code=N[,path=P][,retry-after-seconds=N]
  empty-body[:path=P], garbage-body[:path=P]
  latency:millis=N[,path=P]                 answers come late
  slow-tokens:tokens-per-second=N
  stall-after:tokens=N                      an inference stands still after N tokens
  no-models                                 lists and knows no models: the wrong user
  missing-model:model=NAME                  until it is pulled
  crash[:exit-code=N][,WHEN], out-of-memory[:WHEN]
                                            WHEN: after-seconds=N, after-requests=N, above-in-flight=N
  slow-load:seconds=N                       a model takes so long to load
  slow-pull:seconds=N, fail-pull";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineArg {
    Ollama,
    Mlx,
    Openai,
}

impl EngineArg {
    fn kind(self) -> EngineKind {
        match self {
            EngineArg::Ollama => EngineKind::Ollama,
            EngineArg::Mlx => EngineKind::Mlx,
            EngineArg::Openai => EngineKind::OpenAi,
        }
    }

    fn port(self) -> u16 {
        match self {
            EngineArg::Ollama => 11434,
            EngineArg::Mlx => 11435,
            EngineArg::Openai => 8000,
        }
    }
}

/// Runs until a signal, or a fault, ends it.
pub async fn run(args: Args) -> Result<(), CliError> {
    // Before it says that it serves: from then on a signal ends it in good order.
    let ended = ended().map_err(|error| CliError::Failed(format!("can't wait for signals: {error}")))?;
    let server = Server::start(options(args)).await.map_err(CliError::failed)?;
    println!("serving on {}", server.url());
    if let Some(address) = server.control_address() {
        println!("faults and log on http://{address}/simulate");
    }
    ended.await;
    server.stop().await;
    Ok(())
}

fn options(args: Args) -> SimulateOptions {
    let Args { engine, listen, control_listen, models, faults, tokens_per_second, seed, api_key } = args;
    let usual = SimulateOptions::new(engine.kind());
    SimulateOptions {
        listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], engine.port()))),
        control_listen,
        models: if models.is_empty() { usual.models.clone() } else { models },
        faults,
        tokens_per_second,
        seed,
        api_key: api_key.map(Secret::new),
        on_crash: OnCrash::EndProcess,
        ..usual
    }
}

/// The signals that end real ones.
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    })
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("it must be above 0".to_owned()) }
}
