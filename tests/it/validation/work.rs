//! The table's rows about experts, queues, pools and schedules.

use super::cases::{
    Case,
    Verdict::{self, Accepted, Refused},
};

pub fn all() -> Vec<Case> {
    [experts(), queues(), pools(), schedules()].into_iter().flatten().collect()
}

pub fn rows(kind: &'static str, rows: Vec<(&'static str, &'static str, Verdict)>) -> Vec<Case> {
    rows.into_iter().map(|(what, rest, verdict)| Case { what, kind, rest, verdict }).collect()
}

fn experts() -> Vec<Case> {
    let all = vec![
        ("the least of an expert", "spec: {model: small}", Accepted),
        (
            "a chat expert in whole",
            "spec: {domains: [backend], roles: [engineer], model: small, systemPrompt: You are., maxConcurrentTasks: 2, \
             parameters: {temperaturePercent: 70, topPPercent: 90, maxTokens: 100, seed: 0, stop: [x], timeoutSeconds: 5, keepAliveSeconds: 1}}",
            Accepted,
        ),
        ("a prompt in a Secret", "spec: {model: small, systemPromptRef: {kind: Secret, name: p, key: k}}", Accepted),
        ("a prompt in a ConfigMap", "spec: {model: small, systemPromptRef: {name: p}}", Accepted),
        (
            "two prompts",
            "spec: {model: small, systemPrompt: a, systemPromptRef: {name: p}}",
            Refused("one system prompt"),
        ),
        ("a chat without a model", "spec: {domains: [a]}", Refused("set model to an alias")),
        ("a webhook needs no model", "spec: {handler: Webhook, webhook: {url: 'http://h:1/x?y=z'}}", Accepted),
        ("an external one needs no model", "spec: {handler: External, domains: [a]}", Accepted),
        (
            "an external one has no webhook",
            "spec: {handler: External, webhook: {url: 'http://h:1'}}",
            Refused("set both, or remove webhook"),
        ),
        ("a webhook without its url", "spec: {handler: Webhook}", Refused("set both, or remove webhook")),
        (
            "a url without the handler",
            "spec: {model: m, webhook: {url: 'http://h:1'}}",
            Refused("set both, or remove webhook"),
        ),
        ("an embedder", "spec: {model: m, handler: Embed}", Accepted),
        ("an embedder with a prompt", "spec: {model: m, handler: Embed, systemPrompt: a}", Refused("only a chat")),
        ("the same domain twice", "spec: {model: m, domains: [a, a]}", Refused("domains")),
        ("an empty domain", "spec: {model: m, domains: ['']}", Refused("domains")),
        (
            "a prompt of a key above",
            "spec: {model: m, systemPromptRef: {name: p, key: ../k}}",
            Refused("systemPromptRef.key"),
        ),
        (
            "a prompt of a name above",
            "spec: {model: m, systemPromptRef: {name: ../p}}",
            Refused("systemPromptRef.name"),
        ),
        ("a key that begins with a dot", "spec: {model: m, systemPromptRef: {name: p, key: .k_1}}", Accepted),
        (
            "a webhook at a port that is none",
            "spec: {handler: Webhook, webhook: {url: 'http://h:99999/x'}}",
            Refused("webhook.url"),
        ),
        (
            "a webhook signed by a name that is none",
            "spec: {handler: Webhook, webhook: {url: 'http://h:1', secretRef: {name: a/b}}}",
            Refused("secretRef.name"),
        ),
        ("a domain of two lines", "spec: {model: m, domains: [\"a\\nb\"]}", Refused("domains[0]")),
        ("a float", "spec: {model: m, parameters: {temperaturePercent: 0.7}}", Refused("temperaturePercent")),
        ("too hot", "spec: {model: m, parameters: {temperaturePercent: 201}}", Refused("temperaturePercent")),
        ("five stops", "spec: {model: m, parameters: {stop: [a, b, c, d, e]}}", Refused("stop")),
        ("no places", "spec: {model: m, maxConcurrentTasks: 0}", Refused("maxConcurrentTasks")),
        ("a parameter that is none", "spec: {model: m, parameters: {temperature: 1}}", Refused("temperature")),
    ];
    rows("Expert", all)
}

