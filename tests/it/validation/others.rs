//! The table's rows about host agents, Secrets, checks of containers, callers and Notifiers.

use super::{
    cases::{
        Case,
        Verdict::{self, Accepted, Refused},
        agent, secret,
    },
    work::rows,
};

pub fn all() -> Vec<Case> {
    [agents(), secrets(), checks(), callers(), notifiers()].into_iter().flatten().collect()
}

fn agents() -> Vec<Case> {
    vec![
        agent("the least that is needed", "spec: {url: 'http://127.0.0.1:9099'}", Accepted),
        agent(
            "with secrets",
            "spec: {url: 'https://mac:9099', secretRef: {name: a}, caSecretRef: {name: b}}",
            Accepted,
        ),
        agent(
            "an empty name of a secret",
            "spec: {url: 'https://mac:9099', secretRef: {name: ''}}",
            Refused("spec.secretRef.name"),
        ),
        agent("a secret as a word", "spec: {url: 'https://mac:9099', secretRef: a}", Refused("spec.secretRef")),
        agent(
            "a secret elsewhere",
            "spec: {url: 'https://mac:9099', secretRef: {name: a, namespace: b}}",
            Refused("spec.secretRef.namespace"),
        ),
        agent("a url with a path", "spec: {url: 'https://mac:9099/v1'}", Refused("spec.url")),
    ]
}

fn secrets() -> Vec<Case> {
    vec![
        secret("data and text", "data: {a: aGVsbG8=}\nstringData: {b: world}\ntype: Opaque", Accepted),
        secret("no base64", "data: {a: 'hello!'}", Refused("data")),
        secret("a number as text", "stringData: {pin: 4711}", Refused("stringData")),
        secret("a bad key", "stringData: {'a b': c}", Refused("a b")),
        secret("an unknown field", "strings: {a: b}", Refused("strings")),
        secret("nothing", "", Accepted),
    ]
}

