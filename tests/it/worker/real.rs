//! Worker processes, PostgreSQL, Ollama and MLX, all of them real; what is in flight is counted before the engines.

use nix::sys::signal::Signal;
use ostler::tasks::{Attempt, AttemptClass, Payload, TaskState};
use serde_json::{Value, json};

use super::{
    eventually,
    shop::{Process, Shop, new_task},
};
use crate::{
    real::{Counter, Mlx, Ollama, Postgres},
    store::bench::Bench,
};

const EXPERTS: [&str; 8] = ["e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"];

async fn experts(shop: &Shop) {
    for name in EXPERTS {
        let parameters = json!({"maxTokens": 6, "timeoutSeconds": 30});
        shop.expert_with(name, json!({"model": "small", "parameters": parameters})).await;
    }
}

async fn end(processes: Vec<Process>) {
    for mut process in processes {
        process.signal(Signal::SIGTERM);
        assert_eq!(process.ended().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_engines_do_real_tasks_from_four_processes_one_killed_and_a_database_restarted() {
    let parts = tokio::task::spawn_blocking(|| (Postgres::start(), Mlx::start(), Ollama::start()));
    let (postgres, mlx, ollama) = parts.await.expect("parts");
    let shop = Shop::on(Bench::at(&postgres.database()).await).await;
    shop.queue(json!({"leaseSeconds": 10, "retry": {"backoffSeconds": 1}})).await;
    let (mlx_url, at_mlx) = Counter::start("127.0.0.1", mlx.url()).await;
    let (ollama_url, at_ollama) = Counter::start("127.0.0.1", ollama.url()).await;
    shop.backend("mlx", "MLX", &mlx_url, &[json!({"name": mlx.model(), "alias": "small"})], 2, 10).await;
    shop.backend("ollama", "Ollama", &ollama_url, &[json!({"name": Ollama::MODEL, "alias": "small"})], 4, 20).await;
    experts(&shop).await;
    let ids = shop.give(405, &EXPERTS, Some("small")).await;
    let mut processes: Vec<_> = (0..4).map(|_| shop.process()).collect();
    eventually("some to be done", || async { shop.in_state(TaskState::Completed).await >= 50 }).await;
    let mut victim = processes.remove(0);
    victim.signal(Signal::SIGKILL);
    assert_eq!(victim.ended().await, None);
    eventually("more to be done", || async { shop.in_state(TaskState::Completed).await >= 100 }).await;
    let postgres = tokio::task::spawn_blocking(move || {
        postgres.restart();
        postgres
    });
    let _postgres = postgres.await.expect("restarted");
    eventually("the database to be back", || async { shop.store().queue_counts().await.is_ok() }).await;
    shop.until_completed(&ids).await;
    end(processes).await;
    assert!(at_mlx.peak() <= 2, "MLX had {} at once", at_mlx.peak());
    assert!(at_ollama.peak() <= 4, "Ollama had {} at once", at_ollama.peak());
    // Who is faster does more: on a busy machine that is not MLX.
    assert!(at_mlx.posts() > 10 && at_ollama.posts() > 50, "{} and {}", at_mlx.posts(), at_ollama.posts());
    for task in shop.tasks(&ids).await {
        let done = task.attempts.iter().filter(|attempt| attempt.class == AttemptClass::Ok).count();
        assert_eq!((task.state, done), (TaskState::Completed, 1), "{task:?}");
        // A model of random weights may answer blanks alone.
        let nothing = |error: &Option<String>| error.as_ref().is_some_and(|why| why.contains("answered nothing"));
        let own = |attempt: &&Attempt| attempt.class == AttemptClass::Retryable && !nothing(&attempt.error);
        assert_eq!(task.attempts.iter().find(own), None, "{task:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_ollama_embeds_and_answers_by_schema() {
    let ollama = tokio::task::spawn_blocking(Ollama::start).await.expect("Ollama");
    let shop = Shop::sqlite().await;
    let models: Vec<Value> = vec![json!({"name": Ollama::MODEL, "alias": "small"})];
    shop.backend("ollama", "Ollama", &ollama.url(), &models, 2, 10).await;
    shop.expert_with("igor", json!({"model": "small", "parameters": {"maxTokens": 40, "timeoutSeconds": 30}})).await;
    shop.expert_with("vera", json!({"model": "small", "handler": "Embed"})).await;
    let schema = json!({"type": "object", "properties": {"n": {"enum": ["yes", "no"]}}, "required": ["n"], "additionalProperties": false});
    let asked = Payload { prompt: Some("yes or no?".into()), schema: Some(schema), ..Payload::default() };
    let texts = Payload { input: Some(vec!["hay".into(), "oats".into()]), ..Payload::default() };
    let chat = shop.give_these(&[new_task(asked)], &["igor"], Some("small")).await[0];
    let embed = shop.give_these(&[new_task(texts)], &["vera"], Some("small")).await[0];
    let worker = shop.worker().await;
    eventually("their ends", || async {
        let (chat, embed) = (shop.task(chat).await, shop.task(embed).await);
        let over = |state: TaskState| state.is_terminal() || state == TaskState::DeferredToHuman;
        over(chat.state) && over(embed.state)
    })
    .await;
    worker.end().await;
    let chat = shop.task(chat).await;
    if chat.state == TaskState::Completed {
        assert!(
            ["yes", "no"].contains(&chat.result.as_ref().expect("a result")["json"]["n"].as_str().expect("a word"))
        );
    } else {
        // A tiny model may say spaces until it is cut off.
        assert!(chat.reason.as_deref().is_some_and(|reason| reason.contains("max_tokens")), "{chat:?}");
    }
    let embed = shop.task(embed).await;
    let vectors = embed.result.as_ref().and_then(|result| result["vectors"].as_array()).map(Vec::len);
    assert!(vectors == Some(2) || embed.reason.as_deref().is_some_and(|r| r.contains("embed")), "{embed:?}");
}
