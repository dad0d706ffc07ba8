//! What Ollama's client must be careful about, and that the simulation is as the real one.

use std::time::Duration;

use ostler::engines::{
    ContextName, EmbedRequest, EngineKind, Failure, KeepAlive, LoadedModel, ProbeVerdict, PullProgress, same_model,
};
use ostler::simulate::{CallEnd, Fault, SimulateOptions, SimulatedServer};
use ostler::tasks::Message;
use serde_json::json;

use super::canned::{Answer, Canned};
use super::{LONG, Subject, eventually};
use crate::real::Ollama;

async fn loaded(subject: &Subject) -> Vec<LoadedModel> {
    subject.engine.loaded(&subject.at, LONG).await.expect("it lists").expect("Ollama can tell")
}

async fn expiry(subject: &Subject, model: &str) -> Option<jiff::Timestamp> {
    let found = loaded(subject).await.into_iter().find(|one| same_model(EngineKind::Ollama, &one.name, model));
    found.and_then(|one| one.expires_at)
}

fn seconds_from_now(at: jiff::Timestamp) -> i64 {
    at.duration_since(jiff::Timestamp::now()).as_secs()
}

async fn two_models() -> (SimulatedServer, Subject) {
    let options = SimulateOptions::new(EngineKind::Ollama).with_models(&["tiny", "other"]);
    let server = SimulatedServer::start(options).await.expect("start");
    let subject = Subject::new(EngineKind::Ollama, server.url());
    (server, subject)
}

/// The canary's way to leave a session as it found it.
async fn a_keep_alive_sticks_and_what_is_said_holds(subject: &Subject) {
    subject.infer("tiny", 1).await.expect("it answers");
    let usual = expiry(subject, "tiny").await.expect("it is loaded");
    assert!((240..=300).contains(&seconds_from_now(usual)), "{usual}");
    let mut request = subject.request("tiny", 1);
    request.keep_alive = Some(KeepAlive::For(Duration::from_secs(1000)));
    subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("it answers");
    subject.infer("tiny", 1).await.expect("it answers");
    let stuck = expiry(subject, "tiny").await.expect("it is loaded");
    assert!((940..=1000).contains(&seconds_from_now(stuck)), "{stuck}");
    let names: Vec<_> = loaded(subject).await.into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["tiny:latest"], "no other model is loaded");
}

#[tokio::test]
async fn a_keep_alive_sticks_on_the_simulated() {
    let (_server, subject) = two_models().await;
    a_keep_alive_sticks_and_what_is_said_holds(&subject).await;
}

#[tokio::test]
async fn real_ollama_keep_alive_sticks() {
    let server = Ollama::start();
    a_keep_alive_sticks_and_what_is_said_holds(&Subject::new(EngineKind::Ollama, &server.url())).await;
}

/// The runner hangs: listings answer, chat does not, an unload mends it.
async fn a_hung_runner_is_freed_by_unloading(subject: &Subject, hang: impl FnOnce()) {
    subject.infer("tiny", 1).await.expect("it answers");
    hang();
    let verdict = subject.engine.probe(&subject.at, &[], LONG).await;
    assert!(matches!(verdict, ProbeVerdict::Models(_)), "listings answer: {verdict:?}");
    let mut request = subject.request("tiny", 1);
    request.timeout = Duration::from_secs(2);
    let failure = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect_err("it hangs").failure;
    assert!(matches!(failure, Failure::Timeout { tokens_seen: 0, .. }), "{failure}");
    subject.engine.unload(&subject.at, "tiny", LONG).await.expect("an unload is answered");
    eventually("the runner to be gone", || async { loaded(subject).await.is_empty() }).await;
    subject.infer("tiny", 1).await.expect("a new runner answers");
}

#[tokio::test]
async fn a_hung_runner_is_freed_by_unloading_on_the_simulated() {
    let (server, subject) = two_models().await;
    a_hung_runner_is_freed_by_unloading(&subject, || server.add_fault(Fault::HangInference { survives_unload: false }))
        .await;
    assert_eq!(server.log().loads["tiny:latest"], 2);
    assert_eq!(server.log().inferences().filter(|call| call.end == CallEnd::Aborted).count(), 1);
}

#[tokio::test]
async fn real_ollama_hung_runner_is_freed_by_unloading() {
    let server = Ollama::start();
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    a_hung_runner_is_freed_by_unloading(&subject, || server.freeze_runners()).await;
    assert_eq!(server.runners().len(), 1);
}

