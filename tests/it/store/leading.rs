//! Leadership: one holder, an epoch that only rises, and writes that are refused to whoever lost it.

use std::time::Duration;

use ostler::store::{Fence, LeadState, LeaseTimings, Observation, StoreError, Term, lead};
use ostler::telemetry::Loops;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, LEASE, URL, backend, eventually, server};

pub async fn the_epoch_only_rises(bench: &Bench) {
    assert_eq!(bench.store.leader().await, Ok(None));
    let mut last = 0;
    for holder in ["a", "b", "a", "c"] {
        let fence = bench.lead(holder).await;
        assert!(fence.epoch > last, "{} after {last}", fence.epoch);
        let again = bench.lead(holder).await;
        assert_eq!(again, fence, "the holder has it already: the same epoch");
        let leader = bench.store.leader().await.expect("read").expect("somebody leads");
        assert_eq!((leader.holder.as_str(), leader.epoch), (holder, fence.epoch));
        assert!(leader.expires_in > LEASE / 2 && leader.expires_in <= LEASE, "{leader:?}");
        last = fence.epoch;
        bench.store.resign(&fence).await.expect("resign");
        assert_eq!(bench.store.leader().await, Ok(None));
    }
}

/// After a restore: agents have seen higher epochs than the database knows.
pub async fn a_raised_epoch_is_kept_and_the_next_one_is_higher(bench: &Bench) {
    let lead = bench.lead("migrate").await;
    let raised = bench.store.raise_epoch(&lead, 1_000).await.expect("raise");
    assert_eq!(raised, Fence { epoch: lead.epoch + 1_000, ..lead.clone() });
    let old = bench.store.raise_epoch(&lead, 1_000).await;
    assert!(matches!(old, Err(StoreError::Fenced(_))), "{old:?}");
    bench.store.resign(&raised).await.expect("resign");
    assert_eq!(bench.lead("b").await.epoch, raised.epoch + 1);
}

pub async fn a_renewal_keeps_the_epoch_and_a_lost_lead_is_not_renewed(bench: &Bench) {
    let first = bench.store.campaign("a", Duration::ZERO).await.expect("campaign").expect("free");
    bench.store.renew(&first, Duration::ZERO).await.expect("lapsed, but nobody took it: a pause is not a death");
    let second = bench.lead("b").await;
    let answer = bench.store.renew(&first, LEASE).await;
    assert!(matches!(answer, Err(StoreError::Fenced(_))), "{answer:?}");
    bench.store.resign(&first).await.expect("does no harm");
    bench.store.renew(&second, LEASE).await.expect("the new leader's term is untouched");
}

async fn all_writes(bench: &Bench, fence: &Fence) -> Vec<(&'static str, Option<StoreError>)> {
    let store = &bench.store;
    let mut changed = backend("u1");
    changed.generation += 1;
    let observed = [("u1".to_owned(), Observation::default())];
    vec![
        ("project_backend", store.project_backend(fence, &changed).await.err()),
        ("sweep_backends", store.sweep_backends(fence, &[]).await.err()),
        ("record_observations", store.record_observations(fence, &observed).await.err()),
        ("save_recovery", store.save_recovery(fence, "u1", &json!({"attempts": 9})).await.err()),
        ("put_server", store.put_server(fence, &server(9)).await.err()),
        ("abort_slots", store.abort_slots(fence, URL).await.err()),
    ]
}

async fn nothing_may_be_written(bench: &Bench, fence: &Fence) {
    for (name, error) in all_writes(bench, fence).await {
        assert!(matches!(error, Some(StoreError::Fenced(_))), "{name}: {error:?}");
    }
    assert_eq!(bench.store.backends().await, Ok(vec![backend("u1")]));
    assert_eq!(bench.store.observations().await, Ok(vec![]));
    assert_eq!(bench.store.recovery("u1").await, Ok(None));
    assert_eq!(bench.store.server(URL).await, Ok(Some(server(2))));
}

