//! The folder as one snapshot: what is declared, compared with what is known, gives what changes. Pure.
//!
//! - A file that can't be read, and a document that is broken, keep their last good resources.
//! - Nothing is deleted while anything is broken, nor because the folder is empty or gone.
//! - What is no longer declared is deleted after a grace period, for a folder may be half written.
//! - What another folder declared is deleted at once: it was never part of this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{
    kinds::Kinds,
    manifest::{self, FileReading, Manifest, ManifestContent},
    records::{LocalRecord, SecretData},
};
use crate::{
    api::ObjectKey,
    platform::{PlatformProblem, Severity},
};

/// What was read from the disk at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSnapshot {
    /// As the user named it.
    pub name: String,
    /// Files by name, in order; or why the folder can't be read.
    pub files: Result<Vec<ManifestFile>, String>,
}

/// A file, or why it can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    pub name: String,
    pub text: Result<String, String>,
}

/// What is known from before.
#[derive(Clone, Debug, Default)]
pub struct FolderState {
    pub records: BTreeMap<ObjectKey, LocalRecord>,
    pub secrets: BTreeMap<ObjectKey, SecretData>,
    /// Since when something known is not declared.
    pub missing: BTreeMap<ObjectKey, Timestamp>,
    /// The greatest that was given.
    pub resource_version: i64,
    /// Which file declared each last.
    pub files: BTreeMap<ObjectKey, String>,
    /// The records are those of another folder.
    pub of_another: bool,
}

/// What changes.
#[derive(Debug)]
pub struct FolderPlan {
    /// New and changed records.
    pub puts: Vec<LocalRecord>,
    /// Records that go.
    pub deletes: Vec<ObjectKey>,
    /// All Secrets and ConfigMaps, from now on.
    pub secrets: BTreeMap<ObjectKey, SecretData>,
    pub missing: BTreeMap<ObjectKey, Timestamp>,
    pub files: BTreeMap<ObjectKey, String>,
    /// What a person should mend now.
    pub problems: Vec<PlatformProblem>,
}

/// What is declared without a file: made of the documents that the files declare. Whatever a file declares wins.
pub type Derive = Arc<dyn Fn(&[&Value]) -> Vec<Value> + Send + Sync>;

/// Compares a folder with what is known.
pub fn plan(
    folder: &FolderSnapshot,
    kinds: &Kinds,
    derive: &Derive,
    state: &FolderState,
    grace: SignedDuration,
    now: Timestamp,
    mut new_uid: impl FnMut() -> String,
) -> FolderPlan {
    let mut reading = read(folder, kinds);
    let mut declared = unique(&mut reading);
    keep_those_of_broken_files(&mut declared, &mut reading, folder, state);
    let mut files = state.files.clone();
    files.extend(declared.iter().map(|(key, manifest)| (key.clone(), manifest.place.file.clone())));
    let keeps = keeps_everything(folder, &reading, &declared);
    let staying = keeps.filter(|_| !state.of_another).map(|_| &state.records);
    add_derived(&mut declared, &mut reading, kinds, derive, staying);
    let mut version = state.resource_version;
    let mut puts = Vec::new();
    let mut secrets = state.secrets.clone();
    for (key, manifest) in &declared {
        match &manifest.content {
            ManifestContent::Secret(data) => {
                secrets.insert(key.clone(), data.clone());
            }
            ManifestContent::Resource(object) => {
                let old = state.records.get(key);
                if let Some(new) = changed(old, key, object, version + 1, now, &mut new_uid) {
                    version += 1;
                    puts.push(new);
                }
            }
        }
    }
    let known: BTreeSet<&ObjectKey> = state.records.keys().chain(state.secrets.keys()).collect();
    let gone: Vec<&ObjectKey> = known.into_iter().filter(|key| !declared.contains_key(*key)).collect();
    let mut missing = BTreeMap::new();
    let mut deletes = Vec::new();
    if declared.is_empty() && gone.is_empty() && reading.problems.is_empty() {
        let message = "there are no manifests here (*.yaml, *.yml, *.json)";
        reading.problems.push(PlatformProblem::warning(message).at(&folder.name, 0));
    }
    if state.of_another {
        deletes.extend(gone.into_iter().filter(|key| secrets.remove(*key).is_none()).cloned());
    } else if let Some(reason) = keeps.or_else(|| keeps_everything(folder, &reading, &declared)) {
        reading.problems.extend(kept(&gone, reason, &reading.problems));
    } else {
        for key in gone {
            let since = state.missing.get(key).copied().unwrap_or(now);
            if now.duration_since(since) < grace {
                missing.insert(key.clone(), since);
            } else if secrets.remove(key).is_none() {
                deletes.push(key.clone());
            }
        }
    }
    files.retain(|key, _| !deletes.contains(key));
    FolderPlan { puts, deletes, secrets, missing, files, problems: reading.problems }
}

