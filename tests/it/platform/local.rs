//! A folder of manifests as a home of resources.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt;
use jiff::SignedDuration;
use kube::{ResourceExt, api::DynamicObject, runtime::watcher::Event};
use ostler::api::{Kind, ObjectKey};
use ostler::platform::{
    Note, ObjectId, Platform, PlatformError,
    local::{LocalConfig, LocalEvent, LocalJournal, LocalPlatform, LocalRecord, LocalRecords, RecordsError},
};
use ostler::telemetry::Loops;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// A folder of its own, gone with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ostler-folder-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path).expect("make a folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).expect("write a file");
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.0.join(file)).expect("remove a file");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Some tests remove it themselves.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Records and events in memory, as a store would keep them.
#[derive(Default)]
pub struct Kept {
    records: Mutex<BTreeMap<ObjectKey, LocalRecord>>,
    events: Mutex<Vec<LocalEvent>>,
    away: AtomicBool,
}

impl Kept {
    fn check(&self) -> Result<(), RecordsError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(RecordsError("the database is away".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl LocalRecords for Kept {
    async fn load(&self) -> Result<Vec<LocalRecord>, RecordsError> {
        self.check()?;
        Ok(self.records.lock().unwrap().values().cloned().collect())
    }

    async fn put(&self, record: &LocalRecord) -> Result<(), RecordsError> {
        self.check()?;
        self.records.lock().unwrap().insert(record.key.clone(), record.clone());
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), RecordsError> {
        self.check()?;
        self.records.lock().unwrap().remove(key);
        Ok(())
    }
}

#[async_trait]
impl LocalJournal for Kept {
    async fn append(&self, event: &LocalEvent) -> Result<(), RecordsError> {
        self.check()?;
        self.events.lock().unwrap().push(event.clone());
        Ok(())
    }
}

pub fn backend(name: &str, port: u16) -> String {
    format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: {name}}}\nspec: {{engine: Ollama, url: 'http://127.0.0.1:{port}'}}\n"
    )
}

/// A followed folder with a short grace period.
struct Home {
    folder: Folder,
    kept: Arc<Kept>,
    platform: Arc<LocalPlatform>,
    stop: CancellationToken,
}

impl Home {
    async fn of(folder: Folder, kept: Arc<Kept>) -> Self {
        let config = LocalConfig {
            deletion_grace: SignedDuration::from_millis(300),
            rescan: Duration::from_millis(500),
            ..LocalConfig::new(folder.path())
        };
        let platform = LocalPlatform::open(config, kept.clone(), kept.clone()).await.expect("open the folder");
        let platform = Arc::new(platform);
        let stop = CancellationToken::new();
        let (running, until) = (platform.clone(), stop.clone());
        tokio::spawn(async move { running.run(&Loops::new(), until).await });
        Self { folder, kept, platform, stop }
    }

    async fn new(files: &[(&str, String)]) -> Self {
        let folder = Folder::new();
        files.iter().for_each(|(name, text)| folder.write(name, text));
        Self::of(folder, Arc::default()).await
    }

