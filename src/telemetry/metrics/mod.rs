//! What Prometheus reads. One value per process, passed to whoever counts; docs/metrics.md lists every name.

mod agent;
mod backends;
mod causes;
mod containers;
mod gateway;
mod process;
mod reconciles;
mod tasks;
mod worker;

use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Metric, Registry},
};

pub use agent::AgentMetrics;
pub use backends::BackendMetrics;
pub use causes::CauseMetrics;
pub use containers::ContainerMetrics;
pub use gateway::{GatewayCallEnd, GatewayMetrics};
pub use process::ProcessMetrics;
pub use reconciles::ReconcileMetrics;
pub use tasks::TaskMetrics;
pub use worker::WorkerMetrics;

use super::Troubles;

/// Everything that is counted in this process, by who counts it. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Passes of the controllers.
    pub reconciles: ReconcileMetrics,
    /// Backends as the leader sees them.
    pub backends: BackendMetrics,
    /// Causes as the leader sees them, and messages about them.
    pub causes: CauseMetrics,
    /// Containers of checks as the leader sees them.
    pub containers: ContainerMetrics,
    /// Tasks as the leader sees them.
    pub tasks: TaskMetrics,
    /// Leadership, database and writes to the platform.
    pub process: ProcessMetrics,
    /// Services of host agents in this process.
    pub agent: AgentMetrics,
    /// Workers in this process.
    pub worker: WorkerMetrics,
    /// Gateways in this process.
    pub gateway: GatewayMetrics,
    /// What can't be done now.
    pub troubles: Troubles,
    registries: Arc<[Registry; 2]>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("ostler");
        // Names that others have too.
        let mut common = Registry::default();
        let troubles = Troubles::default();
        registry.register("build", "The version that runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        Self {
            reconciles: ReconcileMetrics::register(&mut registry),
            backends: BackendMetrics::register(&mut registry),
            causes: CauseMetrics::register(&mut registry),
            containers: ContainerMetrics::register(&mut registry),
            tasks: TaskMetrics::register(&mut registry),
            process: ProcessMetrics::register(&mut registry),
            agent: AgentMetrics::register(&mut registry),
            worker: WorkerMetrics::register(&mut registry, troubles.clone()),
            gateway: GatewayMetrics::register(&mut registry, &mut common),
            troubles,
            registries: Arc::new([registry, common]),
        }
    }

    /// The page that Prometheus reads (OpenMetrics text). `now` gives ages their value.
    pub fn render(&self, now: Timestamp) -> String {
        self.backends.age_deferrals(now);
        self.tasks.age(now);
        let mut page = String::new();
        // Writing into a String can't fail.
        for registry in &*self.registries {
            let _ = encode_registry(&mut page, registry);
        }
        let _ = encode_eof(&mut page);
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers a new metric, and returns it.
fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    registered_as(registry, name, help, M::default())
}

/// The same for a metric that has no default, such as a histogram.
fn registered_as<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

type NewHistogram = fn() -> Histogram;