pub async fn every_write_of_an_old_leader_is_refused(bench: &Bench) {
    let old = bench.serving(2).await;
    bench.store.project_backend(&old, &backend("u1")).await.expect("leads");
    bench.store.resign(&old).await.expect("resign");
    nothing_may_be_written(bench, &old).await;
    let new = bench.lead("successor").await;
    nothing_may_be_written(bench, &old).await;
    nothing_may_be_written(bench, &Fence { epoch: old.epoch, ..new.clone() }).await;
    nothing_may_be_written(bench, &Fence { epoch: new.epoch + 1, ..new.clone() }).await;
    for (name, error) in all_writes(bench, &new).await {
        assert_eq!(error, None, "{name}");
    }
}

pub async fn a_lapsed_leader_writes_nothing_until_it_renews(bench: &Bench) {
    let fence = bench.serving(2).await;
    bench.store.project_backend(&fence, &backend("u1")).await.expect("leads");
    bench.store.renew(&fence, Duration::ZERO).await.expect("renew");
    nothing_may_be_written(bench, &fence).await;
    bench.store.renew(&fence, LEASE).await.expect("renew");
    for (name, error) in all_writes(bench, &fence).await {
        assert_eq!(error, None, "{name}");
    }
}

/// Quicker than in earnest, but with a deadline that a busy machine's stalls don't reach.
const QUICK: LeaseTimings = LeaseTimings {
    lease: Duration::from_secs(8),
    renew_deadline: Duration::from_secs(6),
    retry: Duration::from_millis(100),
    renew: Duration::from_millis(100),
};

/// Takes the lead from a runner that goes on renewing it.
async fn usurp(bench: &Bench, term: &Term) -> Fence {
    loop {
        bench.store.renew(term.fence(), Duration::ZERO).await.expect("still its lead");
        if let Some(fence) = bench.store.campaign("usurper", LEASE).await.expect("campaign") {
            return fence;
        }
    }
}

pub async fn the_runner_leads_renews_and_resigns(bench: &Bench) {
    let shutdown = CancellationToken::new();
    let watch = lead(bench.store.clone(), "a".to_owned(), QUICK, &Loops::new(), shutdown.clone());
    let mut states = watch.subscribe();
    let state = states.wait_for(|state| matches!(state, LeadState::Leading(_))).await.expect("runs").clone();
    let term = state.term().expect("leads").clone();
    let first_expiry = term.expires_at();
    eventually("several renewals", async || term.expires_at() > first_expiry + 3 * QUICK.retry).await;
    assert!(term.still_leads());
    bench
        .store
        .record_observations(term.fence(), &[("u1".to_owned(), Observation::default())])
        .await
        .expect("leads in the database, too");

    // Somebody else takes it, as if we had been asleep: noticed at the next renewal.
    let usurper = usurp(bench, &term).await;
    term.ended().cancelled().await;
    assert!(!term.still_leads());
    bench.store.resign(&usurper).await.expect("resign");
    let risen = |state: &LeadState| state.term().is_some_and(|new| new.fence().epoch > term.fence().epoch);
    states.wait_for(risen).await.expect("runs");

    let last = watch.term().expect("leads");
    shutdown.cancel();
    watch.stopped().await;
    assert!(last.ended().is_cancelled() && !last.still_leads());
    assert_eq!(bench.store.leader().await, Ok(None), "a successor need not wait");
}