fn read(folder: &FolderSnapshot, kinds: &Kinds) -> FileReading {
    let mut all = FileReading::default();
    let files = match &folder.files {
        Ok(files) => files,
        Err(why) => {
            let message = format!("the folder can't be read: {why}");
            all.problems.push(PlatformProblem::error(message).at(&folder.name, 0));
            return all;
        }
    };
    for file in files {
        match &file.text {
            Ok(text) => {
                let reading = manifest::read(&file.name, text, kinds);
                all.manifests.extend(reading.manifests);
                all.problems.extend(reading.problems);
            }
            Err(why) => {
                let message = format!("can't be read: {why}");
                all.problems.push(PlatformProblem::error(message).at(&file.name, 0));
            }
        }
    }
    all
}

/// The manifests by key. Of what is declared twice none counts: nobody can tell which is meant.
fn unique(reading: &mut FileReading) -> BTreeMap<ObjectKey, Manifest> {
    let mut by_key: BTreeMap<ObjectKey, Vec<Manifest>> = BTreeMap::new();
    for manifest in std::mem::take(&mut reading.manifests) {
        by_key.entry(manifest.key.clone()).or_default().push(manifest);
    }
    let mut declared = BTreeMap::new();
    for (key, mut manifests) in by_key {
        if manifests.len() == 1 {
            declared.extend(manifests.pop().map(|manifest| (key, manifest)));
            continue;
        }
        let first = &manifests[0].place;
        for other in &manifests[1..] {
            let message = format!("is declared in {}:{} already: remove one of them", first.file, first.line);
            let problem = PlatformProblem::error(message).about(&key);
            reading.problems.push(problem.at(&other.place.file, other.place.line));
        }
    }
    declared
}

/// A file that has errors keeps what it declared last, also when another file declares the same: else a slip in one file would
/// bring another's values into force.
fn keep_those_of_broken_files(
    declared: &mut BTreeMap<ObjectKey, Manifest>,
    reading: &mut FileReading,
    folder: &FolderSnapshot,
    state: &FolderState,
) {
    let is_error = |problem: &&PlatformProblem| problem.severity == Severity::Error;
    let places = reading.problems.iter().filter(is_error).filter_map(|problem| problem.place.as_ref());
    let broken: BTreeSet<String> = places.map(|place| place.file.clone()).collect();
    if broken.is_empty() {
        return;
    }
    for (key, manifest) in declared {
        let declared_it = match state.files.get(key) {
            Some(file) => Some(file.clone()),
            // A process that just started knows of no file yet: the broken one that speaks of it was its home most likely.
            None => broken.iter().find(|file| speaks_of(folder, file, key)).cloned(),
        };
        let Some(file) = declared_it.filter(|file| *file != manifest.place.file && broken.contains(file)) else {
            continue;
        };
        let last = match &manifest.content {
            ManifestContent::Resource(_) => {
                state.records.get(key).map(|old| ManifestContent::Resource(old.manifest.clone()))
            }
            ManifestContent::Secret(_) => state.secrets.get(key).cloned().map(ManifestContent::Secret),
        };
        let Some(last) = last.filter(|last| *last != manifest.content) else { continue };
        let message = format!("is declared by {file} otherwise, which keeps it until its errors are mended");
        reading.problems.push(PlatformProblem::error(message).about(key).at(&manifest.place.file, manifest.place.line));
        manifest.content = last;
        manifest.place.file = file;
    }
}