fn queues() -> Vec<Case> {
    let all = vec![
        ("the least of a queue", "spec: {}", Accepted),
        (
            "a queue in whole",
            "spec: {defaultExpertRef: {name: igor}, assignment: {periodSeconds: 5}, retry: {maxAttempts: 1, backoffSeconds: 1, \
             maxBackoffSeconds: 1}, deadlineSeconds: 60, leaseSeconds: 2, retention: {completedSeconds: 1, failedSeconds: 1}, \
             requires: [{kind: LLMBackend, name: ollama, condition: Ready, forSeconds: 60}, {kind: HostAgent, name: mac}], \
             suspend: true}",
            Accepted,
        ),
        ("no attempt at all", "spec: {retry: {maxAttempts: 0}}", Refused("maxAttempts")),
        (
            "a wait above its maximum",
            "spec: {retry: {backoffSeconds: 60, maxBackoffSeconds: 59}}",
            Refused("backoffSeconds is above"),
        ),
        (
            "a wait above the default maximum",
            "spec: {retry: {backoffSeconds: 601}}",
            Refused("backoffSeconds is above"),
        ),
        ("a wait at its maximum", "spec: {retry: {backoffSeconds: 60, maxBackoffSeconds: 60}}", Accepted),
        ("a default expert above", "spec: {defaultExpertRef: {name: ../e}}", Refused("defaultExpertRef.name")),
        (
            "a requirement of a name that is none",
            "spec: {requires: [{kind: LLMBackend, name: A_b}]}",
            Refused("requires[0].name"),
        ),
        (
            "a requirement of a condition that is none",
            "spec: {requires: [{kind: LLMBackend, name: a, condition: 'is ready'}]}",
            Refused("requires[0].condition"),
        ),
        ("a lease of nothing", "spec: {leaseSeconds: 0}", Refused("leaseSeconds")),
        ("a requirement of a pod", "spec: {requires: [{kind: Pod, name: a}]}", Refused("kind")),
        ("a requirement without a name", "spec: {requires: [{kind: LLMBackend}]}", Refused("name")),
        ("for no time", "spec: {requires: [{kind: LLMBackend, name: a, forSeconds: 0}]}", Refused("forSeconds")),
    ];
    rows("TaskQueue", all)
}

fn pools() -> Vec<Case> {
    let all = vec![
        ("the least of a pool", "spec: {queueRefs: [{name: default}]}", Accepted),
        (
            "a pool in whole",
            "spec: {queueRefs: [{name: a}, {name: b}], replicas: {min: 0, max: 3}, concurrency: {max: 15, min: 2, adaptive: false, \
             cpuPercent: 50, memoryPercent: 50}, drainSeconds: 10, template: {image: 'r/i:1', resources: {requests: {cpu: 100m, \
             memory: 64Mi}, limits: {memory: 1Gi}}, env: [{name: A, value: ''}, {name: B, secretKeyRef: {name: s, key: k}}]}, \
             mode: Observe, suspend: true}",
            Accepted,
        ),
        ("a pool without queues", "spec: {queueRefs: []}", Refused("queueRefs")),
        ("a queue above", "spec: {queueRefs: [{name: ../a}]}", Refused("queueRefs[0].name")),
        (
            "an image with a space",
            "spec: {queueRefs: [{name: a}], template: {image: 'a b'}}",
            Refused("template.image"),
        ),
        (
            "a variable of a Secret's key that is none",
            "spec: {queueRefs: [{name: a}], template: {env: [{name: A, secretKeyRef: {name: s, key: 'a b'}}]}}",
            Refused("secretKeyRef.key"),
        ),
        ("the same queue twice", "spec: {queueRefs: [{name: a}, {name: a}]}", Refused("queueRefs")),
        (
            "fewer at most than at least",
            "spec: {queueRefs: [{name: a}], replicas: {min: 2}}",
            Refused("replicas.min is above"),
        ),
        (
            "less at once than at least",
            "spec: {queueRefs: [{name: a}], concurrency: {min: 3, max: 2}}",
            Refused("concurrency.min is above"),
        ),
        (
            "a variable of two sources",
            "spec: {queueRefs: [{name: a}], template: {env: [{name: A, value: x, secretKeyRef: {name: s, key: k}}]}}",
            Refused("set value or secretKeyRef"),
        ),
        (
            "a variable of none",
            "spec: {queueRefs: [{name: a}], template: {env: [{name: A}]}}",
            Refused("set value or secretKeyRef"),
        ),
        (
            "somebody's Deployment, scaled",
            "spec: {queueRefs: [{name: a}], workloadRef: {kind: Deployment, name: ostler-worker-a}}",
            Accepted,
        ),
        (
            "what is no Deployment, scaled",
            "spec: {queueRefs: [{name: a}], workloadRef: {kind: DaemonSet, name: w}}",
            Refused("only a Deployment is scaled"),
        ),
        (
            "a variable of the controller's",
            "spec: {queueRefs: [{name: a}], template: {env: [{name: OSTLER_KEY, value: x}]}}",
            Refused("begin with OSTLER_"),
        ),
        (
            "a size that is none",
            "spec: {queueRefs: [{name: a}], template: {resources: {limits: {memory: much}}}}",
            Refused("memory"),
        ),
    ];
    rows("WorkerPool", all)
}