#[tokio::test]
async fn a_hang_that_unloading_does_not_end_goes_on() {
    let (server, subject) = two_models().await;
    subject.infer("tiny", 1).await.expect("it answers");
    server.add_fault(Fault::HangInference { survives_unload: true });
    subject.engine.unload(&subject.at, "tiny", LONG).await.expect("an unload is answered");
    let mut request = subject.request("tiny", 1);
    request.timeout = Duration::from_millis(300);
    subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect_err("it still hangs");
}

/// The wrong user's server has no models, and says so in two ways.
async fn a_server_without_models_lists_none(subject: &Subject) {
    for path in ["/api/tags", "/v1/models"] {
        let verdict = subject.engine.probe(&subject.at, &[path.to_owned()], LONG).await;
        assert_eq!(verdict, ProbeVerdict::Models(Vec::new().into()), "{path}");
    }
    let failure = subject.infer("tiny", 1).await.expect_err("it has none").failure;
    assert!(matches!(failure, Failure::ModelMissing { .. }), "{failure}");
}

#[tokio::test]
async fn a_simulated_server_of_the_wrong_user_lists_nothing() {
    let (server, subject) = two_models().await;
    server.add_fault(Fault::NoModels {});
    a_server_without_models_lists_none(&subject).await;
}

#[tokio::test]
async fn real_ollama_of_the_wrong_user_lists_nothing() {
    let server = Ollama::start();
    server.kill();
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    assert_eq!(subject.engine.probe(&subject.at, &[], LONG).await, ProbeVerdict::Refused);
    server.resume_without_models();
    a_server_without_models_lists_none(&subject).await;
}

#[tokio::test]
async fn one_call_runs_at_a_time_and_the_rest_wait_or_are_turned_away() {
    let mut options = SimulateOptions::new(EngineKind::Ollama).with_models(&["tiny"]);
    options.queue = 2;
    let server = SimulatedServer::start(options).await.expect("start");
    let subject = Subject::new(EngineKind::Ollama, server.url());
    server.add_fault(Fault::StallAfter { tokens: 1 });
    let first = subject.infer("tiny", 3);
    let others = async {
        eventually("the first to run", || async { server.log().tokens == 1 }).await;
        let calls = futures::future::join_all((0..3).map(|_| subject.infer("tiny", 3)));
        let release = async {
            eventually("one to be turned away", || async { server.log().calls.iter().any(|c| c.status == Some(503)) })
                .await;
            assert_eq!((server.log().tokens, server.log().in_flight), (1, 3), "two wait and yield nothing");
            server.clear_faults();
        };
        futures::future::join(calls, release).await.0
    };
    let (first, others) = futures::future::join(first, others).await;
    first.expect("it goes on");
    let busy = others.iter().filter(|r| matches!(r, Err(e) if matches!(e.failure, Failure::Busy { .. }))).count();
    let fine = others.iter().filter(|r| r.is_ok()).count();
    assert_eq!((busy, fine), (1, 2), "{others:?}");
}

#[tokio::test]
async fn a_pull_tells_its_progress_and_brings_the_model() {
    let (server, subject) = two_models().await;
    server.set_faults([Fault::MissingModel { model: "tiny".into() }.into(), Fault::SlowPull { seconds: 0.2 }.into()]);
    subject.infer("tiny", 1).await.expect_err("it is missing");
    let mut seen: Vec<PullProgress> = Vec::new();
    subject.engine.pull(&subject.at, "tiny", LONG, &mut |progress| seen.push(progress)).await.expect("it is pulled");
    let percents: Vec<u8> = seen.iter().map(|progress| progress.percent).collect();
    assert!(percents.is_sorted() && percents.contains(&50) && percents.last() == Some(&100), "{percents:?}");
    subject.infer("tiny", 1).await.expect("it is there");
    assert_eq!(server.log().pulls["tiny"], 1);
}

