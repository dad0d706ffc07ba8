//! Which value of the chart grants what an API server refuses: a refusal names its mend.

/// The refusal of an API server, with the value that would allow it where one does.
pub fn with_mend(refusal: &str) -> String {
    match chart_value(refusal) {
        Some(value) => format!("{refusal}; the chart grants it by {value}"),
        None => refusal.to_owned(),
    }
}

/// Of `… cannot VERB resource "RESOURCE" in API group …`.
fn chart_value(refusal: &str) -> Option<&'static str> {
    let (verb, rest) = refusal.split_once(" cannot ")?.1.split_once(" resource \"")?;
    let resource = rest.split_once('"')?.0;
    Some(match (verb, resource) {
        ("get", "secrets") => "secretNamespaces: [NAMESPACE]",
        ("get", "configmaps") => "readConfigMaps: true",
        ("get", "pods/log") => "readLogs: true",
        ("patch", "pods/resize") => "resizePods: true",
        (_, "deployments/scale") => "scaleWorkers: true",
        ("create", "deployments") | ("patch", "pods") => "makeWorkers: true",
        ("patch", "deployments" | "statefulsets" | "daemonsets") => "patchWorkloads: true",
        ("get", "deployments") | ("list", "pods") => "restartWorkloads: true, or for a WorkerPool scaleWorkers: true",
        ("delete", "pods") | ("list", "replicasets") | ("get", "statefulsets" | "daemonsets") => {
            "restartWorkloads: true"
        }
        (_, "llmbackends" | "hostagents" | "experts" | "taskqueues" | "workerpools")
        | (_, "taskschedules" | "containerhealthchecks" | "callers") => "watchNamespaces: [NAMESPACE]",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_value_that_would_allow_it() {
        let refused = |verb: &str, resource: &str| {
            format!(
                "{resource} \"x\" is forbidden: User \"system:serviceaccount:o:ostler\" cannot {verb} resource \"{resource}\" in API group \"\" in the namespace \"team\""
            )
        };
        for (verb, resource, value) in [
            ("get", "secrets", Some("secretNamespaces: [NAMESPACE]")),
            ("get", "configmaps", Some("readConfigMaps: true")),
            ("get", "pods/log", Some("readLogs: true")),
            ("patch", "pods/resize", Some("resizePods: true")),
            ("patch", "deployments/scale", Some("scaleWorkers: true")),
            ("create", "deployments", Some("makeWorkers: true")),
            ("patch", "statefulsets", Some("patchWorkloads: true")),
            ("delete", "pods", Some("restartWorkloads: true")),
            ("get", "daemonsets", Some("restartWorkloads: true")),
            ("get", "deployments", Some("restartWorkloads: true, or for a WorkerPool scaleWorkers: true")),
            ("list", "llmbackends", Some("watchNamespaces: [NAMESPACE]")),
            ("list", "nodes", None),
        ] {
            let said = refused(verb, resource);
            assert_eq!(chart_value(&said), value, "{verb} {resource}");
            assert!(with_mend(&said).starts_with(&said));
        }
        assert_eq!(with_mend("no"), "no");
    }
}