/// From a millisecond to about a minute.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn page(metrics: &Metrics) -> String {
        metrics.render(Timestamp::from_second(1_000).unwrap())
    }

    #[test]
    fn the_names_are_those_that_operators_know() {
        let metrics = Metrics::new();
        metrics.reconciles.finished("llmbackend", Duration::from_millis(3));
        metrics.reconciles.failed("llmbackend", "StoreUnavailable", Duration::from_millis(3));
        metrics.reconciles.queue_depth("llmbackend", 4);
        metrics.backends.recovery("default", "mlx", "Refused", "Restart", "Helped");
        metrics.process.platform_write("LLMBackend", "status");
        let page = page(&metrics);
        for line in [
            r#"ostler_reconcile_total{controller="llmbackend",result="success"} 1"#,
            r#"ostler_reconcile_total{controller="llmbackend",result="error"} 1"#,
            r#"ostler_reconcile_errors_total{controller="llmbackend",reason="StoreUnavailable"} 1"#,
            r#"ostler_reconcile_duration_seconds_count{controller="llmbackend"} 2"#,
            r#"ostler_reconcile_queue_depth{controller="llmbackend"} 4"#,
            r#"ostler_recoveries_total{namespace="default",name="mlx",cause="Refused",step="Restart",outcome="Helped"} 1"#,
            r#"ostler_platform_writes_total{kind="LLMBackend",what="status"} 1"#,
            "ostler_deferred_to_human 0",
            "ostler_leader 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_backend_is_in_one_state_and_its_old_ones_fall_to_zero() {
        let metrics = Metrics::new();
        metrics.backends.state("default", "mlx", "Serving", true);
        metrics.backends.state("default", "mlx", "Down", false);
        let page = page(&metrics);
        for line in [
            r#"ostler_backend_state{namespace="default",name="mlx",state="Serving"} 0"#,
            r#"ostler_backend_state{namespace="default",name="mlx",state="Down"} 1"#,
            r#"ostler_backend_ready{namespace="default",name="mlx"} 0"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_deferral_has_an_age_that_grows_until_it_ends() {
        let metrics = Metrics::new();
        let since = Timestamp::from_second(880).unwrap();
        metrics.backends.deferred("default", "mlx", Some(since));
        let during = page(&metrics);
        assert!(during.contains(r#"ostler_deferred_age_seconds{namespace="default",name="mlx"} 120"#), "{during}");
        assert!(during.contains("ostler_deferred_to_human 1"));
        metrics.backends.deferred("default", "mlx", None);
        let after = page(&metrics);
        assert!(!after.contains("deferred_age_seconds{") && after.contains("ostler_deferred_to_human 0"));
    }

    #[test]
    fn a_backend_that_is_gone_leaves_nothing_behind() {
        let metrics = Metrics::new();
        let backends = &metrics.backends;
        backends.state("default", "mlx", "Down", false);
        backends.limit("default", "mlx", 2);
        backends.slots_in_use("default", "mlx", 1);
        backends.probe("default", "mlx", Duration::from_millis(1));
        backends.canary("default", "mlx", Duration::from_millis(1));
        backends.deferred("default", "mlx", Some(Timestamp::UNIX_EPOCH));
        backends.recovery("default", "mlx", "Refused", "Restart", "Helped");
        backends.forget("default", "mlx");
        // Counters stay: a rate over the last hour still counts what was done to it.
        let left: Vec<_> = page(&metrics).lines().filter(|l| l.contains("mlx")).map(str::to_owned).collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_queue_without_tasks_disappears_and_ages_grow() {
        let metrics = Metrics::new();
        metrics.tasks.queue("default", "night", &[("pending", 2), ("deferred_to_human", 1)]);
        metrics.tasks.oldest("default", "night", Some(Timestamp::from_second(900).unwrap()), None);
        let shown = page(&metrics);
        for line in [
            r#"ostler_tasks{namespace="default",queue="night",state="pending"} 2"#,
            r#"ostler_task_oldest_pending_seconds{namespace="default",queue="night"} 100.0"#,
            r#"ostler_task_deferred_age_seconds{namespace="default",queue="night"} 0.0"#,
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
        metrics.tasks.forget_all();
        assert!(!page(&metrics).contains("night"));
    }

    /// A family without a series is not on the page.
    fn counted_everywhere() -> Metrics {
        let metrics = Metrics::new();
        let (backends, agent, took) = (&metrics.backends, &metrics.agent, Duration::from_millis(1));
        metrics.reconciles.failed("a", "b", took);
        metrics.reconciles.queue_depth("a", 1);
        metrics.reconciles.undecodable("a", 1);
        metrics.reconciles.watch_failing("a", "b", true);
        backends.state("a", "b", "c", true);
        backends.limit("a", "b", 1);
        backends.slots_in_use("a", "b", 1);
        backends.probe("a", "b", took);
        backends.canary("a", "b", took);
        backends.recovery("a", "b", "c", "d", "e");
        backends.deferred("a", "b", Some(Timestamp::UNIX_EPOCH));
        metrics.causes.show_one("Critical", "Down", "a/b");
        metrics.causes.sent("Slack", true);
        metrics.containers.seen("a", "b", 2, 1);
        metrics.containers.ran_out_of_memory("a", "b", 1);
        metrics.containers.acted("a", "b", "Up", "Done");
        metrics.tasks.queue("a", "b", &[("pending", 1)]);
        metrics.tasks.oldest("a", "b", None, Some(Timestamp::UNIX_EPOCH));
        metrics.tasks.reaped(1, 1, 0, 0);
        metrics.process.store_error("a");
        metrics.process.platform_write("a", "b");
        agent.refused("a", "b");
        agent.operation("a", "b", "c", "d");
        agent.self_started("a", "b");
        agent.service_up("a", "b", true);
        agent.service_left("a", "b", true, true);
        let worker = &metrics.worker;
        worker.in_flight("a", "b", 1);
        worker.allowed("a", "b", 1);
        worker.claimed("a", "b");
        worker.ended("a", "b", "c", "Ok", 1, took);
        metrics.gateway.refused("Full");
        metrics.gateway.looked_up(true);
        metrics.gateway.waited(took);
        metrics.gateway.ended(&GatewayCallEnd {
            path: "/v1/chat/completions",
            operation: "chat",
            provider: "mlx",
            model: "a",
            backend: "b",
            status: "served",
            took,
            first_token: Some(took),
            prompt_tokens: Some(1),
            completion_tokens: Some(2),
        });
        metrics
    }

    /// As OpenTelemetry's collectors and boards know them.
    #[test]
    fn calls_are_counted_by_the_conventions_for_generative_ai() {
        let page = page(&counted_everywhere());
        let labels =
            r#"gen_ai_operation_name="chat",gen_ai_provider_name="mlx",gen_ai_request_model="a",ostler_backend="b""#;
        for line in [
            format!(r#"gen_ai_server_request_duration_seconds_count{{{labels},error_type=""}} 1"#),
            format!("gen_ai_server_time_to_first_token_seconds_count{{{labels}}} 1"),
            format!("gen_ai_server_time_per_output_token_seconds_count{{{labels}}} 1"),
            format!(r#"gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="input"}} 1.0"#),
            format!(r#"gen_ai_client_token_usage_bucket{{le="67108864.0",{labels},gen_ai_token_type="output"}} 1"#),
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert_eq!(page.matches("# EOF").count(), 1, "one page");
    }

    #[test]
    fn every_name_is_documented_and_every_documented_name_is_there() {
        let documented = include_str!("../../../docs/metrics.md");
        let page = page(&counted_everywhere());
        let described: Vec<(&str, &str)> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        assert!(described.len() > 15, "{page}");
        let mut known = Vec::new();
        for (name, kind) in described {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let row = format!("| `{name}{suffix}` | {kind} |");
            assert!(documented.contains(&row), "docs/metrics.md lacks {row}");
            known.push(row);
        }
        let rows = documented.lines().filter(|line| line.starts_with("| `ostler_") || line.starts_with("| `gen_ai_"));
        for row in rows {
            assert!(known.iter().any(|k| row.starts_with(k.as_str())), "there is no such metric: {row}");
        }
    }
}