    async fn only(&self) -> DynamicObject {
        let mut all = self.platform.list("LLMBackend").await.expect("list");
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// Polls until it holds.
    async fn until(&self, what: &str, holds: impl AsyncFn(&LocalPlatform) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !holds(&self.platform).await {
            let problems = self.platform.problems();
            assert!(tokio::time::Instant::now() < deadline, "{what}; problems: {problems:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub type Watch = futures::stream::BoxStream<'static, Result<Event<DynamicObject>, ostler::platform::WatchError>>;

pub async fn next(watch: &mut Watch) -> String {
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("an event in time");
    match event.expect("a watch never ends").expect("no error") {
        Event::Init => "init".to_owned(),
        Event::InitDone => "done".to_owned(),
        Event::InitApply(object) => format!("has {}", object.name_any()),
        Event::Apply(object) => format!("apply {}", object.name_any()),
        Event::Delete(object) => format!("delete {}", object.name_any()),
    }
}

#[tokio::test]
async fn a_watch_begins_with_all_and_follows_what_is_written_and_removed() {
    let home = Home::new(&[("a.yaml", backend("a", 1))]).await;
    let mut watch = home.platform.watch(Kind::LLMBackend);
    for event in ["init", "has a", "done"] {
        assert_eq!(next(&mut watch).await, event);
    }
    home.folder.write("b.yaml", &backend("b", 2));
    assert_eq!(next(&mut watch).await, "apply b");
    home.folder.write("a.yaml", &backend("a", 3));
    assert_eq!(next(&mut watch).await, "apply a");
    home.folder.remove("a.yaml");
    assert_eq!(next(&mut watch).await, "delete a");
    let mut late = home.platform.watch(Kind::LLMBackend);
    for event in ["init", "has b", "done"] {
        assert_eq!(next(&mut late).await, event);
    }
}

#[tokio::test]
async fn a_new_object_looks_as_the_api_server_would_give_it() {
    let home = Home::new(&[("a.yaml", backend("a", 1))]).await;
    let object = home.only().await;
    assert_eq!(object.types.as_ref().map(|types| types.kind.as_str()), Some("LLMBackend"));
    assert_eq!(object.namespace().as_deref(), Some("default"));
    assert_eq!(object.metadata.generation, Some(1));
    assert!(object.creation_timestamp().is_some() && object.uid().is_some() && object.resource_version().is_some());
    assert_eq!(object.data["spec"]["probe"]["periodSeconds"], 10);
    assert_eq!(object.data["status"], json!({"observedGeneration": -1}));
}

#[tokio::test]
async fn a_status_is_kept_over_changes_and_restarts_and_refused_for_another_version() {
    let home = Home::new(&[("a.yaml", backend("a", 1))]).await;
    let id = ObjectId::of(&home.only().await);
    let status = json!({"observedGeneration": 1, "state": "Serving"});
    home.platform.apply_status(&id, &status).await.expect("the first");
    let stale = home.platform.apply_status(&id, &json!({"observedGeneration": 1})).await;
    assert!(matches!(stale, Err(PlatformError::Conflict(_))), "{stale:?}");
    let now = ObjectId::of(&home.only().await);
    let other = ObjectId { uid: "another".to_owned(), ..now.clone() };
    let replaced = home.platform.apply_status(&other, &status).await;
    assert!(matches!(replaced, Err(PlatformError::Conflict(_))), "{replaced:?}");
    let gone = ObjectId { name: "b".to_owned(), ..now.clone() };
    let missing = home.platform.apply_status(&gone, &status).await;
    assert!(matches!(missing, Err(PlatformError::NotFound(_))), "{missing:?}");
    let wrong = home.platform.apply_status(&now, &json!({"observedGeneration": 1, "state": "Fine"})).await;
    assert!(matches!(&wrong, Err(PlatformError::Invalid(why)) if why.contains("status.state")), "{wrong:?}");

    home.platform.apply_status(&now, &status).await.expect("the same again");
    assert_eq!(ObjectId::of(&home.only().await), now, "writing the same changes nothing");

    home.folder.write("a.yaml", &backend("a", 2));
    home.until("the new spec", async |p| p.list("LLMBackend").await.unwrap()[0].metadata.generation == Some(2)).await;
    let before = home.only().await;
    assert_eq!(before.data["status"], status);

    let again = LocalPlatform::open(LocalConfig::new(home.folder.path()), home.kept.clone(), home.kept.clone()).await;
    let after = again.expect("open again").list("LLMBackend").await.expect("list").remove(0);
    assert_eq!(after, before);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_told_and_comes_later() {
    let home = Home::new(&[("a.yaml", backend("a", 1))]).await;
    let id = ObjectId::of(&home.only().await);
    home.kept.away.store(true, Ordering::SeqCst);
    home.folder.write("a.yaml", &backend("a", 2));
    let refused = home.platform.rescan().await;
    assert!(refused.is_err());
    assert_eq!(home.only().await.metadata.generation, Some(1));
    let status = home.platform.apply_status(&id, &json!({"observedGeneration": 1})).await;
    assert!(matches!(status, Err(PlatformError::Unavailable(_))), "{status:?}");
    home.kept.away.store(false, Ordering::SeqCst);
    home.until("the change", async |p| p.list("LLMBackend").await.unwrap()[0].metadata.generation == Some(2)).await;
}

#[tokio::test]
async fn a_folder_that_was_replaced_is_followed_and_an_absent_one_deletes_nothing() {
    let home = Home::new(&[("a.yaml", backend("a", 1))]).await;
    let path = home.folder.path().to_owned();
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).expect("move the folder away");
    home.until("the problem is told", async |p| p.problems().iter().any(|p| p.message.contains("can't be read"))).await;
    assert_eq!(home.only().await.name_any(), "a");
    fs::create_dir(&path).expect("an empty one in its place");
    home.until("the emptiness is told", async |p| p.problems().iter().any(|p| p.message.contains("emptied"))).await;
    assert_eq!(home.only().await.name_any(), "a");
    fs::write(path.join("a.yaml"), backend("a", 2)).expect("write");
    home.until("it is followed", async |p| p.list("LLMBackend").await.unwrap()[0].metadata.generation == Some(2)).await;
    home.until("all is well", async |p| p.problems().is_empty()).await;
    fs::remove_dir_all(aside).expect("clean up");
}

#[tokio::test]
async fn a_problem_is_told_with_its_place_and_goes_when_it_is_mended() {
    let home = Home::new(&[("a.yaml", backend("a", 1)), ("b.yaml", backend("b", 2).replace("url", "ulr"))]).await;
    let problems = home.platform.problems();
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("b.yaml:4: LLMBackend default/b: spec.ulr: unknown field"), "{said:?}");
    let mut changes = home.platform.watch_problems();
    home.folder.write("b.yaml", &backend("b", 2));
    let mended = tokio::time::timeout(Duration::from_secs(20), changes.wait_for(Vec::is_empty)).await;
    mended.expect("in time").expect("the platform is there");
    assert_eq!(home.platform.list("LLMBackend").await.expect("list").len(), 2);
}

#[tokio::test]
async fn secrets_are_read_from_the_folder_and_kept_out_of_the_records() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {token: hunter2}\n".to_owned();
    let home = Home::new(&[("a.yaml", backend("a", 1)), ("s.yaml", secret)]).await;
    let data = home.platform.secret("default", "s").await.expect("the secret");
    assert_eq!(data["token"], b"hunter2");
    let missing = home.platform.secret("other", "s").await;
    assert!(matches!(missing, Err(PlatformError::NotFound(_))), "{missing:?}");
    assert!(home.kept.records.lock().unwrap().keys().all(|key| key.kind != "Secret"));
    home.folder.remove("s.yaml");
    home.until("it goes", async |p| p.secret("default", "s").await.is_err()).await;
}

#[tokio::test]
async fn the_same_event_is_not_repeated() {
    let home = Home::new(&[("a.yaml", backend("a", 1))]).await;
    let id = ObjectId::of(&home.only().await);
    let note = |message: &str| Note {
        warning: true,
        reason: "Down".to_owned(),
        action: "Probe".to_owned(),
        message: message.to_owned(),
    };
    for message in ["refused", "refused", "timed out"] {
        home.platform.publish(&id, &note(message)).await.expect("publish");
    }
    let said: Vec<String> = home.kept.events.lock().unwrap().iter().map(|event| event.message.clone()).collect();
    assert_eq!(said, ["refused", "timed out"]);
}

#[tokio::test]
async fn a_single_file_is_a_home_too() {
    let folder = Folder::new();
    folder.write("a.yaml", &backend("a", 1));
    folder.write("b.yaml", &backend("b", 1));
    let kept = Arc::new(Kept::default());
    let config = LocalConfig::new(folder.path().join("a.yaml"));
    let platform = LocalPlatform::open(config, kept.clone(), kept).await.expect("open");
    let names: Vec<String> =
        platform.list("LLMBackend").await.expect("list").iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["a"]);
}