fn checks() -> Vec<Case> {
    let docker = "target: {docker: {hostAgentRef: {name: a}, names: [c]}}";
    let pods = "target: {kubernetes: {workloadRef: {kind: Deployment, name: d}}}";
    let all: Vec<(&'static str, String, Verdict)> = vec![
        ("the least of a check", format!("spec: {{{docker}}}"), Accepted),
        (
            "a check of compose services in whole",
            "spec: {target: {docker: {hostAgentRef: {name: a}, compose: {projectDirectory: /srv/k, files: [a.yaml], services: [x, z]}}}, \
             desiredState: Running, manualStop: Restart, probe: {exec: {command: [true]}, periodSeconds: 5, timeoutSeconds: 1, \
             failureThreshold: 2, startupSeconds: 5}, dependsOn: [{kind: LLMBackend, name: b}, {kind: ContainerHealthCheck, name: c}], \
             restart: {backoffSeconds: 1, maxBackoffSeconds: 2, resetAfterSeconds: 3}, outOfMemory: {policy: Resize, increasePercent: 10, \
             minIncrease: 20Mi, max: 2Gi}, maxUnhealthy: 50%, stormCooldownSeconds: 60, mode: Observe, suspend: true}"
                .replace("[true]", "['true']"),
            Accepted,
        ),
        ("by labels", "spec: {target: {docker: {hostAgentRef: {name: a}, labels: {team: x}}}, maxUnhealthy: 3}".into(), Accepted),
        ("pods by labels", "spec: {target: {kubernetes: {selector: {matchLabels: {a: b}}}}}".into(), Accepted),
        (
            "pods of a workload that is patched",
            format!("spec: {{{pods}, outOfMemory: {{policy: PatchWorkload, max: 1Gi}}}}"),
            Accepted,
        ),
        ("a probe by HTTP", format!("spec: {{{pods}, probe: {{http: {{url: 'http://HOST:8080/x?y=z'}}}}}}"), Accepted),
        ("no target", "spec: {target: {}}".into(), Refused("exactly one of target.kubernetes")),
        (
            "both targets",
            "spec: {target: {docker: {hostAgentRef: {name: a}, names: [c]}, kubernetes: {selector: {matchLabels: {a: b}}}}}".into(),
            Refused("exactly one of target.kubernetes"),
        ),
        ("all pods", "spec: {target: {kubernetes: {selector: {}}}}".into(), Refused("selector")),
        ("no names", "spec: {target: {docker: {hostAgentRef: {name: a}}}}".into(), Refused("exactly one of names")),
        ("pods that are stopped", format!("spec: {{{pods}, desiredState: Stopped}}"), Refused("kept stopped")),
        ("a command in a pod", format!("spec: {{{pods}, probe: {{exec: {{command: [a]}}}}}}"), Refused("Docker's only")),
        ("a probe of nothing", format!("spec: {{{docker}, probe: {{}}}}"), Refused("exactly one of http and exec")),
        (
            "a container that is patched",
            format!("spec: {{{docker}, outOfMemory: {{policy: PatchWorkload, max: 1Gi}}}}"),
            Refused("PatchWorkload changes a workload"),
        ),
        ("no end of memory", format!("spec: {{{docker}, outOfMemory: {{policy: Resize}}}}"), Refused("needs an end")),
        ("a size that is none", format!("spec: {{{docker}, outOfMemory: {{max: much}}}}"), Refused("max")),
        (
            "more backoff than at most",
            format!("spec: {{{docker}, restart: {{backoffSeconds: 400}}}}"),
            Refused("above maxBackoffSeconds"),
        ),
        ("too many percent", format!("spec: {{{docker}, maxUnhealthy: 101%}}"), Refused("maxUnhealthy")),
        (
            "a container above",
            "spec: {target: {docker: {hostAgentRef: {name: a}, names: ['../../etc']}}}".into(),
            Refused("names[0]"),
        ),
        (
            "an agent above",
            "spec: {target: {docker: {hostAgentRef: {name: ../x}, names: [c]}}}".into(),
            Refused("hostAgentRef.name"),
        ),
        (
            "a workload of a name that is none",
            "spec: {target: {kubernetes: {workloadRef: {kind: Deployment, name: '../d'}}}}".into(),
            Refused("workloadRef.name"),
        ),
        (
            "a dependency of a name that is none",
            format!("spec: {{{docker}, dependsOn: [{{kind: LLMBackend, name: a/b}}]}}"),
            Refused("dependsOn[0].name"),
        ),
        (
            "a probe at a port that is none",
            format!("spec: {{{pods}, probe: {{http: {{url: 'http://HOST:80800/'}}}}}}"),
            Refused("probe.http.url"),
        ),
        (
            "a service that is an option",
            "spec: {target: {docker: {hostAgentRef: {name: a}, compose: {projectDirectory: /srv/k, services: [--all]}}}}".into(),
            Refused("services[0]"),
        ),
        (
            "a file that is an option",
            "spec: {target: {docker: {hostAgentRef: {name: a}, compose: {projectDirectory: /srv/k, files: [--help]}}}}".into(),
            Refused("files[0]"),
        ),
        (
            "a file of a registry",
            "spec: {target: {docker: {hostAgentRef: {name: a}, compose: {projectDirectory: /srv/k, files: ['oci://r/p']}}}}".into(),
            Refused("files[0]"),
        ),
        (
            "a file elsewhere",
            "spec: {target: {docker: {hostAgentRef: {name: a}, compose: {projectDirectory: /srv/k, files: ['/srv/a b.yaml', '../c.yaml']}}}}".into(),
            Accepted,
        ),
        ("a relative project", "spec: {target: {docker: {hostAgentRef: {name: a}, compose: {projectDirectory: srv}}}}".into(), Refused("projectDirectory")),
    ];
    let case = |(what, rest, verdict): (&'static str, String, Verdict)| Case {
        what,
        kind: "ContainerHealthCheck",
        rest: rest.leak(),
        verdict,
    };
    all.into_iter().map(case).collect()
}