/// What only PostgreSQL has: several who could lead.
mod real_contenders {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_contenders_one_leads_at_a_time() {
        let bench = Bench::postgres().await;
        let mut contenders = Vec::new();
        for number in 0..20 {
            let store = if number % 5 == 0 { bench.peer().await } else { bench.store.clone() };
            contenders.push(tokio::spawn(async move {
                // A crowd on two cores: the database may be slower than a store's patience.
                loop {
                    match store.campaign(&format!("contender-{number}"), LEASE).await {
                        Err(StoreError::Unavailable(_)) => {}
                        answer => return answer.expect("campaign"),
                    }
                }
            }));
        }
        let mut winners = Vec::new();
        for contender in contenders {
            winners.extend(contender.await.expect("no panic"));
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(winners[0].epoch, 1, "who lost changed nothing");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_graceful_leader_hands_over_at_once_and_a_silent_one_after_its_lease() {
        let bench = Bench::postgres().await;
        let run = |store, name: &str| {
            let shutdown = CancellationToken::new();
            (lead(store, name.to_owned(), QUICK, &Loops::new(), shutdown.clone()), shutdown)
        };
        let (first, shutdown) = run(bench.store.clone(), "first");
        first.subscribe().wait_for(|state| state.term().is_some()).await.expect("runs");
        let (second, _second_shutdown) = run(bench.peer().await, "second");
        let (third, _third_shutdown) = run(bench.peer().await, "third");
        tokio::time::sleep(QUICK.lease).await;
        assert!(second.term().is_none() && third.term().is_none() && first.term().is_some(), "one leads");

        let began = std::time::Instant::now();
        shutdown.cancel();
        first.stopped().await;
        eventually("a successor leads", async || second.term().is_some() || third.term().is_some()).await;
        assert!(began.elapsed() < QUICK.lease, "no need to wait for the lease: {:?}", began.elapsed());
        assert!(second.term().is_none() || third.term().is_none(), "one leads");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_write_in_flight_holds_the_lead_until_it_is_committed() {
        let bench = Bench::postgres().await;
        let fence = bench.store.campaign("a", LEASE).await.expect("campaign").expect("free");
        let mut tasks = Vec::new();
        for number in 0..30 {
            let (store, fence) = (bench.store.clone(), fence.clone());
            tasks.push(tokio::spawn(async move {
                store.save_recovery(&fence, &format!("u{number}"), &json!({"attempts": number})).await
            }));
        }
        bench.store.resign(&fence).await.expect("resign");
        let successor = bench.lead("b").await;
        for task in tasks {
            match task.await.expect("no panic") {
                Ok(()) | Err(StoreError::Fenced(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let answer = bench.store.save_recovery(&fence, "late", &json!({})).await;
        assert!(matches!(answer, Err(StoreError::Fenced(_))), "{answer:?}");
        bench.store.save_recovery(&successor, "u1", &json!({})).await.expect("leads");
    }
}

/// What only a data folder has: its lock decides.
mod folder {
    use super::*;
    use ostler::store::sqlite::FolderAccess;
    use ostler::store::{self, Home};

    #[tokio::test]
    async fn whoever_holds_the_lock_leads_at_once_and_whoever_shares_the_folder_never() {
        let bench = Bench::sqlite().await;
        let fence = bench.lead("dead").await;
        assert_eq!(bench.peer().await.campaign("worker", LEASE).await, Ok(None));
        bench.store.resign(&fence).await.expect("resign");
        assert_eq!(bench.peer().await.campaign("worker", LEASE).await, Ok(None), "not even when nobody leads");
        let fence = bench.lead("dead").await;
        // The lease of whoever had the lock before does not matter: it is dead.
        let successor = bench.lead("next").await;
        assert_eq!(successor.epoch, fence.epoch + 1);
    }

    #[tokio::test]
    async fn a_second_opener_is_refused_and_told_who_has_the_folder() {
        let bench = Bench::sqlite().await;
        let refused = store::open(&bench.home, None).await.map(|_| ()).expect_err("the folder is held");
        assert!(matches!(refused, StoreError::Locked(_)), "{refused:?}");
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        let refused = store::migrate(&bench.home, None, false).await.expect_err("nor may it be migrated");
        assert!(matches!(refused, StoreError::Locked(_)), "{refused:?}");

        let Bench { store, home, .. } = &bench;
        let Home::Folder { path, .. } = home else { panic!("a folder") };
        assert_eq!(
            std::fs::read_to_string(path.join("lock")).expect("the lock file").trim(),
            std::process::id().to_string()
        );
        let weak = std::sync::Arc::downgrade(store);
        let home = Home::Folder { path: path.clone(), hold: FolderAccess::Lock };
        let Bench { store, _scratch, .. } = bench;
        drop(store);
        assert!(weak.upgrade().is_none());
        store::open(&home, None).await.expect("free when its holder is gone");
    }
}
