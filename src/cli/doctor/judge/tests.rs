use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::ResourceRule;
use serde_json::{Value, json};

use super::{
    super::observed::{
        DatabaseObserved, DoctorObserved, EngineParallel, FindingLevel, FolderObserved, MachineObserved,
        RightsObserved, ServerFacts, ServerObserved,
    },
    judge,
};
use crate::{
    cli::{job::JobState, process::PortHolder},
    host::DiskSpace,
    http::Item,
    store::{DatabaseFacts, StoreError},
};

const VERSION: &str = "1.2.3";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seen() -> DoctorObserved {
    DoctorObserved { version: VERSION.to_owned(), ..DoctorObserved::default() }
}

/// The level of the only finding with this id.
fn level(observed: &DoctorObserved, id: &str) -> Option<FindingLevel> {
    let all = judge(observed);
    assert!(all.is_sorted_by(|a, b| a.level >= b.level), "worst first: {all:?}");
    for finding in &all {
        let wants_fix = matches!(finding.level, FindingLevel::Warning | FindingLevel::Error);
        assert_eq!(wants_fix, !finding.fix.is_empty(), "what is wrong has a fix: {finding:?}");
    }
    all.into_iter().find(|finding| finding.id == id).map(|finding| finding.level)
}

fn machine() -> MachineObserved {
    MachineObserved {
        data_dir: "/home/ada/.local/share/ostler".into(),
        folder: Some(FolderObserved { owner: 1, own_uid: 1, mode: 0o700, ..FolderObserved::default() }),
        disk: Some(DiskSpace { free_bytes: 50 << 30, total_bytes: 100 << 30 }),
        open_files: 8_192,
        sleeps_after: Some(0),
        ..MachineObserved::default()
    }
}

#[test]
fn a_machine_is_judged_by_folder_disk_limits_ports_jobs_and_sleep() {
    use FindingLevel::{Error, Note, Ok, Warning};
    let folder = |change: &dyn Fn(&mut FolderObserved)| {
        let mut machine = machine();
        change(machine.folder.as_mut().unwrap());
        machine
    };
    let job = |running| ("ostler-up.service".to_owned(), JobState { installed: true, running, ..JobState::default() });
    let held = |command: &str| {
        let holder = PortHolder { pid: Some(7), user: None, command: Some(command.to_owned()) };
        MachineObserved { ports: vec![(9180, holder)], ..machine() }
    };
    for (machine, id, wanted) in [
        (machine(), "data-folder", Some(Ok)),
        (machine(), "data-folder.place", None),
        (machine(), "disk.free", Some(Ok)),
        (machine(), "open-files", Some(Ok)),
        (machine(), "sleep", Some(Ok)),
        (MachineObserved { folder: None, ..machine() }, "data-folder", Some(Note)),
        (folder(&|f| f.owner = 2), "data-folder", Some(Error)),
        (folder(&|f| f.mode = 0o755), "data-folder", Some(Warning)),
        (folder(&|f| f.is_symlink = true), "data-folder", Some(Error)),
        (folder(&|f| f.network = Some("NFS".into())), "data-folder.place", Some(Error)),
        (folder(&|f| f.synced_by = Some("iCloud".into())), "data-folder.place", Some(Error)),
        (
            MachineObserved { disk: Some(DiskSpace { free_bytes: 1 << 20, total_bytes: 100 << 30 }), ..machine() },
            "disk.free",
            Some(Error),
        ),
        (MachineObserved { disk: None, ..machine() }, "disk.free", None),
        (MachineObserved { open_files: 256, ..machine() }, "open-files", Some(Warning)),
        (MachineObserved { sleeps_after: Some(10), ..machine() }, "sleep", Some(Warning)),
        (MachineObserved { sleeps_after: None, ..machine() }, "sleep", None),
        (MachineObserved { jobs: vec![job(true)], ..machine() }, "job", Some(Ok)),
        (MachineObserved { jobs: vec![job(false)], ..machine() }, "job", Some(Error)),
        (MachineObserved { up: Some((7, false)), ..machine() }, "up", Some(Warning)),
        (MachineObserved { up: Some((7, true)), ..machine() }, "up", None),
        (held("/usr/bin/python3 -m http.server"), "port", Some(Warning)),
        (held("/usr/local/bin/ostler up"), "port", Some(Ok)),
        (MachineObserved { up: Some((7, true)), ..held("renamed") }, "port", Some(Ok)),
    ] {
        let observed = DoctorObserved { machine: Some(machine.clone()), ..seen() };
        assert_eq!(level(&observed, id), wanted, "{id} of {machine:?}");
    }
}

