//! Every fault with its grammar: what `ostler simulate --help` prints.

use std::fmt::Write;

use serde::Serialize;
use strum::VariantArray;

use super::{Like, Shape};

/// How each fault is written, and what it does.
pub const FAULTS: [(&str, &str); 37] = [
    ("hang-inference[:survives-unload=true]", "inference stands still, listings answer; Ollama's unload ends it"),
    ("hang[:path=P]", "nothing is answered"),
    ("refuse", "the port is closed, connections are cut"),
    ("reset[:path=P]", "every request's connection is reset"),
    ("reset-after:tokens=N", "an inference's connection is reset after N tokens"),
    ("status:code=N[,path=P][,retry-after-seconds=N]", "an HTTP status in place of the answer"),
    ("empty-body[:path=P]", "200 and nothing"),
    ("garbage-body[:path=P]", "200 and a page of HTML"),
    (
        "reply:like=NAME[,path=P][,model=M][,contains=TEXT][,below-tokens=N]",
        "a real server's reply, to requests that match",
    ),
    ("redirect:to=login|loop|URL[,code=N][,path=P]", "a redirect; a URL without a path keeps the request's"),
    ("latency:millis=N[,path=P]", "answers come late"),
    (
        "prefill:seconds=N|tokens-per-second=N[,keepalive=true]",
        "time before the first token, silent or with SSE comments",
    ),
    ("slow-tokens:tokens-per-second=N", "tokens come slowly"),
    ("stall-after:tokens=N", "an inference stands still after N tokens"),
    ("stream:shape=NAME[,after-tokens=N]", "a streamed answer that is malformed or ends wrongly"),
    ("long-answer:tokens=N", "the model says N tokens, or as many as it may"),
    ("context:tokens=N", "a longer prompt is cut (ollama) or refused (openai, truncate: false)"),
    ("unnoticed-disconnect", "calls are worked to the end when the client goes"),
    ("no-models", "lists and knows no models: the wrong user"),
    ("missing-model:model=M", "one model is gone until it is pulled"),
    ("cloud-model[:model=M]", "ollama lists a model that runs elsewhere"),
    ("embeddings-only[:code=501|400|404|405]", "chat is refused, /v1/embeddings answers"),
    ("slow-load:seconds=N[,cancelled=true]", "a model takes so long to load; cancelled: only while a client waits"),
    ("fail-load[:model=M]", "a model that is not in memory can't be loaded"),
    ("runner-stopped", "inferences are answered 500, nothing is in memory, listings are well"),
    ("expiry-in-past:seconds=N", "/api/ps shows an expires_at that is over"),
    ("cpu-only", "/api/ps shows a size_vram of 0"),
    ("foreign-calls:count=N", "other clients keep N calls open in the engine"),
    ("slow-pull:seconds=N", "a pull takes so long, with steady progress"),
    ("fail-pull", "pull model manifest: file does not exist"),
    ("stuck-pull", "a pull repeats its line of 99 % for ever"),
    ("crash[:exit-code=N]", "the process exits"),
    ("out-of-memory", "the engine's own message, then SIGKILL"),
    ("slow-exit:seconds=N", "SIGTERM ends the process only after so long"),
    (
        "after-seconds=N, after-requests=N, above-in-flight=N",
        "begins it later: by time, inference calls, or calls at a time",
    ),
    ("for-seconds=N, for-requests=N", "ends it by itself"),
    ("while-in-flight=N, starts=N", "only while N calls are open; only in the first N starts (--state-file)"),
];

/// The faults, the replies and the shapes, as text.
pub fn fault_help() -> String {
    let mut help = "\
Faults, written NAME or NAME:key=value,…
P is a path, \"listings\" (every GET) or \"inferences\"; the last three lines are keys of every fault.
"
    .to_owned();
    for (syntax, what) in FAULTS {
        // Writing to a string can't fail.
        let _ = writeln!(help, "  {syntax}\n      {what}");
    }
    let _ = write!(help, "Replies (like=NAME):\n  {}\n", names(Like::VARIANTS).join(", "));
    let _ = write!(help, "Shapes (shape=NAME):\n  {}", names(Shape::VARIANTS).join(", "));
    help
}

fn names<T: Serialize>(all: &[T]) -> Vec<String> {
    all.iter().filter_map(|one| Some(serde_json::to_value(one).ok()?.as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ActiveFault;
    use super::*;

    /// serde lists what it knows when it is asked for what it does not.
    fn known(text: &str) -> Vec<String> {
        let error = text.parse::<ActiveFault>().expect_err(text).to_string();
        let (_, list) = error.split_once("expected one of ").expect(&error);
        let (list, _) = list.split_once(';').expect(&error);
        list.split('`').filter(|word| !word.is_empty() && *word != ", ").map(str::to_owned).collect()
    }

    #[test]
    fn every_fault_reply_and_shape_is_documented_by_its_name() {
        let syntax_names: Vec<_> = FAULTS.iter().filter_map(|(syntax, _)| syntax.split([':', '[']).next()).collect();
        // A table writes a bar with a backslash.
        let page = include_str!("../../docs/simulate.md").replace("\\|", "|");
        for name in known("explode") {
            assert!(syntax_names.contains(&name.as_str()), "{name} is not in FAULTS");
        }
        for (syntax, _) in FAULTS {
            for part in syntax.split(", ") {
                assert!(page.contains(&format!("`{part}`")), "docs/simulate.md lacks `{part}`");
            }
        }
        for (asked, listed) in [("reply:like=x", names(Like::VARIANTS)), ("stream:shape=x", names(Shape::VARIANTS))] {
            let known = known(asked);
            assert_eq!(known, listed);
            for name in known {
                assert!(page.contains(&format!("`{name}`")), "docs/simulate.md lacks {name}");
            }
        }
    }
}
