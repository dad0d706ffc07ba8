//! Reads everything that the doctor judges, each part within the same time, and changes nothing.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use kube::api::{Api, PostParams};
use serde_json::Value;

use super::observed::{
    DatabaseObserved, DoctorObserved, EngineParallel, FolderObserved, MachineObserved, RightsObserved, ServerFacts,
    ServerObserved,
};
use crate::{
    cli::{DataDir, Global, TargetSystem, job, process::port_owner},
    host::DiskSpace,
    http::{Item, ItemList},
    net::HttpClient,
    platform::kubernetes,
    store::{DatabaseUrl, Home, inspect, sqlite::FolderAccess},
};

/// Of the API, the gateway, and agents.
const PORTS: [u16; 3] = [9180, 9181, 9099];
/// Namespaces that a pod asks its rights for.
const MOST_NAMESPACES: usize = 20;
/// An Ollama whose OLLAMA_NUM_PARALLEL is not set.
const USUAL_PARALLEL: i64 = 1;
const MAX_PAGE_BYTES: usize = 1 << 20;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// What concerns this place.
pub async fn look(global: &Global, within: Duration) -> DoctorObserved {
    let elsewhere =
        global.kube || global.server.is_some() || (global.data_dir.is_none() && variable("OSTLER_SERVER").is_some());
    let in_pod = !elsewhere && variable("KUBERNETES_SERVICE_HOST").is_some();
    let folder = DataDir::of(global).ok().filter(|_| !elsewhere && !in_pod);
    let endpoint = folder.as_ref().and_then(|folder| folder.read_endpoint().ok().flatten());
    let asks_server = elsewhere || endpoint.is_some();
    let database = async {
        if elsewhere { None } else { timed(within, database(folder.as_ref().map(DataDir::path))).await.flatten() }
    };
    let server = async {
        if asks_server {
            Some(server(global, endpoint.as_ref().map(|e| e.address.as_str()), within).await)
        } else {
            None
        }
    };
    let rights = async { if in_pod { Some(rights(global, within).await) } else { None } };
    let crds = async { if global.kube { Some(crds(within).await) } else { None } };
    let machine = async {
        let folder = folder.as_ref()?.path().to_owned();
        let up = endpoint.as_ref().map(|endpoint| endpoint.pid);
        timed(within, tokio::task::spawn_blocking(move || machine(&folder, up))).await?.ok()
    };
    let (machine, database, server, rights, crds) = tokio::join!(machine, database, server, rights, crds);
    let machine = machine.map(|machine| MachineObserved { engines: engines(server.as_ref()), ..machine });
    let version = env!("CARGO_PKG_VERSION").to_owned();
    DoctorObserved { version, now: Timestamp::now(), machine, database, server, rights, crds }
}

async fn timed<T>(within: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(within, work).await.ok()
}

async fn database(folder: Option<&Path>) -> Option<DatabaseObserved> {
    let given = variable("OSTLER_DATABASE_URL").map(|url| url.parse::<DatabaseUrl>());
    let home = match (given, folder) {
        (Some(Ok(url)), _) => Home::Postgres(url),
        (Some(Err(why)), _) => {
            let facts = Err(why.to_string());
            return Some(DatabaseObserved {
                place: "OSTLER_DATABASE_URL".into(),
                postgres: true,
                facts,
                at: Timestamp::now(),
            });
        }
        (None, Some(folder)) => Home::Folder { path: folder.to_owned(), hold: FolderAccess::Share },
        (None, None) => return None,
    };
    let facts = inspect(&home).await.map_err(|error| error.to_string());
    let postgres = matches!(home, Home::Postgres(_));
    Some(DatabaseObserved { place: home.to_string(), postgres, facts, at: Timestamp::now() })
}

/// Blocks.
fn machine(data_dir: &Path, up: Option<u32>) -> MachineObserved {
    let there = data_dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let ports = PORTS
        .iter()
        .filter_map(|port| port_owner(SocketAddr::from(([127, 0, 0, 1], *port))).map(|holder| (*port, holder)));
    let is_alive = |pid: u32| {
        i32::try_from(pid).is_ok_and(|pid| {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH)
        })
    };
    MachineObserved {
        data_dir: data_dir.to_owned(),
        folder: folder(data_dir),
        disk: DiskSpace::of(there),
        open_files: limit.map_or(u64::MAX, |(soft, _)| soft),
        ports: ports.collect(),
        up: up.map(|pid| (pid, is_alive(pid))),
        jobs: job::installed(),
        sleeps_after: if cfg!(target_os = "macos") { pmset().as_deref().and_then(sleeps_after) } else { None },
        engines: Vec::new(),
    }
}

