//! `kill -9` of `ostler up` at each crash point and at random moments, and start again: nothing twice, nothing forgotten.

use std::time::Duration;

use rand::{Rng, SeedableRng};

use crate::real::free_port;

use super::{
    harness::{Up, is_ready},
    healing::{engines_on, kill, manifests},
};

/// Points in the middle of a recovery: (crash point, where the engine is dead when it comes).
const POINTS: [&str; 4] = ["recovery.committed", "recovery.sent", "recovery.recorded", "canary.slot-taken"];

#[tokio::test]
async fn after_a_crash_at_any_point_of_a_recovery_no_engine_runs_twice_and_attempts_are_as_before() {
    for point in POINTS {
        let port = free_port();
        let mut up = Up::prepare(&[("all.yaml", &manifests(port, free_port(), "", ""))]);
        if point == "canary.slot-taken" {
            // The first proof already comes by this point.
            up.spawn(&[("OSTLER_CRASH_POINT", point)]);
            up.ended().await;
            up.run(&[]).await;
            up.until_ready("ollama").await;
            assert_eq!(engines_on(port).len(), 1, "{point}");
            continue;
        }
        up.run(&[("OSTLER_CRASH_POINT", point)]).await;
        up.until_ready("ollama").await;
        kill(engines_on(port)[0]);
        up.ended().await;
        up.run(&[]).await;
        // What status said before the crash holds until the server was asked anew.
        let attempts = |b: &serde_json::Value| b["status"]["recovery"]["attempts"].as_i64().unwrap_or(0);
        let healed = |b: &serde_json::Value| is_ready(b) && engines_on(port).len() == 1 && attempts(b) > 0;
        let back = up.until("ollama", &format!("ready with its attempt after a crash at {point}"), healed).await;
        assert!(attempts(&back) <= 2, "{point}: {:#}", back["status"]);
    }
}

#[tokio::test]
async fn killed_at_random_moments_it_takes_up_what_it_left() {
    let seed: u64 =
        std::env::var("OSTLER_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| rand::rng().random());
    eprintln!("OSTLER_TEST_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let port = free_port();
    // More attempts than there are blows: it would rightly call for a person.
    let manifests =
        manifests(port, free_port(), "", "").replace("periodSeconds: 1}", "periodSeconds: 1, maxAttempts: 20}");
    assert!(manifests.contains("maxAttempts"), "{manifests}");
    let mut up = Up::start(&[("all.yaml", &manifests)]).await;
    up.until_ready("ollama").await;
    for round in 0..4 {
        if random.random_bool(0.5) {
            engines_on(port).into_iter().for_each(kill);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4000))).await;
        up.kill();
        up.run(&[]).await;
        assert!(engines_on(port).len() <= 1, "round {round}, seed {seed}: {:?}", engines_on(port));
    }
    up.until("ollama", &format!("ready again, seed {seed}"), |b| is_ready(b) && engines_on(port).len() == 1).await;
}
