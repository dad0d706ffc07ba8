use proptest::prelude::*;

use super::*;

fn words(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

fn expert(name: &str, domains: &str, roles: &str) -> AssignableExpert {
    AssignableExpert {
        namespace: "default".into(),
        name: name.into(),
        domains: words(domains),
        roles: words(roles),
        model: Some("small".into()),
        ..AssignableExpert::default()
    }
}

fn queue(default_expert: Option<&str>) -> QueueView {
    let key = QueueKey { namespace: "default".into(), name: "default".into() };
    QueueView { key, default_expert: default_expert.map(str::to_owned), claimed_by: ClaimedBy::Workers }
}

fn task(id: TaskId, domain: &str, role: &str) -> Unassigned {
    Unassigned { id, queue: queue(None).key, domain: domain.into(), role: role.into(), model: None, expert: None }
}

fn team() -> Vec<AssignableExpert> {
    vec![
        expert("igor", "backend", "engineer"),
        expert("anna", "backend infra", "reviewer"),
        expert("zoe", "frontend", "engineer"),
        AssignableExpert { suspended: true, ..expert("sam", "legal", "counsel") },
        AssignableExpert { handler: Handler::Webhook, model: None, ..expert("bot", "ops", "runner") },
        AssignableExpert { namespace: "other".into(), ..expert("eve", "backend music", "engineer") },
        AssignableExpert { model: None, ..expert("mute", "poetry", "poet") },
    ]
}

fn one(task: Unassigned, default: Option<&str>) -> Result<Assignment, WhyNobody> {
    let mut batch = Roster::new(team(), vec![queue(default)]).assign(&[task]);
    match batch.assignments.pop() {
        Some(assignment) => Ok(assignment),
        None => Err(batch.nobody.pop().expect("one or the other").1),
    }
}

#[test]
fn an_expert_takes_tasks_of_queues_that_are_claimed_as_it_works() {
    let agent = |name: &str, handler| AssignableExpert { handler, model: None, ..expert(name, name, "") };
    let experts = || {
        vec![agent("hook", Handler::Webhook), agent("typist", Handler::External), expert("igor", "igor", "engineer")]
    };
    for (name, claimed_by, taken) in [
        ("hook", ClaimedBy::Workers, true),
        ("hook", ClaimedBy::Clients, false),
        ("typist", ClaimedBy::Workers, false),
        ("typist", ClaimedBy::Clients, true),
        ("igor", ClaimedBy::Workers, true),
        ("igor", ClaimedBy::Clients, true),
    ] {
        for named in [None, Some(name.to_owned())] {
            let queue = QueueView { claimed_by, ..queue(None) };
            let batch =
                Roster::new(experts(), vec![queue]).assign(&[Unassigned { expert: named, ..task(1, name, "") }]);
            match batch.assignments.first() {
                Some(given) => {
                    assert!(taken, "{name} {claimed_by:?}");
                    assert_eq!(given.model.as_deref(), (name == "igor").then_some("small"), "{name}");
                }
                None => {
                    let other = WhyNobody::OtherClaimer { expert: name.to_owned(), claimed_by };
                    assert_eq!((taken, &batch.nobody[0].1), (false, &other));
                }
            }
        }
    }
}

#[test]
fn the_best_level_that_has_somebody_decides() {
    for (domain, role, default, wanted) in [
        ("backend", "engineer", None, "igor: domain and role"),
        ("backend", "reviewer", None, "anna: domain and role"),
        ("infra", "engineer", None, "anna: domain"),
        ("backend", "poet-laureate", None, "anna: domain"),
        ("art", "engineer", None, "igor: role"),
        ("", "engineer", None, "igor: role"),
        ("frontend", "", None, "zoe: domain"),
        ("art", "painter", Some("zoe"), "zoe: default of the queue"),
        ("", "", Some("zoe"), "zoe: default of the queue"),
        ("legal", "counsel", Some("zoe"), "zoe: default of the queue"),
        ("legal", "engineer", None, "igor: role"),
        ("music", "", Some("igor"), "igor: default of the queue"),
    ] {
        let given = one(task(1, domain, role), default).unwrap();
        assert_eq!(format!("{}: {}", given.expert, given.reason), wanted, "{domain}/{role}");
    }
}

#[test]
fn what_nobody_can_take_says_why() {
    let none = WhyNobody::NoExpert { default: None };
    let named = |name: &str| Unassigned { expert: Some(name.into()), ..task(1, "backend", "") };
    let gone = WhyNobody::NoExpert { default: Some("gone".into()) };
    for (task, default, wanted) in [
        (task(1, "music", ""), None, none.clone()),
        (task(1, "", ""), None, none),
        (task(1, "art", "painter"), Some("gone"), gone),
        (task(1, "legal", ""), None, WhyNobody::AllSuspended),
        (task(1, "art", ""), Some("sam"), WhyNobody::AllSuspended),
        (task(1, "poetry", ""), None, WhyNobody::NoModel { expert: "mute".into() }),
        (named("sam"), None, WhyNobody::NamedSuspended { expert: "sam".into() }),
        (named("eve"), None, WhyNobody::NamedMissing { expert: "eve".into() }),
    ] {
        assert_eq!(one(task.clone(), default), Err(wanted), "{task:?}");
    }
    let elsewhere = QueueKey { namespace: "default".into(), name: "gone".into() };
    assert_eq!(one(Unassigned { queue: elsewhere, ..task(1, "backend", "") }, None), Err(WhyNobody::QueueMissing));
}

#[test]
fn a_named_expert_gets_the_task_whatever_else_matches() {
    let given = one(Unassigned { expert: Some("zoe".into()), ..task(1, "backend", "engineer") }, None).unwrap();
    assert_eq!((given.expert.as_str(), given.reason), ("zoe", "named by the task"));
}

#[test]
fn the_model_is_the_tasks_else_the_experts_and_none_for_a_webhook() {
    let asking = |domain: &str| Unassigned { model: Some("large".into()), ..task(1, domain, "") };
    for (task, model) in [
        (task(1, "frontend", ""), Some("small")),
        (asking("frontend"), Some("large")),
        (asking("poetry"), Some("large")),
        (asking("ops"), None),
        (task(1, "ops", ""), None),
    ] {
        assert_eq!(one(task.clone(), None).unwrap().model.as_deref(), model, "{task:?}");
    }
}

#[test]
fn the_least_loaded_is_taken_and_ties_go_by_name() {
    let experts = vec![
        AssignableExpert { load: 2, ..expert("anna", "x", "") },
        AssignableExpert { load: 0, ..expert("carl", "x", "") },
        AssignableExpert { load: 0, ..expert("bert", "x", "") },
    ];
    let tasks: Vec<_> = (1..=7).map(|id| task(id, "x", "")).collect();
    let batch = Roster::new(experts, vec![queue(None)]).assign(&tasks);
    let names: Vec<&str> = batch.assignments.iter().map(|a| a.expert.as_str()).collect();
    assert_eq!(names, ["bert", "carl", "bert", "carl", "anna", "bert", "carl"]);
    assert_eq!(*batch.assignments[0].candidates, ["anna", "bert", "carl"]);
}

#[test]
fn load_counts_what_other_kinds_of_tasks_and_earlier_batches_gave() {
    let experts = vec![expert("a", "x y", ""), expert("b", "x", "")];
    let mut roster = Roster::new(experts, vec![queue(None)]);
    let given =
        |roster: &mut Roster, id, domain: &str| roster.assign(&[task(id, domain, "")]).assignments.remove(0).expert;
    let names: Vec<_> = ["x", "y", "y", "x", "x", "x"].into_iter().map(|d| given(&mut roster, 1, d)).collect();
    assert_eq!(names, ["a", "a", "a", "b", "b", "b"]);
}

#[test]
fn at_most_ten_candidates_are_kept() {
    let experts = (0..30).map(|i| expert(&format!("e{i:02}"), "x", "")).collect();
    let batch = Roster::new(experts, vec![queue(None)]).assign(&[task(1, "x", "")]);
    assert_eq!(batch.assignments[0].candidates.len(), 10);
}

#[test]
fn the_report_adds_up_and_says_what_would_mend_it() {
    let mut roster = Roster::new(team(), vec![queue(None)]);
    let tasks = vec![task(1, "backend", "engineer"), task(2, "law", ""), task(3, "law", ""), task(4, "legal", "")];
    let mut tally = Tally::default();
    let batch = roster.assign(&tasks);
    tally.add(&tasks, &batch);
    let report = tally.report(10, true);
    assert_eq!((report.pending, report.unassigned, report.already), (10, 4, 6));
    assert_eq!(report.assigned, [AssignedCount { namespace: "default".into(), expert: "igor".into(), count: 1 }]);
    let why: Vec<_> = report.nobody.iter().map(|n| (n.count, n.why.as_str())).collect();
    assert_eq!(
        why,
        [
            (2, "no expert does \"law\", and queue default has no defaultExpertRef"),
            (1, "every expert that could do it is suspended: resume one"),
        ]
    );
}

/// The rule again, slowly: for each task, look at every expert.
fn slowly(experts: &[AssignableExpert], tasks: &[Unassigned], default: Option<&str>) -> Vec<Option<String>> {
    let mut loads: Vec<i64> = experts.iter().map(|e| e.load).collect();
    let does = |list: &[String], word: &str| !word.is_empty() && list.iter().any(|w| w == word);
    let mut all = Vec::new();
    for task in tasks {
        let level = |e: &AssignableExpert| match (does(&e.domains, &task.domain), does(&e.roles, &task.role)) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) if default == Some(e.name.as_str()) => 3,
            (false, false) => 4,
        };
        let able = |e: &AssignableExpert| e.namespace == "default" && !e.suspended && level(e) < 4;
        let best = (0..experts.len())
            .filter(|i| able(&experts[*i]))
            .min_by_key(|i| (level(&experts[*i]), loads[*i], experts[*i].name.clone()));
        if let Some(best) = best {
            loads[best] += 1;
        }
        all.push(best.map(|i| experts[i].name.clone()));
    }
    all
}