/// Whether a file that can't be read as manifests has the words of one of this object.
fn speaks_of(folder: &FolderSnapshot, file: &str, key: &ObjectKey) -> bool {
    let files = folder.files.as_ref().map(Vec::as_slice).unwrap_or_default();
    let text = files.iter().find(|f| f.name == file).and_then(|f| f.text.as_deref().ok()).unwrap_or_default();
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.');
    let mut words = text.split(|c: char| !is_part(c));
    text.contains(&key.kind) && words.any(|word| word == key.name)
}

/// `kept`: what stays in force although it is not declared now, and what is derived of it does, too.
fn add_derived(
    declared: &mut BTreeMap<ObjectKey, Manifest>,
    reading: &mut FileReading,
    kinds: &Kinds,
    derive: &Derive,
    kept: Option<&BTreeMap<ObjectKey, LocalRecord>>,
) {
    let kept = kept.into_iter().flatten().filter(|(key, _)| !declared.contains_key(*key));
    let documents: Vec<&Value> = declared
        .values()
        .filter_map(|manifest| match &manifest.content {
            ManifestContent::Resource(object) => Some(object),
            ManifestContent::Secret(_) => None,
        })
        .chain(kept.map(|(_, record)| &record.manifest))
        .collect();
    for document in derive(&documents) {
        let derived = manifest::read("(made by ostler)", &document.to_string(), kinds);
        reading.problems.extend(derived.problems);
        for manifest in derived.manifests {
            declared.entry(manifest.key.clone()).or_insert(manifest);
        }
    }
}

/// The new record, when anything differs.
fn changed(
    old: Option<&LocalRecord>,
    key: &ObjectKey,
    object: &Value,
    resource_version: i64,
    now: Timestamp,
    new_uid: &mut impl FnMut() -> String,
) -> Option<LocalRecord> {
    let Some(old) = old else {
        return Some(LocalRecord {
            key: key.clone(),
            uid: new_uid(),
            generation: 1,
            resource_version,
            created_at: now,
            manifest: object.clone(),
            status: None,
        });
    };
    if old.manifest == *object {
        return None;
    }
    let same_spec = without_metadata(&old.manifest).eq(without_metadata(object));
    Some(LocalRecord {
        generation: old.generation + i64::from(!same_spec),
        resource_version,
        manifest: object.clone(),
        ..old.clone()
    })
}

fn without_metadata(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten().filter(|(key, _)| *key != "metadata" && *key != "apiVersion")
}

/// Why nothing is deleted now, if so.
fn keeps_everything(
    folder: &FolderSnapshot,
    reading: &FileReading,
    declared: &BTreeMap<ObjectKey, Manifest>,
) -> Option<&'static str> {
    if folder.files.is_err() {
        Some("until the folder can be read")
    } else if reading.problems.iter().any(|p| p.severity == Severity::Error) {
        Some("until every error of the folder is mended")
    } else if declared.is_empty() {
        Some("because an emptied folder deletes nothing; `ostler down` ends it")
    } else {
        None
    }
}

/// Says what stays although it is not declared. A resource with a problem of its own is not news.
fn kept(gone: &[&ObjectKey], reason: &str, problems: &[PlatformProblem]) -> Vec<PlatformProblem> {
    gone.iter()
        .filter(|key| {
            let name = key.to_string();
            !problems.iter().any(|p| p.about.as_ref() == Some(&name))
        })
        .map(|key| PlatformProblem::warning(format!("keeps its last good version {reason}")).about(key))
        .collect()
}

#[cfg(test)]
mod tests;