fn schedules() -> Vec<Case> {
    let all = vec![
        ("the least of a schedule", "spec: {queueRef: {name: a}, schedule: '* * * * *', task: {prompt: x}}", Accepted),
        (
            "a schedule in whole",
            "spec: {queueRef: {name: a}, schedule: '0 3 * * mon-fri', timeZone: Europe/Berlin, forEachExpert: {matchLabels: {a: b}, \
             matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: Exists}]}, task: {domain: d, role: r, \
             messages: [{role: user, content: x}], schema: {type: object}, maxTokens: 5, model: m, priority: -5, deadlineSeconds: 1, \
             labels: {a: b}}, requires: [{kind: LLMBackend, name: ollama}], concurrencyPolicy: Replace, \
             missedRunDeadlineSeconds: 1, mode: Observe, suspend: true}",
            Accepted,
        ),
        ("daily", "spec: {queueRef: {name: a}, schedule: '@daily', task: {data: {any: [thing, 1]}}}", Accepted),
        ("texts to embed", "spec: {queueRef: {name: a}, schedule: '@hourly', task: {input: [a]}}", Accepted),
        ("midnight", "spec: {queueRef: {name: a}, schedule: '@midnight', task: {prompt: x}}", Accepted),
        (
            "what cron can say",
            "spec: {queueRef: {name: a}, schedule: '*/10,5 0-12/3 1,15W,L jan-MAR ?', task: {prompt: x}}",
            Accepted,
        ),
        ("the second friday", "spec: {queueRef: {name: a}, schedule: '0 0 * * fri#2', task: {prompt: x}}", Accepted),
        (
            "a word that is none",
            "spec: {queueRef: {name: a}, schedule: '@fortnightly', task: {prompt: x}}",
            Refused("schedule can't be read"),
        ),
        (
            "a minute too many",
            "spec: {queueRef: {name: a}, schedule: '60 * * * *', task: {prompt: x}}",
            Refused("schedule can't be read"),
        ),
        (
            "an hour too many",
            "spec: {queueRef: {name: a}, schedule: '0 24 * * *', task: {prompt: x}}",
            Refused("schedule can't be read"),
        ),
        (
            "a step from one value",
            "spec: {queueRef: {name: a}, schedule: '0/10 * * * *', task: {prompt: x}}",
            Refused("schedule can't be read"),
        ),
        (
            "a step of nothing",
            "spec: {queueRef: {name: a}, schedule: '*/0 * * * *', task: {prompt: x}}",
            Refused("schedule can't be read"),
        ),
        (
            "a month of no name",
            "spec: {queueRef: {name: a}, schedule: '0 0 1 mai *', task: {prompt: x}}",
            Refused("schedule can't be read"),
        ),
        (
            "an eighth day",
            "spec: {queueRef: {name: a}, schedule: '0 0 * * 8', task: {prompt: x}}",
            Refused("schedule can't be read"),
        ),
        (
            "an expert above",
            "spec: {queueRef: {name: a}, schedule: '@daily', task: {prompt: x, expert: ../e}}",
            Refused("task.expert"),
        ),
        (
            "a label that is none",
            "spec: {queueRef: {name: a}, schedule: '@daily', forEachExpert: {matchLabels: {a: 'b c'}}, task: {prompt: x}}",
            Refused("matchLabels"),
        ),
        (
            "a label's key that is none",
            "spec: {queueRef: {name: a}, schedule: '@daily', forEachExpert: {matchExpressions: [{key: 'a b', operator: Exists}]}, task: {prompt: x}}",
            Refused("matchExpressions[0].key"),
        ),
        (
            "hours that go backwards",
            "spec: {queueRef: {name: a}, schedule: '0 22-5 * * *', task: {prompt: x}}",
            Refused("goes backwards"),
        ),
        (
            "days that go backwards",
            "spec: {queueRef: {name: a}, schedule: '0 0 * * 1,Fri-mon/2', task: {prompt: x}}",
            Refused("goes backwards"),
        ),
        ("until sunday", "spec: {queueRef: {name: a}, schedule: '0 0 * * fri-sun', task: {prompt: x}}", Accepted),
        ("four fields", "spec: {queueRef: {name: a}, schedule: '* * * *', task: {prompt: x}}", Refused("schedule")),
        ("six fields", "spec: {queueRef: {name: a}, schedule: '0 * * * * *', task: {prompt: x}}", Refused("schedule")),
        (
            "no content",
            "spec: {queueRef: {name: a}, schedule: '@daily', task: {role: r}}",
            Refused("exactly one of prompt"),
        ),
        (
            "two contents",
            "spec: {queueRef: {name: a}, schedule: '@daily', task: {prompt: x, input: [z]}}",
            Refused("exactly one of prompt"),
        ),
        (
            "one expert, and each of them",
            "spec: {queueRef: {name: a}, schedule: '@daily', forEachExpert: {}, task: {prompt: x, expert: e}}",
            Refused("remove task.expert"),
        ),
        (
            "a zone of blanks",
            "spec: {queueRef: {name: a}, schedule: '@daily', timeZone: 'my zone', task: {prompt: x}}",
            Refused("timeZone"),
        ),
        (
            "In without values",
            "spec: {queueRef: {name: a}, schedule: '@daily', forEachExpert: {matchExpressions: [{key: a, operator: In}]}, task: {prompt: x}}",
            Refused("In and NotIn need values"),
        ),
        (
            "a message of nobody",
            "spec: {queueRef: {name: a}, schedule: '@daily', task: {messages: [{role: robot, content: x}]}}",
            Refused("role"),
        ),
        (
            "a priority beyond",
            "spec: {queueRef: {name: a}, schedule: '@daily', task: {prompt: x, priority: 101}}",
            Refused("priority"),
        ),
    ];
    rows("TaskSchedule", all)
}