fn some_words() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned), 0..3)
}

fn some_expert() -> impl Strategy<Value = AssignableExpert> {
    (some_words(), some_words(), 0_i64..4, proptest::bool::weighted(0.2), proptest::bool::weighted(0.1)).prop_map(
        |(domains, roles, load, suspended, other)| AssignableExpert {
            namespace: if other { "other" } else { "default" }.into(),
            domains,
            roles,
            load,
            suspended,
            ..expert("", "", "")
        },
    )
}

proptest! {
    #[test]
    fn the_index_decides_as_the_rule_does(
        mut experts in proptest::collection::vec(some_expert(), 0..8),
        kinds in proptest::collection::vec((0_usize..4, 0_usize..4), 0..40),
        with_default in any::<bool>(),
    ) {
        for (i, expert) in experts.iter_mut().enumerate() {
            expert.name = format!("e{}", (i * 5) % 8);
        }
        let word = |i: usize| ["", "a", "b", "d"][i];
        let tasks: Vec<_> = kinds.iter().zip(1..).map(|((d, r), id)| task(id, word(*d), word(*r))).collect();
        let default = with_default.then_some("e0");
        let batch = Roster::new(experts.clone(), vec![queue(default)]).assign(&tasks);
        let mut given: Vec<Option<String>> = vec![None; tasks.len()];
        for assignment in &batch.assignments {
            given[usize::try_from(assignment.task).unwrap() - 1] = Some(assignment.expert.clone());
        }
        prop_assert_eq!(given, slowly(&experts, &tasks, default));
        prop_assert_eq!(batch.assignments.len() + batch.nobody.len(), tasks.len());
    }
}

