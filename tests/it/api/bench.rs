//! An API with a database and a folder of its own.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ostler::{
    agent,
    cli::Records,
    http::{self, Api, Authorizer, Problem, ResourceHome, TokenAuthorizer},
    net::{HttpClient, install_crypto},
    platform::{
        Platform,
        local::{LocalConfig, LocalPlatform},
    },
    store::{self, Fence, FreeClaim, Served, Store, rounds, seal, sqlite::FolderAccess},
    tasks::{NewTask, Payload, QueueKey},
    telemetry::{Loops, Metrics},
};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Where a proxy serves the dashboard.
pub const EXTERNAL: &str = "https://ostler.example:8443";
pub const TOKEN: &str = "the token of this test";

/// Two backends and a broken one.
pub const TEAM: &str = "
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {name: mlx}
spec: {engine: MLX, url: 'http://127.0.0.1:11435'}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {name: ollama, namespace: team}
spec: {engine: Ollama, url: 'http://127.0.0.1:11434', suspend: true}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {name: broken}
spec: {engine: Ollama, uri: 'http://127.0.0.1:1'}
";

pub struct Bench {
    folder: PathBuf,
    pub store: Arc<dyn Store>,
    pub platform: Arc<LocalPlatform>,
    pub loops: Loops,
    pub down: CancellationToken,
    base: String,
    client: reqwest::Client,
    shutdown: CancellationToken,
}

impl Bench {
    pub async fn new(manifests: &str) -> Self {
        Self::with(manifests, Arc::new(TokenAuthorizer::new(TOKEN, "ada")), ResourceHome::Folder).await
    }

    pub async fn with(manifests: &str, authorizer: Arc<dyn Authorizer>, home: ResourceHome) -> Self {
        Self::made(manifests, authorizer, home, None, None).await
    }

    /// On an empty PostgreSQL database.
    pub async fn postgres(url: &str) -> Self {
        let data = store::Home::Postgres(url.parse().unwrap());
        store::migrate(&data, None, false).await.unwrap();
        Self::made("", Arc::new(TokenAuthorizer::new(TOKEN, "ada")), ResourceHome::Folder, None, Some(data)).await
    }

    /// Without a folder, with Secrets sealed in the database.
    pub async fn sealed(authorizer: Arc<dyn Authorizer>, home: ResourceHome, key: seal::Key) -> Self {
        Self::made("", authorizer, home, Some(key), None).await
    }

    async fn made(
        manifests: &str,
        authorizer: Arc<dyn Authorizer>,
        home: ResourceHome,
        sealing: Option<seal::Key>,
        data: Option<store::Home>,
    ) -> Self {
        install_crypto();
        let folder = std::env::temp_dir().join(format!("ostler-api-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("manifests")).unwrap();
        fs::write(folder.join("manifests/team.yaml"), manifests).unwrap();
        fs::create_dir_all(folder.join("data")).unwrap();
        let data = data.unwrap_or_else(|| store::Home::Folder { path: folder.join("data"), hold: FolderAccess::Lock });
        let store = store::open(&data, None).await.unwrap();
        let records = Arc::new(Records(Arc::clone(&store)));
        let config = LocalConfig { kinds: vec![agent::local_kind()], ..LocalConfig::new(folder.join("manifests")) };
        let platform = Arc::new(LocalPlatform::open(config, Arc::clone(&records) as _, records).await.unwrap());
        let (loops, down, shutdown) = (Loops::new(), CancellationToken::new(), CancellationToken::new());
        let problems = Arc::clone(&platform);
        let api = Api {
            store: Arc::clone(&store),
            platform: Arc::clone(&platform) as Arc<dyn Platform>,
            authorizer,
            home,
            sealing,
            http: HttpClient::direct().unwrap(),
            metrics: Metrics::new(),
            loops: loops.clone(),
            problems: Arc::new(move || problems.problems().into_iter().map(Problem::from).collect()),
            down: Some(down.clone()),
            external_url: Some(EXTERNAL.parse().unwrap()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(http::serve(listener, api, shutdown.clone()));
        Self { folder, store, platform, loops, down, base, client: reqwest::Client::new(), shutdown }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// A request, to be completed.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).timeout(Duration::from_secs(60))
    }

    /// A new task of a webhook expert, handed over; with its claim's epoch.
    pub async fn hand_over(&self, expert: &str, fence: &Fence) -> (i64, i64) {
        let task = NewTask {
            namespace: "default".to_owned(),
            queue: "default".to_owned(),
            payload: Payload { prompt: Some("a".to_owned()), ..Payload::default() },
            expert: Some(expert.to_owned()),
            ..NewTask::default()
        };
        let id = self.store.insert_tasks(&[task]).await.unwrap()[0].id;
        rounds::assign_once(&*self.store, Some(fence), None).await.unwrap();
        let queue = QueueKey { namespace: "default".into(), name: "default".into() };
        let lease = self.store.open_lease("w", &queue, Duration::from_secs(60)).await.unwrap();
        let claim = FreeClaim { queues: vec![Served { queue, lease }], most: 1 };
        let epoch = self.store.claim_free(&claim).await.unwrap()[0].task.epoch;
        self.store.hand_over(id, epoch, Duration::from_secs(60)).await.unwrap();
        (id, epoch)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// As whoever has this token; without one, as nobody.
    pub async fn ask(
        &self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).timeout(Duration::from_secs(20));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Some(TOKEN), Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.ask(Some(TOKEN), Method::POST, path, body).await
    }

    /// Sends a text as it is.
    pub async fn text(&self, path: &str, body: &str) -> (StatusCode, Value) {
        let request = self.client.post(format!("{}{path}", self.base)).timeout(Duration::from_secs(60));
        let response = request.bearer_auth(TOKEN).body(body.to_owned()).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Begins to read a stream of events, after this one.
    pub async fn open(&self, path: &str, last: Option<&str>) -> reqwest::Response {
        let mut request = self.client.get(format!("{}{path}", self.base)).bearer_auth(TOKEN);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        request.send().await.unwrap()
    }

    /// Takes the lead, for a minute.
    pub async fn lead(&self) -> Fence {
        self.store.campaign("the test", Duration::from_secs(60)).await.unwrap().expect("nobody else leads")
    }

    /// Answers requests for rounds of assignment, as a leader does, and assigns nothing unasked.
    pub fn answer_rounds(&self, fence: Fence) {
        let (store, shutdown) = (Arc::clone(&self.store), self.shutdown.clone());
        tokio::spawn(shutdown.run_until_cancelled_owned(async move {
            let mut answered = HashMap::new();
            loop {
                let asked = store.controls().await.unwrap().reconcile_requested;
                for (key, token) in asked.into_iter().filter(|(key, _)| key.kind == rounds::ROUND_KIND) {
                    if answered.get(&key.namespace) != Some(&token) {
                        let namespace = Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty());
                        rounds::answer(&*store, &fence, namespace, &token).await.unwrap();
                        answered.insert(key.namespace, token);
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }

    /// Uid of a backend.
    pub async fn uid(&self, name: &str) -> String {
        let all = self.platform.list("LLMBackend").await.unwrap();
        all.into_iter().find(|o| o.metadata.name.as_deref() == Some(name)).unwrap().metadata.uid.unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