fn folder(path: &Path) -> Option<FolderObserved> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some(FolderObserved {
        owner: found.uid(),
        own_uid: nix::unistd::Uid::effective().as_raw(),
        mode: found.mode() & 0o777,
        is_symlink: found.is_symlink(),
        network: network(path),
        synced_by: synced_by(path).map(str::to_owned),
    })
}

#[cfg(target_os = "linux")]
fn network(path: &Path) -> Option<String> {
    use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC};
    let found = nix::sys::statfs::statfs(path).ok()?.filesystem_type();
    [(NFS_SUPER_MAGIC, "NFS"), (SMB_SUPER_MAGIC, "SMB"), (FUSE_SUPER_MAGIC, "FUSE")]
        .into_iter()
        .find(|(magic, _)| *magic == found)
        .map(|(_, name)| name.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn network(path: &Path) -> Option<String> {
    let found = nix::sys::statfs::statfs(path).ok()?;
    let name = found.filesystem_type_name().to_owned();
    ["nfs", "smbfs", "afpfs", "webdav"].contains(&name.as_str()).then_some(name)
}

/// Which service copies what is in a folder, by the folder's name.
fn synced_by(path: &Path) -> Option<&'static str> {
    let text = path.to_string_lossy();
    [
        ("Library/Mobile Documents", "iCloud"),
        ("Library/CloudStorage", "a cloud service"),
        ("/Dropbox/", "Dropbox"),
        ("/OneDrive", "OneDrive"),
        ("/Google Drive", "Google Drive"),
        ("/Nextcloud/", "Nextcloud"),
    ]
    .into_iter()
    .find(|(part, _)| text.contains(part))
    .map(|(_, service)| service)
}

