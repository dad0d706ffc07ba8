//! Which rights each value of the chart gives to the controller.

use k8s_openapi::api::authorization::v1::ResourceRule;

/// Verb, group and resource.
pub type Right = (&'static str, &'static str, &'static str);

const KINDS: [&str; 8] = [
    "llmbackends",
    "hostagents",
    "experts",
    "taskqueues",
    "workerpools",
    "taskschedules",
    "containerhealthchecks",
    "callers",
];

/// What a namespace that is watched needs, with these values of the chart on.
pub fn needed(abilities: &[String]) -> Vec<(String, Right)> {
    let mut all = Vec::new();
    for kind in KINDS {
        all.extend(["get", "list", "watch"].map(|verb| ("watchNamespaces".to_owned(), (verb, "ostler.dev", kind))));
    }
    all.extend([
        ("watchNamespaces".to_owned(), ("create", "events.k8s.io", "events")),
        ("watchNamespaces".to_owned(), ("patch", "events.k8s.io", "events")),
    ]);
    for ability in abilities {
        all.extend(of_ability(ability).iter().map(|right| (ability.clone(), *right)));
    }
    all
}

/// What one value of the chart allows.
pub fn of_ability(ability: &str) -> &'static [Right] {
    match ability {
        "restartWorkloads" => &[
            ("list", "", "pods"),
            ("delete", "", "pods"),
            ("get", "apps", "deployments"),
            ("get", "apps", "statefulsets"),
            ("get", "apps", "daemonsets"),
            ("list", "apps", "replicasets"),
        ],
        "readLogs" => &[("get", "", "pods/log"), ("list", "", "pods")],
        "resizePods" => &[("patch", "", "pods/resize"), ("list", "", "pods")],
        "patchWorkloads" => {
            &[("patch", "apps", "deployments"), ("patch", "apps", "statefulsets"), ("patch", "apps", "daemonsets")]
        }
        "scaleWorkers" => &[("get", "apps", "deployments"), ("patch", "apps", "deployments/scale")],
        "makeWorkers" => &[("create", "apps", "deployments"), ("patch", "apps", "deployments"), ("patch", "", "pods")],
        "readConfigMaps" => &[("get", "", "configmaps")],
        _ => &[],
    }
}

/// Whether rules, as the API server lists them, allow it for any name.
pub fn allows(rules: &[ResourceRule], (verb, group, resource): Right) -> bool {
    let has = |all: &[String], one: &str| all.iter().any(|word| word == "*" || word == one);
    rules.iter().any(|rule| {
        has(&rule.verbs, verb)
            && has(rule.api_groups.as_deref().unwrap_or_default(), group)
            && has(rule.resources.as_deref().unwrap_or_default(), resource)
            && rule.resource_names.as_deref().unwrap_or_default().is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> ResourceRule {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        ResourceRule {
            verbs: own(verbs),
            api_groups: Some(own(groups)),
            resources: Some(own(resources)),
            resource_names: Some(own(names)),
        }
    }

    #[test]
    fn rules_allow_what_they_name_for_all_names() {
        for (rules, allowed) in [
            (rule(&["get", "list"], &[""], &["pods"], &[]), true),
            (rule(&["*"], &["*"], &["*"], &[]), true),
            (rule(&["get"], &[""], &["pods"], &[]), false),
            (rule(&["list"], &["apps"], &["pods"], &[]), false),
            (rule(&["list"], &[""], &["pods/log"], &[]), false),
            (rule(&["list"], &[""], &["pods"], &["one"]), false),
        ] {
            assert_eq!(allows(std::slice::from_ref(&rules), ("list", "", "pods")), allowed, "{rules:?}");
        }
        assert!(!allows(&[], ("list", "", "pods")));
    }

    #[test]
    fn every_ability_of_the_chart_has_its_rights() {
        for ability in [
            "restartWorkloads",
            "readLogs",
            "resizePods",
            "patchWorkloads",
            "scaleWorkers",
            "makeWorkers",
            "readConfigMaps",
        ] {
            assert!(!of_ability(ability).is_empty(), "{ability}");
        }
        assert_eq!(needed(&[]).len(), 26);
    }
}
