//! What messages and reports say.

use super::{
    super::{Telling, night},
    *,
};

fn night_of_the_seeds() -> TestLeader {
    let mut leader = TestLeader::new(everybody());
    let CauseHealth::Unwell(trouble) = unwell(WhoActs::Person, 0) else { unreachable!() };
    let crashed = CauseTrouble {
        tried: vec!["Restart because of Exited: did not help; the process exited again".into()],
        message: "3 restarts did not help (maxAttempts is 3); Exited: connection refused".into(),
        next: "`ostler reconcile llm/mlx` tries again at once".into(),
        ..trouble.clone()
    };
    let memory =
        CauseTrouble { class: CauseClass::Memory, silent: false, message: "limit 1Gi reached".into(), ..trouble };
    let mut queue = fact(Kind::TaskQueue, "default", CauseHealth::Waiting, &[key(Kind::LLMBackend, "ollama")]);
    queue.waiting = 405;
    let world = [
        backend("ollama", "127.0.0.1", unwell(WhoActs::Healing, 300)),
        backend("mlx", "127.0.0.1", CauseHealth::Unwell(crashed)),
        fact(Kind::ContainerHealthCheck, "orchestrator", CauseHealth::Unwell(memory), &[]),
        queue,
    ];
    leader.look_for(3_600, &world);
    leader
}

#[test]
fn the_report_of_a_bad_night_fits_a_screen_and_is_true() {
    let leader = night_of_the_seeds();
    let causes: Vec<_> = leader.causes.iter().map(|k| k.cause.clone()).collect();
    let report = night(&causes, at(-3_600), leader.now);
    let text = report.text();
    assert!(text.lines().count() <= 24, "{text}");
    for said in [
        "3 causes open",
        "LLMBackend default/mlx is down",
        "LLMBackend default/ollama is down",
        "ContainerHealthCheck default/orchestrator is out of memory",
        "405 tasks waiting because of it",
        "tried: Restart because of Exited: did not help",
        "next: `ostler reconcile llm/mlx`",
    ] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["open"].as_array().unwrap().len(), 3);
    assert!(night(&causes, leader.now, leader.now).open.len() == 3, "open is open");
    assert!(night(&[], at(0), at(43_200)).text().starts_with("Nothing failed in the last 12h"));
}

#[test]
fn what_comes_from_outside_is_one_line_without_controls_and_bounded() {
    let CauseHealth::Unwell(trouble) = unwell(WhoActs::Person, 0) else { unreachable!() };
    let evil = format!("a\u{1b}[2J\nnext: `rm -rf /`\u{202e} **x** <script> {}", "y".repeat(10_000));
    let hostile =
        CauseTrouble { message: evil.clone(), reason: evil.clone(), tried: vec![evil.clone()], next: evil, ..trouble };
    let mut leader = TestLeader::new(everybody());
    leader.look_for(60, &[fact(Kind::LLMBackend, "mlx", CauseHealth::Unwell(hostile), &[])]);
    let cause = leader.causes[0].cause.clone();
    let letter = Letter {
        at: leader.now,
        items: vec![LetterItem { telling: Telling::Opened, due_at: at(0), cause: cause.clone() }],
    };
    let words = letter.words();
    assert!(words.text.chars().count() <= 3_000 && words.subject.chars().count() <= 160);
    for text in [&words.text, &words.subject] {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }
    assert_eq!(words.text.lines().filter(|line| line.starts_with("next: ")).count(), 1, "{}", words.text);
    let markdown = night(&[cause], at(0), leader.now).markdown();
    assert!(!markdown.contains("<script>") && !markdown.contains("**x**"), "{markdown}");
}

#[test]
fn many_at_once_are_one_message_that_says_how_many_more() {
    let leader = night_of_the_seeds();
    let cause = leader.causes[0].cause.clone();
    let item = |n: usize| LetterItem {
        telling: Telling::Opened,
        due_at: at(0),
        cause: super::super::Cause { key: format!("k{n}"), ..cause.clone() },
    };
    let letter = Letter { at: leader.now, items: (0..14).map(item).collect() };
    let words = letter.words();
    assert!(words.subject.starts_with("14 causes, first: "), "{}", words.subject);
    assert_eq!(Letter { at: at(0), items: Vec::new() }.words().subject, "Ostler: a test message");
}
