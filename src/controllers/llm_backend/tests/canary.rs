use crate::{api::LLMBackendSpec, engines::KeepAlive};

use super::{
    super::{
        canary::{CanaryPlan, Skip, plan_canary},
        seen::Misdeclared,
        session::Session,
    },
    *,
};

fn prove() -> Session {
    Session::proving()
}

fn always() -> LLMBackendSpec {
    spec("{engine: Ollama, url: 'http://h:1', models: [{name: small}], canary: {when: Always}}")
}

/// A session in which the model was loaded by us.
fn ours(models: &[LoadedModel]) -> Session {
    let mut session = Session::default();
    session.look(&[]);
    session.called(&models[0].name);
    session.look(models);
    session
}

#[test]
fn a_canary_is_skipped_for_every_reason_of_politeness() {
    let base = || {
        let mut seen = probed(&[listing()], at(0));
        seen.loaded = Some(vec![loaded("small:latest", Some(at(200)))]);
        seen.load.last_call_at = Some(at(-10));
        seen
    };
    let with = |change: fn(&mut Seen)| {
        let mut seen = base();
        change(&mut seen);
        seen
    };
    let mine = || ours(&[loaded("small:latest", Some(at(200)))]);
    let cases: Vec<(Skip, LLMBackendSpec, Seen, Session)> = vec![
        (Skip::NotWanted, ollama(), with(|s| s.will.suspended = true), mine()),
        (Skip::NotWanted, ollama(), with(|s| s.misdeclared = Some(Misdeclared::LoopbackUrl)), mine()),
        (Skip::NotWanted, spec("{engine: Ollama, url: 'http://h:1', canary: {when: Never}}"), base(), prove()),
        (Skip::NotAnswering, ollama(), probed(&[ProbeVerdict::Refused], at(0)), prove()),
        (Skip::CallInFlight, ollama(), with(|s| s.load.in_flight = 1), prove()),
        (Skip::JustServed, ollama(), with(|s| s.canary.others_succeeded(at(-59))), mine()),
        (Skip::NotDue, ollama(), with(|s| s.canary.push(canaried(Ok(()), None, at(-59)))), mine()),
        (Skip::NoDemand, ollama(), with(|s| s.load.last_call_at = Some(at(-301))), mine()),
        (Skip::NotLoaded, always(), with(|s| s.loaded = Some(vec![])), Session::default()),
        (Skip::LeavesSoon, ollama(), with(|s| s.loaded = Some(vec![loaded("small:latest", Some(at(29)))])), mine()),
        (Skip::OthersSession, ollama(), base(), {
            let mut session = Session::default();
            session.look(&[loaded("small:latest", Some(at(200)))]);
            session
        }),
        (
            Skip::NoModel,
            spec("{engine: Ollama, url: 'http://h:1'}"),
            with(|s| {
                s.probes = probed(&[ProbeVerdict::Models(Vec::new().into())], at(0)).probes;
                s.loaded = Some(vec![]);
            }),
            prove(),
        ),
        (
            Skip::NotWanted,
            spec(
                "{engine: OpenAI, url: 'http://h:1', authSecretRef: {name: s}, models: [{name: small}], canary: {when: Always}}",
            ),
            base(),
            Session::default(),
        ),
    ];
    for (skip, spec, seen, session) in cases {
        assert_eq!(plan_canary(&spec, &seen, &session, at(0)), CanaryPlan::Skip(skip));
    }
}

fn sent(plan: CanaryPlan) -> (String, Option<KeepAlive>, bool) {
    match plan {
        CanaryPlan::Send { model, keep_alive, loads } => (model.as_str().to_owned(), keep_alive, loads),
        CanaryPlan::Skip(skip) => panic!("skipped: {skip:?}"),
    }
}

#[test]
fn it_leaves_a_models_expiry_as_it_was() {
    let mut seen = probed(&[listing()], at(0));
    seen.load.last_call_at = Some(at(-10));
    let models = vec![loaded("small:latest", Some(at(200)))];
    seen.loaded = Some(models.clone());
    let (model, keep_alive, loads) = sent(plan_canary(&ollama(), &seen, &ours(&models), at(0)));
    assert_eq!(
        (model.as_str(), keep_alive, loads),
        ("small:latest", Some(KeepAlive::For(Duration::from_secs(200))), false)
    );
    let pinned = vec![loaded("small:latest", Some(at(200 * 365 * 86_400)))];
    seen.loaded = Some(pinned.clone());
    assert_eq!(sent(plan_canary(&ollama(), &seen, &ours(&pinned), at(0))).1, Some(KeepAlive::Forever));
}

#[test]
fn a_proof_asks_what_is_loaded_before_it_loads_anything() {
    let mut seen = probed(&[listing()], at(0));
    seen.loaded = Some(vec![loaded("other:latest", Some(at(200)))]);
    assert_eq!(
        sent(plan_canary(&ollama(), &seen, &prove(), at(0))).0,
        "other:latest",
        "nothing is evicted to prove a server"
    );
    seen.loaded = Some(vec![]);
    let (model, keep_alive, loads) = sent(plan_canary(&ollama(), &seen, &prove(), at(0)));
    assert_eq!((model.as_str(), loads), ("small:latest", true));
    assert_eq!(keep_alive, Some(KeepAlive::For(Duration::from_secs(300))));
}

#[test]
fn an_unlisted_name_never_reaches_mlx() {
    let unlisted = spec("{engine: MLX, url: 'http://h:1', models: [{name: org/unknown}]}");
    let seen = probed(&[listing()], at(0));
    assert_eq!(plan_canary(&unlisted, &seen, &prove(), at(0)), CanaryPlan::Skip(Skip::NoModel));
    let unproved = probed(&[ProbeVerdict::NeedsInference { bad_body: true }], at(0));
    assert_eq!(sent(plan_canary(&unlisted, &unproved, &prove(), at(0))).0, "default_model");
}
