//! What `worker` and `gateway` have in common: they need the database and the servers, and nothing else.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{
    CliError, DataDir, Global,
    data_dir::{KEY_FILE, sealing_key_of_environment},
    process::{self, signaled},
};
use crate::{
    calls::SealedSecrets,
    http,
    store::{self, DatabaseUrl, Home, Store, counted, seal, sqlite::FolderAccess, watch_deaths},
    telemetry::{Loops, Metrics},
};

// No doc comment: clap would show it in place of the command's own.
#[derive(Debug, clap::Args)]
pub struct DataPlaneArgs {
    /// PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE; without it, the data folder of an `ostler up` on this machine
    #[arg(long, value_name = "URL", env = "OSTLER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<DatabaseUrl>,
    /// The id that this installation's database must have; without it, whatever is recorded there
    #[arg(long, value_name = "UUID", env = "OSTLER_INSTALLATION")]
    installation: Option<Uuid>,
    /// Where /livez, /readyz and /metrics are; without it, nowhere
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

/// The open database, and what runs beside the work until this is dropped: the watch over dead processes and the health page.
pub struct DataPlane {
    pub home: Home,
    pub namespace: String,
    pub store: Arc<dyn Store>,
    pub secrets: Arc<SealedSecrets>,
    pub metrics: Metrics,
    pub loops: Loops,
    health: Option<JoinHandle<io::Result<()>>>,
    _ended: DropGuard,
}

impl DataPlaneArgs {
    pub async fn open(self, global: &Global) -> Result<DataPlane, CliError> {
        let Self { database_url, installation, listen } = self;
        let namespace = global.namespace()?.unwrap_or_else(|| "default".to_owned());
        let home = match database_url {
            Some(url) => Home::Postgres(url),
            None => Home::Folder { path: DataDir::of(global)?.path().to_owned(), hold: FolderAccess::Share },
        };
        let key = opening_key(&home)?;
        let (metrics, loops, ended) = (Metrics::new(), Loops::new(), CancellationToken::new());
        let store = counted(store::open(&home, installation).await?, metrics.clone());
        tokio::spawn(loops.clone().keep_time(ended.clone()));
        tokio::spawn(watch_deaths(Arc::clone(&store), None, ended.clone()));
        let health = match listen {
            None => None,
            Some(listen) => {
                let listener = process::listen(listen).await?;
                let (store, metrics, loops) = (Arc::clone(&store), metrics.clone(), loops.clone());
                let health = http::Health { store, metrics, loops, platform: None };
                Some(tokio::spawn(http::serve_health(listener, health, ended.clone())))
            }
        };
        let secrets = Arc::new(SealedSecrets { store: Arc::clone(&store), key });
        Ok(DataPlane { home, namespace, store, secrets, metrics, loops, health, _ended: ended.drop_guard() })
    }
}

impl DataPlane {
    /// Returns when a signal says so, or when the health page breaks off.
    pub async fn until_ended(&mut self) -> Result<(), CliError> {
        tokio::select! {
            signal = signaled() => signal,
            broken = broken(self.health.as_mut()) => Err(broken),
        }
    }
}

async fn broken(health: Option<&mut JoinHandle<io::Result<()>>>) -> CliError {
    let Some(health) = health else { return std::future::pending().await };
    match health.await {
        Ok(Ok(())) => CliError::failed("the health page ended by itself"),
        Ok(Err(error)) => CliError::failed(format!("the health page failed: {error}")),
        Err(error) => CliError::failed(format!("the health page failed: {error}")),
    }
}

/// What opens sealed Secrets: OSTLER_KEY, else the key that an `ostler up` keeps in its data folder.
fn opening_key(home: &Home) -> Result<Option<seal::Key>, CliError> {
    if let Some(key) = sealing_key_of_environment()? {
        return Ok(Some(key));
    }
    let text = match home {
        Home::Folder { path, .. } => std::fs::read_to_string(path.join(KEY_FILE)).ok(),
        Home::Postgres(_) => None,
    };
    text.map(|text| seal::Key::parse(&text)).transpose().map_err(CliError::failed)
}
