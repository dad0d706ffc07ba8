//! Changes of tasks, as whoever follows them reads them.

use std::time::{Duration, Instant};

use ostler::store::{TaskCommand, TaskCursor, TaskFilter};
use ostler::tasks::{Task, TaskState};

use super::bench::Bench;
use super::tasks_bench::*;

/// Reads on until so many came, two at a time.
async fn follow(bench: &Bench, filter: &TaskFilter, mut after: Option<TaskCursor>, count: usize) -> Vec<Task> {
    let (mut seen, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(20));
    while seen.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} came", seen.len());
        let page = bench.store.task_changes(filter, after, 2, true).await.expect("changes");
        assert!(page.len() <= 2);
        after = page.last().map(TaskCursor::of).or(after);
        seen.extend(page);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}

pub async fn changes_are_read_on_from_a_cursor_in_their_order(bench: &Bench) {
    let given: Vec<i64> =
        bench.store.insert_tasks(&vec![new_task(); 5]).await.expect("insert").iter().map(|i| i.id).collect();
    let ids = |tasks: &[Task]| tasks.iter().map(|t| t.id).collect::<Vec<_>>();
    let all = TaskFilter::default();
    let seen = follow(bench, &all, None, 5).await;
    assert_eq!(ids(&seen), given);
    assert!(seen.iter().all(|t| t.payload.prompt.is_none()), "brief");
    let cursor: TaskCursor = TaskCursor::of(&seen[4]).to_string().parse().expect("what it wrote");
    assert_eq!(bench.store.task_changes(&all, Some(cursor), 9, true).await.expect("changes"), []);

    for id in [given[3], given[1]] {
        let done = bench.store.command_tasks(&filter(&[id]), &TaskCommand::Cancel, "by ada", 9).await.expect("cancel");
        assert_eq!(done, [id]);
    }
    let later = follow(bench, &all, Some(cursor), 2).await;
    assert_eq!(ids(&later), [given[3], given[1]], "in the order of their ends");
    let ended = TaskFilter { states: vec![TaskState::Cancelled], ..TaskFilter::default() };
    assert_eq!(ids(&follow(bench, &ended, None, 2).await), [given[3], given[1]]);
    let count = async |filter: &TaskFilter| bench.store.count_tasks(filter).await.expect("count");
    assert_eq!((count(&all).await, count(&ended).await, count(&filter(&given[..2])).await), (5, 2, 2));
}