/// A context has a name, so that no call loads the model anew for others, and OpenAI's paths have it too.
async fn a_context_is_had_by_a_name(subject: &Subject) {
    let wanted = ContextName { name: "ostler/small", model: "tiny", tokens: 300 };
    subject.engine.has_context(&subject.at, wanted, LONG).await.expect_err("it is not there");
    for tokens in [300, 256] {
        let wanted = ContextName { tokens, ..wanted };
        subject.engine.make_context(&subject.at, wanted, LONG).await.expect("it is made");
        assert!(subject.engine.has_context(&subject.at, wanted, LONG).await.expect("it tells"), "{tokens}");
    }
    assert!(!subject.engine.has_context(&subject.at, wanted, LONG).await.expect("it tells"), "the one before");
    let ProbeVerdict::Models(listing) = subject.engine.probe(&subject.at, &[], LONG).await else { panic!("a listing") };
    assert!(listing.has(EngineKind::Ollama, "ostler/small"), "{listing:?}");
    subject.infer("ostler/small", 1).await.expect("it answers");
    let mut long = subject.request("ostler/small", 1);
    long.messages[0].content = "hay oats ".repeat(400);
    let refused = subject.engine.infer(&subject.at, &long, &mut |_| {}).await.expect_err("it does not fit");
    assert!(matches!(refused.failure, Failure::PromptTooLong { .. }), "{refused}");
    // Ollama would download what it lacks.
    let lacking = ContextName { name: "ostler/none", model: "nonesuch", tokens: 300 };
    let failure = subject.engine.make_context(&subject.at, lacking, LONG).await.expect_err("it lacks it").failure;
    assert!(matches!(failure, Failure::ModelMissing { .. }), "{failure}");
}

#[tokio::test]
async fn a_context_is_had_by_a_name_at_the_simulated() {
    let (_server, subject) = two_models().await;
    a_context_is_had_by_a_name(&subject).await;
}

#[tokio::test]
async fn real_ollama_has_a_context_by_a_name() {
    let server = Ollama::start();
    a_context_is_had_by_a_name(&Subject::new(EngineKind::Ollama, &server.url())).await;
}

/// The reason comes in the middle of a stream that began with 200.
async fn a_pull_that_fails(subject: &Subject, model: &str) -> Failure {
    let failure = subject.engine.pull(&subject.at, model, LONG, &mut |_| {}).await.expect_err("it fails").failure;
    assert!(failure.to_string().contains("pull model manifest"), "{failure}");
    failure
}

#[tokio::test]
async fn a_simulated_pull_that_fails_says_why() {
    let (server, subject) = two_models().await;
    server.add_fault(Fault::FailPull {});
    let failure = a_pull_that_fails(&subject, "tiny").await;
    assert!(matches!(failure, Failure::ModelMissing { .. }), "another try can't help: {failure}");
    server.set_faults([Fault::SlowPull { seconds: 600.0 }.into()]);
    let stall = Duration::from_millis(200);
    let failure = subject.engine.pull(&subject.at, "tiny", stall, &mut |_| {}).await.expect_err("it stalls").failure;
    assert!(matches!(failure, Failure::Timeout { .. }), "{failure}");
}

#[tokio::test]
async fn real_ollama_pull_that_fails_says_why() {
    let server = Ollama::start();
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    let failure = a_pull_that_fails(&subject, "127.0.0.1:1/no/model").await;
    assert!(matches!(failure, Failure::ServerError { .. }), "another try may help: {failure}");
    let invalid = subject.engine.pull(&subject.at, "no such//name", LONG, &mut |_| {}).await.expect_err("no name");
    assert!(matches!(invalid.failure, Failure::ModelMissing { .. }), "{invalid}");
}

#[tokio::test]
async fn a_pull_that_repeats_its_last_line_has_stalled() {
    let line = json!({"status": "pulling a", "digest": "a", "total": 100, "completed": 99}).to_string() + "\n";
    let tick = Duration::from_millis(50);
    let mut answer = Answer::stream(&line);
    for _ in 0..200 {
        answer = answer.then(tick, &line);
    }
    let server = Canned::always(answer).await;
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    let mut bytes = 0;
    let pulled = subject.engine.pull(&subject.at, "m", 8 * tick, &mut |progress| bytes = progress.bytes).await;
    let failure = pulled.expect_err("no progress").failure;
    assert!(matches!(failure, Failure::Timeout { .. }), "{failure}");
    assert_eq!(bytes, 99);
}

/// A prompt of more tokens than the model's context, and an answer that does not fit behind its prompt.
#[tokio::test]
async fn real_ollama_refuses_a_prompt_that_does_not_fit() {
    let server = Ollama::start();
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    let mut request = subject.request("tiny", 4);
    request.messages[0].content = "one word and then another one ".repeat(3_000);
    let failure = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect_err("too long").failure;
    assert!(matches!(failure, Failure::PromptTooLong { .. }), "{failure}");
}

/// A repeated prompt of some tokens: as one message, as a conversation, as a text to embed.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Plain,
    Conversation,
    Embedding,
}

const WORDS: &str = "w1 and w2 ";
const CONTEXTS: [u32; 2] = [256, 2048];
const TOKENS: [u32; 6] = [100, 300, 1_000, 3_000, 16_000, 100_000];