fn pmset() -> Option<String> {
    let done = Command::new("pmset").args(["-g", "custom"]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Of `pmset -g custom`: the minutes under `AC Power:`.
fn sleeps_after(text: &str) -> Option<u32> {
    let mains = text.split("AC Power:").nth(1)?.split(" Power:").next()?;
    mains
        .lines()
        .find_map(|line| line.trim().strip_prefix("sleep "))
        .and_then(|rest| rest.split_whitespace().next().and_then(|minutes| minutes.parse().ok()))
}

async fn server(global: &Global, address: Option<&str>, within: Duration) -> ServerObserved {
    let target = match timed(within, TargetSystem::of(global)).await {
        Some(Ok(target)) => target,
        Some(Err(why)) => return ServerObserved { place: "the way to it".into(), answer: Err(why.to_string()) },
        None => return ServerObserved { place: "the way to it".into(), answer: Err("no answer in time".into()) },
    };
    let place = target.place.clone();
    let query = match global.namespaces.as_slice() {
        [one] => vec![("namespace", one.clone())],
        _ => Vec::new(),
    };
    let asked = async {
        let items = async |kind: &str| target.api.get::<ItemList>(&[kind], &query).await.map(|list| list.items);
        let description: Value = target.api.get(&["openapi.json"], &[]).await?;
        let version = description.pointer("/info/version").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok::<_, crate::cli::CliError>(Box::new(ServerFacts {
            version,
            overview: target.api.get(&["status"], &query).await?,
            backends: items("llmbackends").await?,
            agents: items("hostagents").await?,
            experts: items("experts").await?,
            stuck: match address {
                Some(address) => stuck(address).await,
                None => None,
            },
        }))
    };
    let answer = match timed(within, asked).await {
        Some(answer) => answer.map_err(|error| error.to_string()),
        None => Err(format!("no answer within {} s", within.as_secs())),
    };
    ServerObserved { place, answer }
}

/// What `/livez` says when it is not well.
async fn stuck(address: &str) -> Option<String> {
    let http = HttpClient::new().ok()?;
    let reply = http.send_within(http.get(format!("{address}/livez")), Duration::from_secs(3)).await.ok()?;
    if reply.status().is_success() {
        return None;
    }
    Some(String::from_utf8_lossy(&reply.whole(MAX_PAGE_BYTES).await.ok()?).into_owned())
}

/// Of each Ollama of this machine whose environment can be read.
fn engines(server: Option<&ServerObserved>) -> Vec<EngineParallel> {
    let Some(Ok(facts)) = server.map(|server| &server.answer) else { return Vec::new() };
    facts.backends.iter().filter_map(engine).collect()
}

fn engine(backend: &Item) -> Option<EngineParallel> {
    if backend.spec.get("engine")?.as_str()? != "Ollama" {
        return None;
    }
    let address = loopback(backend.spec.get("url")?.as_str()?)?;
    let limit = backend.live.limit?.into();
    let pid = port_owner(address)?.pid?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // A simulated engine, or whatever else listens there, has no such variable.
    if !String::from_utf8_lossy(&command).split('\0').next()?.ends_with("ollama") {
        return None;
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let parallel = parallel(&environment);
    Some(EngineParallel { backend: backend.name().to_owned(), limit, parallel })
}

fn parallel(environment: &[u8]) -> i64 {
    let set = environment.split(|byte| *byte == 0).find_map(|one| one.strip_prefix(b"OLLAMA_NUM_PARALLEL="));
    set.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).filter(|n| *n > 0).unwrap_or(USUAL_PARALLEL)
}

/// The address of a URL on this machine.
fn loopback(url: &str) -> Option<SocketAddr> {
    let url = reqwest::Url::parse(url).ok()?;
    let port = url.port_or_known_default()?;
    let is_local = matches!(url.host_str()?, "localhost" | "127.0.0.1" | "[::1]");
    is_local.then(|| SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn rights(global: &Global, within: Duration) -> RightsObserved {
    let abilities = variable("OSTLER_ABILITIES").unwrap_or_default();
    let abilities = abilities.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let mut namespaces = global.namespaces.clone();
    if namespaces.is_empty() {
        namespaces.extend(variable("POD_NAMESPACE"));
    }
    namespaces.truncate(MOST_NAMESPACES);
    let mut rules = BTreeMap::new();
    match timed(within, kubernetes::connect()).await {
        Some(Ok((client, _))) => {
            for namespace in namespaces {
                let of = timed(Duration::from_secs(2), rules_of(&client, &namespace)).await;
                rules.insert(namespace, of.unwrap_or_else(|| Err("the API server does not answer".to_owned())));
            }
        }
        Some(Err(why)) => drop(rules.insert("cluster".to_owned(), Err(why.to_string()))),
        None => drop(rules.insert("cluster".to_owned(), Err("the API server does not answer".to_owned()))),
    }
    RightsObserved { abilities, rules }
}

async fn rules_of(
    client: &kube::Client,
    namespace: &str,
) -> Result<Vec<k8s_openapi::api::authorization::v1::ResourceRule>, String> {
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) },
        ..SelfSubjectRulesReview::default()
    };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await.map_err(|e| e.to_string())?;
    Ok(answer.status.map(|status| status.resource_rules).unwrap_or_default())
}

async fn crds(within: Duration) -> Result<BTreeMap<String, String>, String> {
    let asked = async {
        let cluster = super::super::kube::Cluster::connect().await.map_err(|error| error.to_string())?;
        cluster.crd_releases().await
    };
    timed(within, asked).await.unwrap_or_else(|| Err("no answer in time".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn minutes_until_sleep_are_those_on_mains_power() {
        let text = "Battery Power:\n sleep                1\n displaysleep         2\nAC Power:\n disksleep 10\n sleep                0 (sleep prevented by x)\n";
        assert_eq!(sleeps_after(text), Some(0));
        assert_eq!(sleeps_after("AC Power:\n sleep 15\n"), Some(15));
        assert_eq!(sleeps_after("nothing"), None);
    }

    #[test]
    fn what_an_ollama_computes_at_once_is_in_its_environment() {
        assert_eq!(parallel(b"PATH=/bin\0OLLAMA_NUM_PARALLEL=4\0X=1"), 4);
        assert_eq!(parallel(b"PATH=/bin\0"), 1);
        assert_eq!(parallel(b"OLLAMA_NUM_PARALLEL=0\0"), 1);
    }

    #[test]
    fn only_servers_of_this_machine_are_looked_at() {
        assert_eq!(loopback("http://localhost:11434"), Some("127.0.0.1:11434".parse().unwrap()));
        assert_eq!(loopback("http://mac.local:11434"), None);
    }

    #[test]
    fn a_folder_that_a_service_copies_is_told_by_its_path() {
        for (path, service) in [
            ("/Users/ada/Library/Mobile Documents/ostler", Some("iCloud")),
            ("/home/ada/Dropbox/ostler", Some("Dropbox")),
            ("/home/ada/.local/share/ostler", None),
        ] {
            assert_eq!(synced_by(&PathBuf::from(path)), service, "{path}");
        }
    }
}
