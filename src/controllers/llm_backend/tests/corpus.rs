//! What servers were seen to do in the field, each as a row: what is judged, what is done, and what is not.

use std::ops::RangeInclusive;

use crate::api::{BackendState, LLMBackendSpec};

use super::{
    script::{Behavior, Moment, Reply, Script},
    world::BackendWorld,
    *,
};

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ready,
    NotReady,
    Human,
}

struct Row {
    name: &'static str,
    spec: LLMBackendSpec,
    agent: bool,
    work: bool,
    seconds: i64,
    script: Script,
    restarts: RangeInclusive<usize>,
    unloads: RangeInclusive<usize>,
    end: End,
    /// A state and reason that must have been shown.
    shows: Option<(BackendState, &'static str)>,
}

fn row(name: &'static str, spec: LLMBackendSpec, script: impl Fn(Moment) -> Behavior + 'static) -> Row {
    let script = Box::new(script);
    let (agent, work, seconds) = (true, false, 1_200);
    Row { name, spec, agent, work, seconds, script, restarts: 0..=0, unloads: 0..=0, end: End::Ready, shows: None }
}

impl Row {
    fn blind(self) -> Self {
        Self { agent: false, ..self }
    }

    fn with_work(self) -> Self {
        Self { work: true, ..self }
    }

    fn for_seconds(self, seconds: i64) -> Self {
        Self { seconds, ..self }
    }

    fn restarted(self, restarts: RangeInclusive<usize>) -> Self {
        Self { restarts, ..self }
    }

    fn unloaded(self, unloads: RangeInclusive<usize>) -> Self {
        Self { unloads, ..self }
    }

    fn ends(self, end: End) -> Self {
        Self { end, ..self }
    }

