//! What the doctor reads, and what it says of that.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::ResourceRule;
use serde::Serialize;

use crate::{
    cli::job::JobState,
    cli::process::PortHolder,
    host::DiskSpace,
    http::{Item, Overview},
    store::DatabaseFacts,
};

/// Everything that was looked at. What does not concern this place is `None` or empty.
#[derive(Clone, Debug, Default)]
pub struct DoctorObserved {
    /// Of this program.
    pub version: String,
    pub now: Timestamp,
    pub machine: Option<MachineObserved>,
    pub database: Option<DatabaseObserved>,
    pub server: Option<ServerObserved>,
    pub rights: Option<RightsObserved>,
    /// The release that each CRD of the cluster is of, or why that is not known.
    pub crds: Option<Result<BTreeMap<String, String>, String>>,
}

#[derive(Clone, Debug, Default)]
pub struct MachineObserved {
    pub data_dir: PathBuf,
    /// `None`: there is none yet.
    pub folder: Option<FolderObserved>,
    /// Where the data folder is, or will be.
    pub disk: Option<DiskSpace>,
    /// The soft limit of open files.
    pub open_files: u64,
    /// Who listens on the usual ports.
    pub ports: Vec<(u16, PortHolder)>,
    /// The process that says that it serves this data folder, and whether it is alive.
    pub up: Option<(u32, bool)>,
    pub jobs: Vec<(String, JobState)>,
    /// After how many minutes without use this machine sleeps, on mains power; 0: never. `None`: nobody says.
    pub sleeps_after: Option<u32>,
    pub engines: Vec<EngineParallel>,
}

#[derive(Clone, Debug, Default)]
pub struct FolderObserved {
    pub owner: u32,
    pub own_uid: u32,
    pub mode: u32,
    pub is_symlink: bool,
    /// Such as `NFS`.
    pub network: Option<String>,
    /// Such as `iCloud`.
    pub synced_by: Option<String>,
}

/// How many calls an Ollama of this machine computes at once.
#[derive(Clone, Debug)]
pub struct EngineParallel {
    pub backend: String,
    pub limit: i64,
    pub parallel: i64,
}

#[derive(Clone, Debug)]
pub struct DatabaseObserved {
    /// Where it is, without a password.
    pub place: String,
    /// Of PostgreSQL; else a data folder's file.
    pub postgres: bool,
    /// `Ok(None)`: there is none yet.
    pub facts: Result<Option<DatabaseFacts>, String>,
    /// This machine's clock when the answer came.
    pub at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct ServerObserved {
    pub place: String,
    pub answer: Result<Box<ServerFacts>, String>,
}

#[derive(Clone, Debug)]
pub struct ServerFacts {
    pub version: String,
    pub overview: Overview,
    pub backends: Vec<Item>,
    pub agents: Vec<Item>,
    pub experts: Vec<Item>,
    /// What `/livez` says when it is not well.
    pub stuck: Option<String>,
}

#[derive(Clone, Debug)]
pub struct RightsObserved {
    /// The chart's values that are on.
    pub abilities: Vec<String>,
    /// What the service account may do, by namespace, or why that is not known.
    pub rules: BTreeMap<String, Result<Vec<ResourceRule>, String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum FindingLevel {
    Ok,
    Note,
    Warning,
    Error,
}

impl FindingLevel {
    pub fn mark(self) -> char {
        match self {
            Self::Ok => '✓',
            Self::Note => '·',
            Self::Warning => '!',
            Self::Error => '✗',
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorFinding {
    /// What was checked, the same in every release: `database.schema`.
    pub id: String,
    pub level: FindingLevel,
    pub message: String,
    /// What to do; empty where nothing is.
    pub fix: String,
}
