//! `ostler report --bundle`: what somebody who helps needs to see, in a folder that is read through before it is sent.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::{
    CliError, Global, TargetSystem, doctor,
    output::{print, yaml},
    service::services,
};
use crate::{
    api::{Kind, number_of},
    causes::NightReport,
    host::{LogPart, mask::masked},
    http::ItemList,
};

/// What the API tells beside resources and logs, by the name of its file.
const LISTS: [(&str, &[&str]); 8] = [
    ("status", &["status"]),
    ("causes", &["causes"]),
    ("problems", &["problems"]),
    ("events", &["events"]),
    ("tasks-by-queue", &["tasks", "queues"]),
    ("tasks-by-expert", &["tasks", "experts"]),
    ("workers", &["tasks", "workers"]),
    ("calls", &["calls"]),
];

/// Of a file's text.
const MOST_BYTES: usize = 8 << 20;

/// Where the parts go, and which of them could not be had.
struct Bundle {
    folder: PathBuf,
    files: usize,
    missing: Vec<String>,
}

impl Bundle {
    /// A folder of its own, readable by its owner only.
    fn create(folder: &Path) -> Result<Self, CliError> {
        let made = fs::DirBuilder::new().mode(0o700).create(folder);
        made.map_err(|error| {
            CliError::failed(format!("--bundle {}: can't make the folder: {error}", folder.display()))
        })?;
        Ok(Self { folder: folder.to_owned(), files: 0, missing: Vec::new() })
    }

    fn put(&mut self, name: &str, text: Result<String, CliError>) -> Result<(), CliError> {
        match text {
            Ok(text) => {
                self.write(name, &masked(cut(&text), &[])).map_err(|error| {
                    CliError::failed(format!("--bundle {}: can't write {name}: {error}", self.folder.display()))
                })?;
                self.files += 1;
            }
            Err(error) => self.missing.push(format!("{name}: {error}")),
        }
        Ok(())
    }

    fn put_value(&mut self, name: &str, value: Result<impl Serialize, CliError>) -> Result<(), CliError> {
        self.put(&format!("{name}.yaml"), value.and_then(|value| yaml(&value)))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(self.folder.join(name))?;
        file.write_all(text.as_bytes())
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_BYTES)]
}

/// A name as a file may have it.
fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

pub async fn write(
    folder: &Path,
    report: &NightReport,
    target: &TargetSystem,
    global: &Global,
) -> Result<(), CliError> {
    let mut bundle = Bundle::create(folder)?;
    bundle.put("report.md", Ok(report.markdown()))?;
    bundle.put_value("doctor", Ok(doctor::findings(global).await))?;
    let query = target.namespace_query();
    for (name, path) in LISTS {
        // Workers and problems are those of the whole system.
        let query = if matches!(name, "workers" | "problems") { &[][..] } else { &query };
        bundle.put_value(name, target.api.get::<Value>(path, query).await)?;
    }
    let described = target.api.get::<Value>(&["openapi.json"], &[]).await;
    let server = described.map(|it| it.pointer("/info/version").cloned().unwrap_or_default());
    let versions = server.map(|server| serde_json::json!({"client": env!("CARGO_PKG_VERSION"), "server": server}));
    bundle.put_value("versions", versions)?;
    for kind in Kind::ALL {
        let list = target.api.get::<ItemList>(&[kind.plural()], &query).await;
        if let (Kind::HostAgent, Ok(agents)) = (kind, &list) {
            for agent in &agents.items {
                let namespace = [("namespace", agent.namespace().to_owned())];
                for service in services(agent) {
                    let path = ["services", agent.name(), service, "log"];
                    let log = target.api.get::<LogPart>(&path, &namespace).await;
                    let name = file_name(&format!("{}.{}.{service}.log", agent.namespace(), agent.name()));
                    bundle.put(&name, log.map(|part| part.text))?;
                }
            }
        }
        bundle.put_value(kind.plural(), list)?;
    }
    if !bundle.missing.is_empty() {
        let missing = bundle.missing.join("\n") + "\n";
        bundle.put("missing.txt", Ok(missing))?;
    }
    let missing = match bundle.missing.len() {
        0 => String::new(),
        count => format!(", {} could not be had (missing.txt)", number_of(count, "part")),
    };
    print(&format!(
        "{} in {}{missing}: secrets are masked, prompts and answers of tasks left out; read them before you send them\n",
        number_of(bundle.files, "file"),
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_masks_secrets_says_what_is_missing_and_overwrites_nothing() {
        let folder = std::env::temp_dir().join(format!("ostler-bundle-{}", std::process::id()));
        let mut bundle = Bundle::create(&folder).expect("a new folder");
        bundle.put("a.log", Ok("token: hunter22hunter\nfine\n".to_owned())).expect("write");
        bundle.put("b.log", Err(CliError::failed("nobody answers"))).expect("noted");
        let written = fs::read_to_string(folder.join("a.log")).expect("read");
        assert_eq!(written, "token: ***\nfine\n");
        assert_eq!((bundle.files, bundle.missing.len()), (1, 1));
        assert!(Bundle::create(&folder).is_err(), "it is there already");
        assert_eq!(file_name("team.mac/../x.log"), "team.mac_.._x.log");
        assert_eq!(cut(&"ä".repeat(MOST_BYTES)).len(), MOST_BYTES);
        fs::remove_dir_all(&folder).expect("remove");
    }
}