    fn shows(self, state: BackendState, reason: &'static str) -> Self {
        Self { shows: Some((state, reason)), ..self }
    }
}

fn openai() -> LLMBackendSpec {
    spec(
        "{engine: OpenAI, url: 'http://127.0.0.1:8080', models: [{name: small}], \
         recovery: {hostAgentRef: {name: mac}, service: llama}}",
    )
}

fn fails(failure: Failure) -> Behavior {
    Behavior::replies(Reply::Fails(failure))
}

fn says(detail: &str) -> String {
    detail.to_owned()
}

/// After 60 good seconds of the first process: something else; the next process is well.
fn then(bad: Behavior) -> impl Fn(Moment) -> Behavior {
    move |moment| if moment.process == 0 && moment.second > 60 { bad.clone() } else { Behavior::well() }
}

/// The same, for good.
fn then_always(bad: Behavior) -> impl Fn(Moment) -> Behavior {
    move |moment| if moment.second > 60 { bad.clone() } else { Behavior::well() }
}

fn loading_words() -> Behavior {
    Behavior { probe: ProbeVerdict::Loading, ..fails(Failure::Loading { detail: says("Loading model") }) }
}

fn silent() -> Behavior {
    Behavior::replies(Reply::Silent)
}

fn mute() -> Behavior {
    Behavior { probe: ProbeVerdict::Timeout, ..silent() }
}

fn rows() -> Vec<Row> {
    use BackendState as S;
    let misconfigured = || ProbeVerdict::Misconfigured(says("the certificate is self-signed"));
    let rejected = || Failure::Rejected { status: 400, detail: says("Expected a value >= 16") };
    let too_large = || Failure::ModelTooLarge { detail: says("model requires more system memory (9 GiB)") };
    vec![
        row("well, and asleep", ollama(), |_| Behavior::well()).shows(S::Idle, "Idle"),
        row("well, with work", ollama(), |_| Behavior::well()).with_work().shows(S::Serving, "Serving"),
        // Loading.
        row("503 Loading model for 25 s", openai(), |m| if m.second < 25 { loading_words() } else { Behavior::well() })
            .shows(S::Proving, "Loading"),
        row("503 Loading model for ever", openai(), |_| loading_words())
            .for_seconds(4_000)
            .restarted(1..=3)
            .ends(End::NotReady),
        row("the first call loads for 70 s", mlx(), |m| {
            if m.second < 80 { Behavior::replies(Reply::Loads { seconds: 70 }) } else { Behavior::well() }
        })
        .with_work(),
        row("the first call loads for 70 s, and nobody sees the CPU", openai(), |m| {
            if m.second < 80 { Behavior::replies(Reply::Loads { seconds: 70 }) } else { Behavior::well() }
        })
        .blind(),
        row("a model that never loads", openai(), |_| silent())
            .blind()
            .for_seconds(4_000)
            .restarted(1..=3)
            .ends(End::NotReady),
        // Failing calls.
        row("500 to each inference after a good minute, healed by a restart", ollama(), then(fails(error())))
            .with_work()
            .restarted(1..=1)
            .shows(S::Unknown, "CallsFail"),
        row("500 to each inference, for ever", ollama(), then_always(fails(error())))
            .with_work()
            .for_seconds(4_000)
            .restarted(3..=4)
            .ends(End::Human),
        row(
            "400 Failed to load model",
            openai(),
            then(fails(Failure::CannotLoad { detail: says("Failed to load model") })),
        )
        .with_work()
        .restarted(1..=1),
        row(
            "out of memory in the words of MLX",
            mlx(),
            then(fails(Failure::OutOfMemory { detail: says("metal::malloc") })),
        )
        .with_work()
        .restarted(1..=1)
        .shows(S::Recovering, "Recovering"),
        row("one template error among good answers", mlx(), |m| match m.second % 10 {
            0 => fails(Failure::Rejected { status: 404, detail: says("roles must alternate") }),
            _ => Behavior::well(),
        })
        .with_work(),
        row(
            "one 500 among good answers",
            ollama(),
            |m| if m.second % 30 == 0 { fails(error()) } else { Behavior::well() },
        )
        .with_work()
        .for_seconds(1_190),
        row("a question that no shape mends", openai(), move |_| fails(rejected()))
            .ends(End::Human)
            .shows(S::Proving, "NotProved"),
        row("402", openai(), |_| fails(Failure::Unauthorized { status: 402 })).ends(End::Human),
        row("a model that needs more memory", ollama(), move |_| fails(too_large()))
            .ends(End::Human)
            .shows(S::ModelsMissing, "ModelTooLarge"),
        // Full.
        row("503 for ten minutes", ollama(), |m| {
            let busy = Behavior { probe: ProbeVerdict::Busy, ..fails(Failure::Busy { detail: says("busy") }) };
            if (60..660).contains(&m.second) { busy } else { Behavior::well() }
        })
        .with_work()
        .shows(S::Busy, "Busy"),
        row("429 with a Retry-After of ten minutes", openai(), |m| {
            let limited = ProbeVerdict::RateLimited { retry_after: Some(Duration::from_secs(600)) };
            if (60..660).contains(&m.second) { Behavior::probes(limited) } else { Behavior::well() }
        })
        .shows(S::RateLimited, "RateLimited"),
        // Death.
        row("the process dies", ollama(), then(Behavior::dead())).restarted(1..=1).shows(S::Recovering, "Recovering"),
        row("the process dies, and only a refusal tells", openai(), then(Behavior::dead())).blind().restarted(1..=1),
        row("it dies again and again", ollama(), then_always(Behavior::dead()))
            .for_seconds(3_000)
            .restarted(3..=4)
            .ends(End::Human),
        // What no restart can help.
        row("a self-signed certificate", openai(), move |_| Behavior {
            reply: Reply::Fails(Failure::Misconfigured(says("the certificate is self-signed"))),
            ..Behavior::probes(misconfigured())
        })
        .ends(End::Human)
        .shows(S::Misconfigured, "Misconfigured"),
        row("no route to the host", openai(), |_| Behavior {
            reply: Reply::Fails(Failure::Unreachable(says("no route to host"))),
            ..Behavior::probes(ProbeVerdict::Unreachable(says("no route to host")))
        })
        .ends(End::Human)
        .shows(S::Unreachable, "Unreachable"),
        row("other credentials", openai(), |_| Behavior::probes(ProbeVerdict::Unauthorized { status: 401 }))
            .ends(End::Human),
        // Silence that is life.
        row("listings do not answer while calls stream", mlx(), |m| {
            let probe = if m.second % 100 > 30 { ProbeVerdict::Timeout } else { listing() };
            Behavior { probe, ..Behavior::replies(Reply::Served { first: 1, total: 40 }) }
        })
        .with_work()
        .blind()
        .shows(S::Busy, "Busy"),
        row("listings answer 500 while calls stream", openai(), |m| {
            let probe = if m.second > 60 { ProbeVerdict::ServerError { status: 500 } } else { listing() };
            Behavior { probe, ..Behavior::replies(Reply::Served { first: 1, total: 40 }) }
        })
        .with_work()
        .blind(),
        row("listings wait behind somebody's long generation", mlx(), |m| {
            if (60..700).contains(&m.second) { Behavior { works: true, ..mute() } } else { Behavior::well() }
        })
        .shows(S::Busy, "Busy"),
        row("comments for 110 s before the first token", mlx(), |m| {
            if m.second > 60 { Behavior::replies(Reply::Keepalive { seconds: 110 }) } else { Behavior::well() }
        })
        .with_work(),
        row("comments for 110 s before the answer to a proof", mlx(), |_| {
            Behavior::replies(Reply::Keepalive { seconds: 110 })
        }),
        row("a prompt of five minutes without a byte, seen at the CPU", ollama(), |m| {
            if m.second > 60 { Behavior::replies(Reply::Served { first: 300, total: 310 }) } else { Behavior::well() }
        })
        .with_work(),
        row("a prompt of five minutes without a byte, and nobody sees the CPU", openai(), |m| {
            if m.second > 60 { Behavior::replies(Reply::Served { first: 300, total: 310 }) } else { Behavior::well() }
        })
        .with_work()
        .blind(),
        row("saturated by others for ten minutes", ollama(), |m| {
            if m.second > 60 && m.second < 700 { Behavior { works: true, ..silent() } } else { Behavior::well() }
        })
        .with_work(),
        row("saturated by others for ten minutes, and nobody sees the CPU", ollama(), |m| {
            if m.second > 60 && m.second < 700 { silent() } else { Behavior::well() }
        })
        .with_work()
        .blind(),
        // Hangs.
        row("a hang with calls open", ollama(), |m| {
            if m.second > 60 && m.unloads == 0 {
                silent()
            } else {
                Behavior::replies(Reply::Served { first: 0, total: 5 })
            }
        })
        .with_work()
        .for_seconds(600)
        .unloaded(1..=1)
        .shows(S::Recovering, "Recovering"),
        row("a hang of MLX with calls open", mlx(), |m| {
            let good = Behavior::replies(Reply::Served { first: 0, total: 5 });
            if m.second > 60 && m.process == 0 { silent() } else { good }
        })
        .with_work()
        .for_seconds(600)
        .restarted(1..=1),
        row("a hang that outlives its unload", ollama(), |m| {
            if m.second > 60 && m.process == 0 { silent() } else { Behavior::well() }
        })
        .with_work()
        .for_seconds(2_400)
        .unloaded(1..=1)
        .restarted(1..=1),
        row("everything is mute, and uses no CPU", mlx(), then(mute())).restarted(1..=1).for_seconds(600),
        row("everything is mute, and nobody sees the CPU", openai(), then(mute()))
            .blind()
            .restarted(1..=1)
            .for_seconds(900),
    ]
}

#[test]
fn what_was_seen_in_the_field_is_judged_by_evidence() {
    let mut wrong = Vec::new();
    for row in rows() {
        let Row { name, spec, agent, work, seconds, script, restarts, unloads, end, shows } = row;
        let mut world = BackendWorld::new(spec, agent, script);
        world.work = work;
        let world = world.run(seconds);
        let ended = match (world.ready(), world.for_human()) {
            (true, _) => End::Ready,
            (false, true) => End::Human,
            (false, false) => End::NotReady,
        };
        let helped = restarts.end() + unloads.end();
        let shown =
            shows.is_none_or(|(state, reason)| world.states.iter().any(|(_, s, r)| (*s, *r) == (state, reason)));
        let right = restarts.contains(&world.restarts.len())
            && unloads.contains(&world.unloads.len())
            && world.helped() <= helped
            && (ended == end || end == End::NotReady && ended == End::Human)
            && shown;
        if !right {
            wrong.push(format!(
                "{name}: restarts at {:?}, unloads at {:?}, helped {}, ends {ended:?}\n  states {:?}\n  {}",
                world.restarts,
                world.unloads,
                world.helped(),
                world.states,
                world.shown.as_ref().map_or("", |shown| &shown.message),
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_hang_with_calls_open_is_seen_after_stall_seconds() {
    let world = BackendWorld::new(
        ollama(),
        true,
        Box::new(|m| {
            if m.second > 60 && m.unloads == 0 {
                silent()
            } else {
                Behavior::replies(Reply::Served { first: 0, total: 5 })
            }
        }),
    )
    .with_work()
    .run(400);
    assert!((120..=135).contains(&world.unloads[0]), "{:?} {:?}", world.unloads, world.states);
    assert!(world.helped() == 1, "{:?}", world.notes);
}