#[test]
fn an_ollama_that_computes_fewer_calls_than_it_is_sent_is_told() {
    for (limit, parallel, wanted) in [(4, 1, FindingLevel::Warning), (4, 4, FindingLevel::Ok), (2, 4, FindingLevel::Ok)]
    {
        let engines = vec![EngineParallel { backend: "ollama".into(), limit, parallel }];
        let observed = DoctorObserved { machine: Some(MachineObserved { engines, ..machine() }), ..seen() };
        assert_eq!(level(&observed, "engine.parallel"), Some(wanted), "{limit} of {parallel}");
    }
}

fn facts() -> DatabaseFacts {
    DatabaseFacts {
        schema: 7,
        unfit: None,
        encoding: "UTF8".into(),
        now: at("2026-01-01T00:00:00Z"),
        oldest_transaction: 0,
        read_only: false,
    }
}

#[test]
fn a_database_is_judged_by_reach_schema_encoding_clock_and_transactions() {
    use FindingLevel::{Error, Note, Ok as Well, Warning};
    let unfit = Some(StoreError::OlderSchema { found: 1, known: 2 });
    for (facts, id, wanted) in [
        (Ok(Some(facts())), "database.reach", Some(Well)),
        (Ok(Some(facts())), "database.schema", Some(Well)),
        (Ok(Some(facts())), "database.encoding", Some(Well)),
        (Ok(Some(facts())), "database.clock", None),
        (Ok(None), "database.reach", Some(Note)),
        (Err("refused".to_owned()), "database.reach", Some(Error)),
        (Ok(Some(DatabaseFacts { unfit, ..facts() })), "database.schema", Some(Error)),
        (Ok(Some(DatabaseFacts { encoding: "SQL_ASCII".into(), ..facts() })), "database.encoding", Some(Error)),
        (Ok(Some(DatabaseFacts { encoding: "UTF-8".into(), ..facts() })), "database.encoding", Some(Well)),
        (Ok(Some(DatabaseFacts { read_only: true, ..facts() })), "database.writes", Some(Error)),
        (Ok(Some(DatabaseFacts { now: at("2026-01-01T00:01:00Z"), ..facts() })), "database.clock", Some(Warning)),
        (
            Ok(Some(DatabaseFacts { oldest_transaction: 3_600, ..facts() })),
            "database.oldest-transaction",
            Some(Warning),
        ),
    ] {
        let database = DatabaseObserved {
            place: "db".into(),
            postgres: true,
            facts: facts.clone(),
            at: at("2026-01-01T00:00:00Z"),
        };
        let observed = DoctorObserved { database: Some(database), ..seen() };
        assert_eq!(level(&observed, id), wanted, "{id} of {facts:?}");
    }
}

fn item(kind: &str, name: &str, spec: Value, status: Value) -> Item {
    serde_json::from_value(json!({
        "apiVersion": "ostler.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "team"}, "spec": spec, "status": status,
    }))
    .unwrap()
}

fn server() -> ServerFacts {
    let overview = json!({
        "now": "2026-01-01T00:00:00Z", "healthy": true, "leader": {"holder": "h", "epoch": 1, "expiresInSeconds": 9},
        "backends": [], "agents": [], "problems": [],
    });
    let agent = |name: &str, secret: &str| {
        let status = json!({"state": "Reachable", "version": VERSION});
        item("HostAgent", name, json!({"url": "https://a:1", "secretRef": {"name": secret}}), status)
    };
    ServerFacts {
        version: VERSION.to_owned(),
        overview: serde_json::from_value(overview).unwrap(),
        backends: vec![item("LLMBackend", "b", json!({"models": [{"name": "long", "alias": "small"}]}), json!({}))],
        agents: vec![agent("mac", "mac-key"), agent("box", "box-key")],
        experts: vec![item("Expert", "igor", json!({"model": "small"}), json!({}))],
        stuck: None,
    }
}

