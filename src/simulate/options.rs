use std::net::{Ipv4Addr, SocketAddr};

use tokio::sync::Semaphore;

use crate::engines::{EngineKind, Secret};

use super::{ActiveFault, TlsMode};

/// What a simulated server is.
#[derive(Debug, Clone)]
pub struct SimulateOptions {
    pub engine: EngineKind,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// A second address for `/simulate`, which faults never touch.
    pub control_listen: Option<SocketAddr>,
    /// For MLX the first is what `default_model` means.
    pub models: Vec<String>,
    pub faults: Vec<ActiveFault>,
    pub tokens_per_second: f64,
    /// The same seed answers the same calls with the same words.
    pub seed: u64,
    /// What callers must bear (OpenAI).
    pub api_key: Option<Secret>,
    /// How many models Ollama holds at a time.
    pub max_loaded: usize,
    /// How many calls run at a time for each model; others queue in the engine.
    pub parallel: usize,
    /// How many calls queue before the next is answered 503.
    pub queue: usize,
    /// The start of the process that this is, the first being 1.
    pub start: u64,
    /// HTTPS instead of HTTP.
    pub tls: Option<TlsMode>,
    pub on_crash: OnCrash,
}

/// What a crash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrash {
    /// This process ends, as an engine's would.
    EndProcess,
    /// The port closes and connections break; for servers inside a test.
    StopServing,
}

impl SimulateOptions {
    /// A server for tests: on a free loopback port, with a model of its engine's taste, quick, and with limits as the real
    /// ones have them (Ollama 0.17.4: one call at a time per model, a queue of 512, three models on a CPU; the others run all calls
    /// at once).
    pub fn new(engine: EngineKind) -> Self {
        Self {
            engine,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            control_listen: None,
            models: vec![Self::usual_model(engine).to_owned()],
            faults: Vec::new(),
            tokens_per_second: 500.0,
            seed: 1,
            api_key: None,
            max_loaded: 3,
            parallel: if engine == EngineKind::Ollama { 1 } else { Semaphore::MAX_PERMITS },
            queue: 512,
            start: 1,
            tls: None,
            on_crash: OnCrash::StopServing,
        }
    }

    /// What a server has when nobody says.
    pub fn usual_model(engine: EngineKind) -> &'static str {
        match engine {
            EngineKind::Ollama => "llama3.2:3b",
            EngineKind::Mlx => "mlx-community/Llama-3.2-3B-Instruct-4bit",
            EngineKind::OpenAi => "gpt-oss-20b",
        }
    }

    pub fn with_models(mut self, models: &[&str]) -> Self {
        self.models = models.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub fn with_fault(mut self, fault: impl Into<ActiveFault>) -> Self {
        self.faults.push(fault.into());
        self
    }
}
