use super::*;
use crate::api::{ClaimedBy, Handler, Overflow};
use crate::tasks::route::CallsOfDay;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn default() -> QueueKey {
    QueueKey { namespace: "default".into(), name: "default".into() }
}

fn expert(name: &str, domain: &str) -> WorldExpert {
    let view = AssignableExpert {
        namespace: "default".into(),
        name: name.into(),
        domains: vec![domain.into()],
        model: Some("small".into()),
        ..AssignableExpert::default()
    };
    WorldExpert { view, running: 0, most: 5 }
}

fn backend(name: &str, priority: i32) -> WorldBackend {
    let server = Server {
        namespace: "default".into(),
        name: name.into(),
        url: format!("http://{name}"),
        priority,
        ready: true,
        free: 1,
        overflow: Overflow::Spill,
        accepts_spill: true,
        calls: None,
        models: vec![("small".into(), "s".into())],
    };
    WorldBackend { server, state: "Serving".into(), reason: "Serving".into(), since: Some(at(50)), limit: 2 }
}

/// Where nothing stands in the way of anybody.
fn world() -> World {
    let view = QueueView { key: default(), default_expert: None, claimed_by: ClaimedBy::Workers };
    World {
        queues: vec![QueueState { view, suspended: false, held: None }],
        experts: vec![expert("igor", "backend")],
        backends: vec![backend("mlx", 10), backend("ollama", 20)],
        pools: vec![PoolState {
            namespace: "default".into(),
            name: "smart".into(),
            queues: vec!["default".into()],
            suspended: false,
        }],
        workers: vec![WorkerState {
            namespace: "default".into(),
            pool: "smart".into(),
            in_flight: 1,
            effective: 15,
            limited_by: "Tasks".into(),
            draining: false,
        }],
    }
}

fn item() -> WaitingTask {
    WaitingTask {
        queue: default(),
        domain: "backend".into(),
        role: String::new(),
        expert: Some("igor".into()),
        assigned: true,
        model: Some("small".into()),
        not_before: None,
    }
}

fn unassigned(domain: &str) -> WaitingTask {
    WaitingTask { expert: None, assigned: false, model: None, domain: domain.into(), ..item() }
}

fn down(world: &mut World, index: usize) {
    let backend = &mut world.backends[index];
    backend.server.ready = false;
    (backend.state, backend.reason) = ("Recovering".into(), "Refused".into());
}

type Change = fn(&mut World);

#[test]
fn the_first_thing_in_the_way_is_named() {
    let cases: [(WaitingTask, Change, &str); 24] = [
        (item(), |_| {}, "nothing stands in its way"),
        (item(), |w| w.queues.clear(), "there is no TaskQueue default/default"),
        (item(), |w| w.queues[0].suspended = true, "queue default is suspended"),
        (
            item(),
            |w| w.queues[0].held = Some("ollama is not Ready".into()),
            "queue default is held: ollama is not Ready",
        ),
        (
            WaitingTask { not_before: Some(Ok(at(101))), ..item() },
            |_| {},
            "it is not to run before 1970-01-01T00:01:41Z",
        ),
        (WaitingTask { not_before: Some(Ok(at(100))), ..item() }, |_| {}, "nothing stands in its way"),
        (WaitingTask { not_before: Some(Err(())), ..item() }, |_| {}, "it is to run later"),
        (unassigned("legal"), |_| {}, "no expert does \"legal\", and queue default has no defaultExpertRef"),
        (unassigned("backend"), |_| {}, "it waits for the next round"),
        (item(), |w| w.experts.clear(), "expert igor is not there"),
        (item(), |w| w.experts[0].view.suspended = true, "expert igor is suspended"),
        (item(), |w| w.experts[0].running = 5, "it waits for a place of igor: 5 of 5"),
        (WaitingTask { model: Some("huge".into()), ..item() }, |_| {}, "no backend serves \"huge\""),
        (
            item(),
            |w| {
                down(w, 0);
                down(w, 1);
            },
            "it waits for mlx to come back (Recovering, Refused); 1 more also down",
        ),
        (
            item(),
            |w| {
                down(w, 0);
                w.backends[0].server.overflow = Overflow::Wait;
            },
            "it waits for mlx to come back",
        ),
        (
            item(),
            |w| w.backends.iter_mut().for_each(|b| b.server.free = 0),
            "it waits for a slot of mlx (2 at once); 1 more",
        ),
        (
            item(),
            |w| {
                down(w, 0);
                w.backends[1].server.free = 0;
            },
            "it waits for a slot of ollama",
        ),
        (item(), |w| w.backends[0].server.free = 0, "nothing stands in its way"),
        (
            item(),
            |w| {
                w.backends
                    .iter_mut()
                    .for_each(|b| b.server = b.server.clone().today(Some(CallsOfDay { most: 9, left: 0 })))
            },
            "it waits for midnight UTC: mlx may be called 9 times a day (maxCallsPerDay); 1 more not to be had either",
        ),
        (
            item(),
            |w| {
                w.backends[0].server = w.backends[0].server.clone().today(Some(CallsOfDay { most: 9, left: 0 }));
                w.backends[1].server.free = 0;
            },
            "it waits for a slot of ollama (2 at once); 1 more",
        ),
        (item(), |w| w.pools.clear(), "no worker pool serves queue default"),
        (item(), |w| w.workers.clear(), "no worker of pool smart runs"),
        (item(), |w| w.workers[0].draining = true, "no worker of pool smart runs"),
        (
            item(),
            |w| {
                w.workers[0].effective = 1;
                w.workers[0].limited_by = "Memory".into();
            },
            "it waits for a worker: they have 1 task in hand, limited by Memory",
        ),
    ];
    for (item, change, wanted) in cases {
        let mut world = world();
        change(&mut world);
        let words = why(&item, &world, at(100)).in_words();
        assert!(words.starts_with(wanted), "{words:?} is not {wanted:?}");
    }
}

#[test]
fn a_webhooks_task_waits_for_no_backend() {
    let mut world = world();
    world.experts[0].view.handler = Handler::Webhook;
    down(&mut world, 0);
    down(&mut world, 1);
    assert_eq!(why(&item(), &world, at(100)), Why::Soon);
}

#[test]
fn it_waits_since_the_backend_went_down_or_since_it_came() {
    let mut world = world();
    down(&mut world, 0);
    down(&mut world, 1);
    let why = why(&item(), &world, at(100));
    assert_eq!(since(&why, at(10)), at(50));
    assert_eq!(since(&why, at(60)), at(60));
}

#[test]
fn the_status_screen_says_it_on_one_line() {
    let mut world = world();
    world.backends[0].server.free = 0;
    world.backends[0].server.overflow = Overflow::Wait;
    world.backends[1].server.models = vec![("large".into(), "l".into())];
    down(&mut world, 1);
    let large = WaitingTask { model: Some("large".into()), ..item() };
    let mut waiting = vec![
        WaitingTasks { item: unassigned("legal"), count: 1 },
        WaitingTasks { item: item(), count: 300 },
        WaitingTasks { item: large, count: 24 },
        WaitingTasks { item: WaitingTask { domain: "other".into(), ..item() }, count: 80 },
    ];
    let groups = group(&waiting, &world, at(100));
    assert_eq!(line(&groups), "380 wait for a slot of mlx · 24 for ollama to come back · 1: no expert does \"legal\"");
    waiting.truncate(1);
    waiting.push(WaitingTasks { item: item(), count: 1 });
    assert_eq!(line(&group(&waiting, &world, at(100))), "1 waits for a slot of mlx · 1: no expert does \"legal\"");
    assert_eq!(line(&[]), "");
}
