//! What a person types against a reason that the controllers can't mend.

/// For a reason whose message does not say it itself.
pub fn remedy(kind: &str, namespace: &str, name: &str, reason: &str) -> Option<String> {
    if kind != "LLMBackend" || !matches!(reason, "DeferredToHuman" | "Storm" | "AgentUnreachable") {
        return None;
    }
    let namespace = if namespace == "default" { String::new() } else { format!(" -n {namespace}") };
    Some(format!("`ostler reconcile llm/{name}{namespace}` tries again at once"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_begun_again_by_a_command() {
        let told = |namespace, reason| remedy("LLMBackend", namespace, "mlx", reason);
        assert_eq!(
            told("default", "DeferredToHuman").as_deref(),
            Some("`ostler reconcile llm/mlx` tries again at once")
        );
        assert_eq!(told("team", "Storm").as_deref(), Some("`ostler reconcile llm/mlx -n team` tries again at once"));
        assert_eq!(told("team", "ModelsMissing"), None);
    }
}
