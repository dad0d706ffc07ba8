//! How much memory containers with a limit use: asked now and then, and the most of it kept.

use std::{path::PathBuf, sync::Arc};

use bollard::models::ContainerStatsResponse;
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    engine::{DockerEngine, DockerError},
    seen::ContainerCache,
};

const PERIOD: Duration = Duration::from_secs(15);
/// How many containers are asked each time, the others next time: asking thousands would cost more than it tells.
const AT_ONCE: usize = 50;

pub async fn run(socket: PathBuf, seen: Arc<ContainerCache>, shutdown: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let ids = next(&seen, &last);
        last = ids.last().cloned().unwrap_or_default();
        // The watch says when the engine is away; here it is just not asked.
        if let Some(Err(error)) = shutdown.run_until_cancelled(sample(&socket, &seen, &ids)).await {
            tracing::debug!(%error, "memory of containers not sampled");
        }
    }
}

/// Those that come after the last one, and then from the beginning.
fn next(seen: &ContainerCache, last: &str) -> Vec<String> {
    let limited = |id: &String| seen.get(id).is_some_and(|f| f.runs() && f.report.memory_limit.is_some());
    let ids: Vec<_> = seen.ids().into_iter().filter(limited).collect();
    let after = ids.partition_point(|id| id.as_str() <= last);
    ids[after..].iter().chain(&ids[..after]).take(AT_ONCE).cloned().collect()
}

async fn sample(socket: &std::path::Path, seen: &ContainerCache, ids: &[String]) -> Result<(), DockerError> {
    if ids.is_empty() {
        return Ok(());
    }
    let engine = DockerEngine::connect(socket).await?;
    for id in ids {
        match engine.stats(id).await {
            Ok(stats) => {
                if let Some(bytes) = stats.as_ref().and_then(used) {
                    seen.used_memory(id, bytes);
                }
            }
            // It went meanwhile.
            Err(DockerError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Bytes in use without the page cache that the kernel would give back, as `docker stats` counts.
fn used(stats: &ContainerStatsResponse) -> Option<i64> {
    let memory = stats.memory_stats.as_ref()?;
    let usage = memory.usage?;
    let detail = |name: &str| memory.stats.as_ref().and_then(|s| s.get(name)).copied();
    let cache = detail("total_inactive_file").or_else(|| detail("inactive_file")).unwrap_or(0);
    i64::try_from(usage.saturating_sub(cache)).ok().filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_cache_is_not_counted() {
        for (stats, expected) in [
            (json!({"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 10}}), Some(70)),
            (json!({"usage": 100, "stats": {"inactive_file": 10}}), Some(90)),
            (json!({"usage": 100}), Some(100)),
            (json!({}), None),
        ] {
            let stats: ContainerStatsResponse = serde_json::from_value(json!({"memory_stats": stats})).unwrap();
            assert_eq!(used(&stats), expected, "{stats:?}");
        }
    }
}