/// Printed by `cargo test -- --nocapture`; bounded loosely, because tests are not optimized.
#[test]
fn fifty_thousand_tasks_and_a_hundred_experts_take_no_time() {
    let experts = (0..100)
        .map(|i| expert(&format!("e{i:03}"), &format!("d{} d{}", i % 10, (i + 1) % 10), &format!("r{}", i % 7)))
        .collect();
    let tasks: Vec<_> = (0..50_000).map(|id| task(id, &format!("d{}", id % 11), &format!("r{}", id % 9))).collect();
    let mut roster = Roster::new(experts, vec![queue(Some("e000"))]);
    let began = std::time::Instant::now();
    let batch = roster.assign(&tasks);
    let took = began.elapsed();
    println!("50,000 tasks to 100 experts in {took:?}");
    assert_eq!(batch.assignments.len(), 50_000);
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    let equal = |i: &AssignableExpert| i.name.as_str() > "e000";
    let loads: Vec<i64> = roster.experts.iter().filter(|e| equal(e)).map(|e| e.load).collect();
    assert!(loads.iter().all(|load| *load > 0));
}

#[test]
fn counts_of_equal_experts_are_at_most_one_apart() {
    let experts = (0..7).map(|i| expert(&format!("e{i}"), "x", "y")).collect();
    let tasks: Vec<_> = (0..405).map(|id| task(id, "x", ["y", "z"][usize::try_from(id % 2).unwrap()])).collect();
    let mut roster = Roster::new(experts, vec![queue(None)]);
    roster.assign(&tasks);
    let loads: Vec<i64> = roster.experts.iter().map(|e| e.load).collect();
    assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
}
