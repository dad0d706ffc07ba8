use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        shared::NamespacedName,
        testing::{TestHome, expert},
    },
    *,
};
use crate::{
    api::{Expert, ExpertStatus},
    store::{BootInstant, Fence},
    telemetry::Loops,
};

/// Panics or works, by the name of the object.
#[derive(Default)]
struct ByName {
    panicked: AtomicU32,
    worked: AtomicU32,
}

#[async_trait]
impl Controller for ByName {
    type Object = Expert;
    type Observed = ();
    type Plan = ();
    type Outcome = ();

    const KIND: Kind = Kind::Expert;

    async fn observe(&self, _: &Expert) -> Result<(), StepError> {
        Ok(())
    }

    fn plan(&self, object: &Expert, (): &(), _: Timestamp) {
        if object.name_any() == "panics" {
            self.panicked.fetch_add(1, Ordering::SeqCst);
            panic!("no such phase");
        }
    }

    async fn apply(&self, _: &Expert, (): &(), (): (), _: &Term) -> Result<(), StepError> {
        Ok(())
    }

    fn status(&self, object: &Expert, (): &(), (): &(), _: Timestamp) -> Report<ExpertStatus> {
        self.worked.fetch_add(1, Ordering::SeqCst);
        let undecided = !["differs", "shown"].contains(&object.name_any().as_str());
        Report { status: ExpertStatus::default(), undecided, notes: Vec::new(), again: Some(Duration::from_millis(1)) }
    }

    fn gone(&self, _: &str, _: &str) {}
}

#[tokio::test]
async fn an_object_that_panics_backs_off_by_itself_and_the_others_go_on() {
    let objects = ["panics", "works"].map(|name| expert(name, 1, json!({})));
    let (home, metrics, shutdown) = (TestHome::with(objects.into()), Metrics::new(), CancellationToken::new());
    let loops = Loops::new();
    let beat = || loops.register("expert", Duration::from_secs(60));
    let feed = Feed::<Expert>::start(home.clone(), Kind::Expert, &metrics, beat(), shutdown.clone());
    let triggers = Triggers::default();
    let until = BootInstant::now() + Duration::from_secs(3_600);
    let term = Term::new(Fence { epoch: 1, holder: "h".into() }, until);
    let controller = Arc::new(ByName::default());
    let with = Drive { platform: home, metrics: metrics.clone(), term, beat: beat(), triggers: triggers.clone() };
    let driving = tokio::spawn(drive(Arc::clone(&controller), feed, with));
    while controller.panicked.load(Ordering::SeqCst) == 0 || controller.worked.load(Ordering::SeqCst) < 50 {
        // Something asks for the failing one all the time.
        triggers.one(Kind::Expert, &NamespacedName::new("team", "panics"));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!driving.is_finished());
    }
    assert!(controller.panicked.load(Ordering::SeqCst) <= 4, "no hot loop");
    driving.abort();
    shutdown.cancel();
    let told = metrics.render(Timestamp::now());
    assert!(told.contains("reason=\"Panic\"") && loops.stuck().is_empty(), "{told}");
}

#[tokio::test]
async fn a_status_that_is_refused_is_an_event_once() {
    let refusal = PlatformError::Invalid("status.heldServices[0].reason: Too long".into());
    for (refuses, told) in [(refusal, 1), (PlatformError::Unavailable("no route".into()), 0)] {
        let objects = vec![expert("shown", 1, json!({}))];
        let home = Arc::new(TestHome { objects, refuses: Some(refuses), ..TestHome::default() });
        let (metrics, shutdown, loops) = (Metrics::new(), CancellationToken::new(), Loops::new());
        let beat = || loops.register("expert", Duration::from_secs(60));
        let feed = Feed::<Expert>::start(home.clone(), Kind::Expert, &metrics, beat(), shutdown.clone());
        let term = Term::new(Fence { epoch: 1, holder: "h".into() }, BootInstant::now() + Duration::from_secs(3_600));
        let controller = Arc::new(ByName::default());
        let with = Drive {
            platform: home.clone(),
            metrics: metrics.clone(),
            term,
            beat: beat(),
            triggers: Triggers::default(),
        };
        let driving = tokio::spawn(drive(Arc::clone(&controller), feed, with));
        while controller.worked.load(Ordering::SeqCst) < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        driving.abort();
        shutdown.cancel();
        let notes = home.notes.lock().unwrap();
        assert_eq!(notes.len(), told, "{notes:?}");
        assert!(notes.iter().all(|(_, n)| n.warning && n.reason == "StatusRefused" && n.message.contains("Too long")));
    }
}

#[tokio::test]
async fn a_step_that_hangs_is_an_error_that_names_it() {
    let limit = Duration::from_millis(1);
    let hung = bounded("observe", limit, std::future::pending::<Result<(), StepError>>()).await.unwrap_err();
    assert!(hung.to_string().starts_with("observe did not end within") && hung.reason() == "Timeout", "{hung}");
    let panicked = bounded::<()>("apply", PERIOD, async { panic!("at row {}", 7) }).await.unwrap_err();
    assert!(panicked.to_string().starts_with("apply panicked: at row 7"), "{panicked}");
    assert!(guarded("plan", || -> u32 { panic!("no") }).is_err());
}

#[tokio::test]
async fn a_status_that_is_refused_is_an_error_of_its_pass_and_healing_goes_on() {
    let older = PlatformError::OlderSchema { attempt: "Expert team/differs".into(), said: "no such field".into() };
    let objects = vec![expert("differs", 1, json!({}))];
    let home = Arc::new(TestHome { objects, refuses: Some(older), ..TestHome::default() });
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let loops = Loops::new();
    let beat = || loops.register("expert", Duration::from_secs(60));
    let feed = Feed::<Expert>::start(home.clone(), Kind::Expert, &metrics, beat(), shutdown.clone());
    let term = Term::new(Fence { epoch: 1, holder: "h".into() }, BootInstant::now() + Duration::from_secs(3_600));
    let controller = Arc::new(ByName::default());
    let with =
        Drive { platform: home.clone(), metrics: metrics.clone(), term, beat: beat(), triggers: Triggers::default() };
    let driving = tokio::spawn(drive(Arc::clone(&controller), feed, with));
    while controller.worked.load(Ordering::SeqCst) < 50 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let tried = *home.statuses.lock().unwrap();
    driving.abort();
    shutdown.cancel();
    assert!((1..=3).contains(&tried), "tried {tried} times in 50 passes");
    let told = metrics.render(Timestamp::now());
    assert!(told.contains("ostler_reconcile_errors_total{controller=\"Expert\",reason=\"CRDOlder\"}"), "{told}");
}
