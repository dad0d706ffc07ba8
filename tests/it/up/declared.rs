//! Manifests of a folder, built piece by piece.

use std::fmt::{Display, Write};

use serde_json::{Map, Value, json};

use crate::real::{Mlx, Ollama, free_port};

use super::harness::Up;

/// Resources, one after the other. A spec is what stands between the braces of a YAML mapping.
#[derive(Clone, Debug, Default)]
pub struct Manifests(String);

impl Manifests {
    pub fn with(mut self, kind: &str, name: &str, spec: impl Display) -> Self {
        let head = format!("apiVersion: ostler.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}");
        writeln!(self.0, "---\n{head}\nspec: {{{spec}}}").unwrap();
        self
    }

    /// `rest` is the spec beside engine, URL and models.
    pub fn backend(self, name: &str, engine: &str, url: &str, models: &str, rest: &str) -> Self {
        let rest = if rest.is_empty() { String::new() } else { format!(", {rest}") };
        self.with("LLMBackend", name, format!("engine: {engine}, url: '{url}', models: [{models}]{rest}"))
    }

    /// An expert of the domain `backend` who asks for the model `small`, the default queue, which gives him its tasks, and a pool.
    pub fn work(self, parameters: &str, queue: &str) -> Self {
        let expert = format!("domains: [backend], model: small, maxConcurrentTasks: 50, parameters: {{{parameters}}}");
        let queue = if queue.is_empty() { String::new() } else { format!(", {queue}") };
        self.with("Expert", "igor", expert)
            .with("TaskQueue", "default", format!("defaultExpertRef: {{name: igor}}{queue}"))
            .with("WorkerPool", "smart", "queueRefs: [{name: default}]")
    }

    /// An agent `here` that runs one process as the service `name`.
    pub fn service(self, name: &str, command: &[String], environment: &[(String, String)], check: &str) -> Self {
        let environment: Map<_, _> = environment.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let services = json!([{
            "name": name, "manager": "Process", "start": {"command": command, "environment": environment},
            "check": {"url": check}, "log": {"file": format!("{name}.log")},
        }]);
        self.with("AgentConfig", "here", format!("listen: '127.0.0.1:{}', services: {services}", free_port()))
    }

    pub fn ollama_service(self, ollama: &Ollama, environment: &[(String, String)]) -> Self {
        let command: Vec<String> = Ollama::command().iter().map(ToString::to_string).collect();
        self.service("ollama", &command, environment, &format!("{}/api/version", ollama.url()))
    }

    pub fn mlx_service(self, mlx: &Mlx) -> Self {
        self.service("mlx", &mlx.command(), &mlx.environment(), &format!("{}/health", mlx.url()))
    }

    pub async fn up(&self) -> Up {
        Up::start(&[("all.yaml", self.text())]).await
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

/// How a service is named under a backend's `recovery`.
pub fn recovery(service: &str, rest: &str) -> String {
    let rest = if rest.is_empty() { String::new() } else { format!(", {rest}") };
    format!("recovery: {{hostAgentRef: {{name: here}}, service: {service}{rest}}}")
}

/// The model that the simulated MLX lists.
pub const MLX_MODEL: &str = "{name: mlx-community/Llama-3.2-3B-Instruct-4bit, alias: small}";

/// Tasks for the expert of [`Manifests::work`].
pub fn prompts(count: usize) -> impl Iterator<Item = Value> {
    (0..count).map(|n| json!({"prompt": format!("task {n}"), "domain": "backend"}))
}