#[test]
fn a_server_is_judged_by_leader_loops_agents_and_what_experts_ask_for() {
    use FindingLevel::{Error, Ok as Well, Warning};
    let changed = |change: &dyn Fn(&mut ServerFacts)| {
        let mut facts = server();
        change(&mut facts);
        Ok(Box::new(facts))
    };
    let set = |item: &mut Item, field: &str, value: Value| {
        item.status.get_or_insert_default().insert(field.to_owned(), value);
    };
    for (answer, id, wanted) in [
        (changed(&|_| {}), "server.leader", Some(Well)),
        (changed(&|_| {}), "agent.reach", Some(Well)),
        (changed(&|_| {}), "model.alias", None),
        (changed(&|_| {}), "agent.secret", None),
        (Err("nobody answers".to_owned()), "server.reach", Some(Error)),
        (changed(&|f| f.version = "1.0.0".into()), "server.version", Some(Warning)),
        (changed(&|f| f.overview.leader = None), "server.leader", Some(Error)),
        (changed(&|f| f.stuck = Some("loop x died".into())), "server.loops", Some(Error)),
        (changed(&|f| set(&mut f.agents[0], "state", json!("Unreachable"))), "agent.reach", Some(Error)),
        (changed(&|f| set(&mut f.agents[0], "clockSkewSeconds", json!(-90))), "agent.clock", Some(Warning)),
        (changed(&|f| set(&mut f.agents[0], "version", json!("0.9.0"))), "agent.version", Some(Warning)),
        (changed(&|f| f.agents[1].spec = f.agents[0].spec.clone()), "agent.secret", Some(Warning)),
        (changed(&|f| f.backends.clear()), "model.alias", Some(Error)),
    ] {
        let why = format!("{id} of {answer:?}");
        let observed = DoctorObserved { server: Some(ServerObserved { place: "p".into(), answer }), ..seen() };
        assert_eq!(level(&observed, id), wanted, "{why}");
    }
}

#[test]
fn a_right_that_an_ability_needs_and_that_is_missing_names_the_ability() {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| ResourceRule {
        api_groups: Some(groups.iter().map(ToString::to_string).collect()),
        resources: Some(resources.iter().map(ToString::to_string).collect()),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        resource_names: None,
    };
    let base = vec![
        rule(&["ostler.dev"], &["*"], &["get", "list", "watch"]),
        rule(&["events.k8s.io"], &["events"], &["create", "patch"]),
    ];
    let logs = [base.clone(), vec![rule(&[""], &["pods/log"], &["get"]), rule(&[""], &["pods"], &["list"])]].concat();
    for (rules, abilities, wanted) in [
        (Ok(base.clone()), &[][..], FindingLevel::Ok),
        (Ok(base), &["readLogs"], FindingLevel::Error),
        (Ok(logs), &["readLogs"], FindingLevel::Ok),
        (Ok(Vec::new()), &[], FindingLevel::Error),
        (Err("away".to_owned()), &[], FindingLevel::Error),
    ] {
        let rights = RightsObserved {
            abilities: abilities.iter().map(ToString::to_string).collect(),
            rules: BTreeMap::from([("team".to_owned(), rules)]),
        };
        let observed = DoctorObserved { rights: Some(rights), ..seen() };
        assert_eq!(level(&observed, "rights"), Some(wanted), "{:?}", judge(&observed));
    }
}

#[test]
fn a_crd_of_another_release_or_none_is_told() {
    for (crds, wanted) in [
        (Ok(VERSION), FindingLevel::Ok),
        (Ok("1.0.0"), FindingLevel::Warning),
        (Ok(""), FindingLevel::Error),
        (Err("may not list"), FindingLevel::Note),
    ] {
        let crds = crds
            .map(|release| BTreeMap::from([("llmbackends.ostler.dev".to_owned(), release.to_owned())]))
            .map_err(str::to_owned);
        let observed = DoctorObserved { crds: Some(crds), ..seen() };
        assert_eq!(level(&observed, "crd.release"), Some(wanted));
    }
}
