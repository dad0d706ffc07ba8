//! `ostler simulate`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use crate::engines::{EngineKind, Secret};
use crate::listener::raise_open_files;
use crate::simulate::{ActiveFault, OnCrash, SimulateOptions, SimulatedServer, TlsMode, count_start, fault_help};

use super::{CliError, output};

/// Run a simulated inference server with faults on demand
///
/// Faults are set by --fault, and changed while it runs:
///   curl -X PUT http://127.0.0.1:11434/simulate/faults -d '["hang-inference"]'
///   curl -X DELETE http://127.0.0.1:11434/simulate/faults
///   curl http://127.0.0.1:11434/simulate/log
///   curl http://127.0.0.1:11434/simulate/totals
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_long_help = fault_help())]
pub struct SimulateArgs {
    /// Which engine to simulate
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
    /// Calls that run at a time for each model; others wait in the engine [default: 1 for ollama, else no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parallel: Option<u32>,
    /// Calls that wait in the engine before the next is answered 503 [default: 512]
    #[arg(long, value_name = "N")]
    queue: Option<usize>,
    /// Models that ollama holds in memory at a time [default: 3]
    #[arg(long, value_name = "N")]
    max_loaded: Option<usize>,
    /// A file that counts the starts of the process, for faults with starts=N
    #[arg(long, value_name = "FILE")]
    state_file: Option<PathBuf>,
    /// Speak HTTPS with a certificate that nobody trusts
    #[arg(long, value_enum, value_name = "MODE")]
    tls: Option<TlsMode>,
    /// Refuse calls that do not bear it [env: OSTLER_SIMULATE_API_KEY]
    #[arg(long, value_name = "KEY", env = "OSTLER_SIMULATE_API_KEY", hide_env = true)]
    api_key: Option<String>,
}

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
pub async fn run(args: SimulateArgs) -> Result<(), CliError> {
    raise_open_files();
    // Before it says that it serves: from then on a signal ends it in good order.
    let ended = ended().map_err(|error| CliError::Failed(format!("can't wait for signals: {error}")))?;
    let start = match &args.state_file {
        Some(file) => count_start(file).map_err(CliError::failed)?,
        None => 1,
    };
    let server = SimulatedServer::start(options(args, start)).await.map_err(CliError::failed)?;
    output::announce(&format!("serving on {}\n", server.url()));
    if let Some(address) = server.control_address() {
        output::announce(&format!("faults and log on http://{address}/simulate\n"));
    }
    ended.await;
    tokio::time::sleep(server.exit_delay()).await;
    server.stop().await;
    Ok(())
}

fn options(args: SimulateArgs, start: u64) -> SimulateOptions {
    let SimulateArgs {
        engine,
        listen,
        control_listen,
        models,
        faults,
        tokens_per_second,
        seed,
        parallel,
        queue,
        max_loaded,
        state_file: _,
        tls,
        api_key,
    } = args;
    let usual = SimulateOptions::new(engine.kind());
    SimulateOptions {
        listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], engine.port()))),
        control_listen,
        models: if models.is_empty() { usual.models.clone() } else { models },
        faults,
        tokens_per_second,
        seed,
        api_key: api_key.map(Secret::new),
        parallel: parallel.and_then(|n| usize::try_from(n).ok()).unwrap_or(usual.parallel),
        queue: queue.unwrap_or(usual.queue),
        max_loaded: max_loaded.unwrap_or(usual.max_loaded),
        start,
        tls,
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
