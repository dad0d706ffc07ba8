//! Many probes of slow but healthy servers restart nothing.

use std::time::{Duration, Instant};

use ostler::{engines::EngineKind, simulate};

use super::harness::Up;

#[tokio::test]
async fn a_thousand_probes_of_slow_but_healthy_servers_restart_nothing() {
    const SERVERS: usize = 50;
    let mut servers = Vec::new();
    let mut yaml = String::new();
    for n in 0..SERVERS {
        let options = simulate::SimulateOptions::new(EngineKind::Ollama).with_models(&["small"]);
        let server = simulate::SimulatedServer::start(options).await.unwrap();
        server.add_fault("latency:millis=900".parse::<simulate::ActiveFault>().unwrap());
        yaml.push_str(&format!(
            "---\napiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: slow-{n}}}\nspec:\n  engine: Ollama\n  url: {}\n  \
             models: [{{name: small}}]\n  probe: {{periodSeconds: 1, timeoutSeconds: 5}}\n  \
             recovery: {{webhook: {{url: 'http://127.0.0.1:1/restart'}}}}\n",
            server.url()
        ));
        servers.push(server);
    }
    let up = Up::start(&[("slow.yaml", &yaml)]).await;
    let begun = Instant::now();
    let probes = |metrics: &str| -> f64 {
        metrics
            .lines()
            .filter(|l| l.starts_with("ostler_probe_duration_seconds_count"))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    loop {
        let metrics = up.get("/metrics").await;
        if probes(metrics.as_str().unwrap_or_default()) >= 1000.0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(180), "1,000 probes take too long");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for n in 0..SERVERS {
        let backend = up.until_ready(&format!("slow-{n}")).await;
        assert!(backend["status"]["recovery"].is_null(), "{:#}", backend["status"]);
    }
}