/// How many tokens the engine says it read, of `repeats` times the words.
async fn prompt_tokens(subject: &Subject, model: &str, shape: Shape, repeats: usize) -> Result<u32, Failure> {
    let texts = match shape {
        Shape::Conversation => vec![WORDS.repeat(repeats / 26); 26],
        Shape::Plain | Shape::Embedding => vec![WORDS.repeat(repeats)],
    };
    let mut request = subject.request(model, 1);
    if matches!(shape, Shape::Embedding) {
        let embed = EmbedRequest { model: request.model, input: texts, keep_alive: None, timeout: LONG };
        let outcome = subject.engine.embed(&subject.at, &embed).await.map_err(|error| error.failure)?;
        return Ok(outcome.prompt_tokens.expect("it counts"));
    }
    let role = |n: usize| if n.is_multiple_of(2) { "user" } else { "assistant" };
    request.messages =
        texts.into_iter().enumerate().map(|(n, content)| Message { role: role(n).into(), content }).collect();
    match subject.engine.infer(&subject.at, &request, &mut |_| {}).await {
        Ok(outcome) => Ok(outcome.prompt_tokens.expect("it counts")),
        Err(error) => Err(error.failure),
    }
}

/// From what fits to fifty times the context, in contexts of 256 and 2048 tokens: read whole, or refused by name.
#[tokio::test]
async fn real_ollama_never_passes_a_cut_prompt_for_an_answer() {
    let server = Ollama::start();
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let name = |context: u32| format!("tiny-{context}");
    for context in CONTEXTS {
        let made = json!({"model": name(context), "from": "tiny", "parameters": {"num_ctx": context}, "stream": false});
        let made = client.post(format!("{}/api/create", server.url())).json(&made).send().await.expect("an answer");
        assert!(made.status().is_success(), "{}", made.text().await.unwrap_or_default());
    }
    for shape in [Shape::Plain, Shape::Conversation, Shape::Embedding] {
        let large = name(CONTEXTS[1]);
        let once = prompt_tokens(&subject, &large, shape, 26).await.expect("it fits");
        let more = prompt_tokens(&subject, &large, shape, 52).await.expect("it fits") - once;
        for (context, tokens) in CONTEXTS.iter().flat_map(|context| TOKENS.map(|tokens| (*context, tokens))) {
            let times = (tokens / more).max(1);
            let whole = once + (times - 1) * more;
            let repeats = usize::try_from(times * 26).expect("small");
            let read = prompt_tokens(&subject, &name(context), shape, repeats).await;
            let case = format!("{shape:?} of {whole} tokens in a context of {context}: {read:?}");
            match read {
                Ok(read) => assert!(whole <= context && read.abs_diff(whole) <= 26, "{case}"),
                Err(failure) => {
                    assert!(matches!(failure, Failure::PromptTooLong { .. }), "{case}");
                    assert!(whole + 26 > context, "{case}");
                }
            }
        }
    }
}

/// What the engine has in its cache is counted as well: an estimate of what it left out depends on it.
#[tokio::test]
async fn real_ollama_counts_a_prompt_that_it_has_cached() {
    let server = Ollama::start();
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    let mut request = subject.request("tiny", 1);
    request.messages[0].content = "one word and then another one ".repeat(20);
    let mut counted = Vec::new();
    for _ in 0..2 {
        let outcome = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("it answers");
        counted.push(outcome.prompt_tokens.expect("it counts"));
    }
    assert_eq!(counted[0], counted[1]);
}

#[tokio::test]
async fn a_model_that_loads_slowly_answers_late_once() {
    let (server, subject) = two_models().await;
    server.add_fault(Fault::SlowLoad { seconds: 0.3, cancelled: false });
    let first = subject.infer("tiny", 1).await.expect("it answers");
    let second = subject.infer("tiny", 1).await.expect("it answers");
    assert!(first.total >= Duration::from_millis(300), "{first:?}");
    assert!(second.total < first.total, "{second:?}");
    assert_eq!(server.log().loads, [("tiny:latest".to_owned(), 1)].into());
}

#[tokio::test]
async fn curl_without_a_content_type_is_understood() {
    let (server, _) = two_models().await;
    let client = reqwest::Client::new();
    let body = json!({"model": "tiny", "prompt": "hello", "stream": false, "options": {"num_predict": 3}}).to_string();
    let reply = client.post(format!("{}/api/generate", server.url())).body(body).send().await.expect("an answer");
    let answer: serde_json::Value = reply.json().await.expect("JSON");
    assert_eq!((&answer["done_reason"], &answer["eval_count"]), (&json!("length"), &json!(3)));
}