fn callers() -> Vec<Case> {
    let all = vec![
        ("the least of a caller", "spec: {}", Accepted),
        (
            "a caller in whole",
            "spec: {secretRefs: [{name: a}, {name: b}], aliases: [{match: 'claude-*', alias: coder}], models: [coder], class: Batch, \
             weight: 20, maxConcurrent: 1, tokensPerDay: 1000000000000, localOnly: true, maxWaitSeconds: 1, suspend: true}",
            Accepted,
        ),
        ("the same Secret twice", "spec: {secretRefs: [{name: a}, {name: a}]}", Refused("secretRefs")),
        ("a Secret of another place", "spec: {secretRefs: [{name: ../a}]}", Refused("secretRefs")),
        (
            "two aliases of one name",
            "spec: {aliases: [{match: a, alias: b}, {match: a, alias: c}]}",
            Refused("aliases"),
        ),
        ("an alias for nothing", "spec: {aliases: [{match: a}]}", Refused("alias")),
        ("a name of two lines", "spec: {aliases: [{match: \"a\\nb\", alias: c}]}", Refused("match")),
        ("the same model twice", "spec: {models: [a, a]}", Refused("models")),
        ("a class that is none", "spec: {class: Urgent}", Refused("class")),
        ("no weight", "spec: {weight: 0}", Refused("weight")),
        ("nothing at once", "spec: {maxConcurrent: 0}", Refused("maxConcurrent")),
        ("no tokens", "spec: {tokensPerDay: 0}", Refused("tokensPerDay")),
        ("a field that there is not", "spec: {keys: [a]}", Refused("keys")),
    ];
    rows("Caller", all)
}

fn notifiers() -> Vec<Case> {
    let all = vec![
        ("the least of a notifier", "spec: {type: Slack, secretRef: {name: s}}", Accepted),
        (
            "a notifier in whole",
            "spec: {type: Email, secretRef: {name: s}, minSeverity: Warning, repeatSeconds: 3600, \
             quietHours: {from: '22:00', to: '07:00', timeZone: Europe/Berlin}, suspend: true, \
             smtp: {host: mail.example.org, port: 465, tls: Implicit, from: o@example.org, to: [a@example.org, b@example.org]}}",
            Accepted,
        ),
        (
            "a mail server on this machine",
            "spec: {type: Email, smtp: {host: 127.0.0.1, port: 25, tls: None, from: o@h, to: [a@h]}}",
            Accepted,
        ),
        ("a heartbeat", "spec: {type: Heartbeat, secretRef: {name: s}, periodSeconds: 30}", Accepted),
        ("a type that is none", "spec: {type: Pager, secretRef: {name: s}}", Refused("type")),
        ("no address", "spec: {type: Slack}", Refused("set secretRef")),
        ("mail without a server", "spec: {type: Email, secretRef: {name: s}}", Refused("set smtp with type Email")),
        (
            "a server without mail",
            "spec: {type: Slack, secretRef: {name: s}, smtp: {host: h, from: o@h, to: [a@h]}}",
            Refused("set smtp with type Email"),
        ),
        (
            "mail in the open",
            "spec: {type: Email, smtp: {host: mail.example.org, tls: None, from: o@h, to: [a@h]}}",
            Refused("set tls to StartTLS"),
        ),
        ("mail for nobody", "spec: {type: Email, smtp: {host: h, from: o@h, to: []}}", Refused("smtp.to")),
        ("mail to no mailbox", "spec: {type: Email, smtp: {host: h, from: o@h, to: ['a b']}}", Refused("smtp.to")),
        (
            "quiet for no time",
            "spec: {type: Slack, secretRef: {name: s}, quietHours: {from: '22:00', to: '22:00'}}",
            Refused("set from and to to different times"),
        ),
        (
            "quiet at no time of a day",
            "spec: {type: Slack, secretRef: {name: s}, quietHours: {from: '24:00', to: '07:00'}}",
            Refused("quietHours.from"),
        ),
        (
            "a period of what has none",
            "spec: {type: Slack, secretRef: {name: s}, periodSeconds: 30}",
            Refused("remove periodSeconds"),
        ),
        (
            "repeats without end",
            "spec: {type: Slack, secretRef: {name: s}, repeatSeconds: 1}",
            Refused("repeatSeconds"),
        ),
    ];
    rows("Notifier", all)
}
