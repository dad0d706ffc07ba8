//! The table.

use super::name;

/// What every home must say.
pub enum Verdict {
    Accepted,
    /// Refused, with this in what is said: the field, or the rule's message.
    Refused(&'static str),
}

use Verdict::{Accepted, Refused};

pub struct Case {
    pub what: &'static str,
    /// `KIND` and the rest of the manifest after `metadata.name`.
    pub kind: &'static str,
    pub rest: &'static str,
    pub verdict: Verdict,
}

impl Case {
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    pub fn manifest(&self, number: usize) -> String {
        let version = if self.kind == "Secret" { "v1" } else { "ostler.dev/v1alpha1" };
        format!("apiVersion: {version}\nkind: {}\nmetadata:\n  name: {}\n{}\n", self.kind, name(number), self.rest)
    }
}

fn llm(what: &'static str, rest: &'static str, verdict: Verdict) -> Case {
    Case { what, kind: "LLMBackend", rest, verdict }
}

pub fn agent(what: &'static str, rest: &'static str, verdict: Verdict) -> Case {
    Case { what, kind: "HostAgent", rest, verdict }
}

pub fn secret(what: &'static str, rest: &'static str, verdict: Verdict) -> Case {
    Case { what, kind: "Secret", rest, verdict }
}

pub fn all() -> Vec<Case> {
    let backends = [shapes(), types(), bounds(), rules(), metadata(), yaml()];
    backends.into_iter().flatten().chain(super::work::all()).chain(super::others::all()).collect()
}

fn shapes() -> Vec<Case> {
    vec![
        llm("the least that is needed", "spec: {engine: Ollama, url: 'http://h:1'}", Accepted),
        llm(
            "everything at once",
            "spec:
  engine: Ollama
  url: http://127.0.0.1:11434
  authSecretRef: {name: s}
  priority: 20
  models: [{name: 'llama3.2:3b', alias: small, pull: true, preload: true}, {name: other}]
  probe: {paths: [/v1/models, /api/tags], periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 2}
  canary: {when: Always, model: other, periodSeconds: 30, timeoutSeconds: 5}
  stallSeconds: 30
  busyGraceSeconds: 60
  concurrency: {max: 4, min: 2, adaptive: false, overflow: Wait, acceptSpill: false, maxCallsPerDay: 10}
  recovery: {hostAgentRef: {name: mac}, service: ollama, maxAttempts: 2}
  mode: Observe
  suspend: true",
            Accepted,
        ),
        llm("no spec", "", Refused("spec")),
        llm("an empty spec", "spec: {}", Refused("engine")),
        llm("no url", "spec: {engine: Ollama}", Refused("url")),
        llm("a spec that is a list", "spec: [engine]", Refused("spec")),
        llm("an unknown field", "spec: {engine: Ollama, url: 'http://h:1', uri: x}", Refused("spec.uri")),
        llm(
            "an unknown field deep inside",
            "spec: {engine: Ollama, url: 'http://h:1', models: [{name: a, prefetch: true}]}",
            Refused("spec.models[0].prefetch"),
        ),
        llm("an unknown field at the root", "spec: {engine: Ollama, url: 'http://h:1'}\ndata: {}", Refused("data")),
        llm("an empty list", "spec: {engine: MLX, url: 'http://h:1', models: []}", Accepted),
        llm("an empty part is filled with defaults", "spec: {engine: MLX, url: 'http://h:1', probe: {}}", Accepted),
        llm("null takes the default", "spec: {engine: MLX, url: 'http://h:1', priority: null, probe: null}", Accepted),
        llm("null without a default is dropped", "spec: {engine: MLX, url: 'http://h:1', recovery: null}", Accepted),
        llm("null in place of what is needed", "spec: {engine: null, url: 'http://h:1'}", Refused("engine")),
        llm(
            "null deep inside",
            "spec: {engine: MLX, url: 'http://h:1', concurrency: {max: null, min: null}}",
            Accepted,
        ),
        llm("null as an item", "spec: {engine: MLX, url: 'http://h:1', models: [null]}", Refused("spec.models[0]")),
        llm(
            "a model twice",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: a}, {name: b}, {name: a, alias: c}]}",
            Refused("spec.models[2]"),
        ),
        llm(
            "an alias twice",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: a, alias: x}, {name: b, alias: x}]}",
            Refused("same alias"),
        ),
        llm(
            "an alias that is another model's name",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: a}, {name: b, alias: a}]}",
            Refused("same alias"),
        ),
        llm(
            "names that are swapped by aliases",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: a, alias: b}, {name: b, alias: a}]}",
            Accepted,
        ),
        llm("a model without a name", "spec: {engine: MLX, url: 'http://h:1', models: [{alias: x}]}", Refused("name")),
        llm("status is not the user's", "spec: {engine: MLX, url: 'http://h:1'}\nstatus: {state: Serving}", Accepted),
        llm(
            "an unknown field of status",
            "spec: {engine: MLX, url: 'http://h:1'}\nstatus: {x: 1}",
            Refused("status.x"),
        ),
    ]
}

fn types() -> Vec<Case> {
    vec![
        llm("a number in quotes", "spec: {engine: MLX, url: 'http://h:1', priority: '5'}", Refused("spec.priority")),
        llm("a fraction", "spec: {engine: MLX, url: 'http://h:1', priority: 5.5}", Refused("spec.priority")),
        llm("a whole float", "spec: {engine: MLX, url: 'http://h:1', priority: 5.0}", Accepted),
        llm("a whole number in the other notation", "spec: {engine: MLX, url: 'http://h:1', priority: 1e2}", Accepted),
        llm("a whole float under a rule", "spec: {engine: MLX, url: 'http://h:1', concurrency: {max: 2.0}}", Accepted),
        llm(
            "too large for 32 bits",
            "spec: {engine: MLX, url: 'http://h:1', priority: 3000000000}",
            Refused("priority"),
        ),
        llm(
            "too large for 64 bits",
            "spec: {engine: MLX, url: 'http://h:1', priority: 99999999999999999999}",
            Refused("priority"),
        ),
        llm("true for a number", "spec: {engine: MLX, url: 'http://h:1', priority: true}", Refused("spec.priority")),
        llm("a number for text", "spec: {engine: MLX, url: 5}", Refused("spec.url")),
        llm("a word for true", "spec: {engine: MLX, url: 'http://h:1', suspend: 'true'}", Refused("spec.suspend")),
        llm("a number for true", "spec: {engine: MLX, url: 'http://h:1', suspend: 1}", Refused("spec.suspend")),
        llm("a map for a list", "spec: {engine: MLX, url: 'http://h:1', models: {name: a}}", Refused("spec.models")),
        llm("a list for a map", "spec: {engine: MLX, url: 'http://h:1', probe: [a]}", Refused("spec.probe")),
        llm("text for a map", "spec: {engine: MLX, url: 'http://h:1', probe: often}", Refused("spec.probe")),
        llm("a port that is no number", "spec: {engine: MLX, url: 'http://h:abc'}", Refused("spec.url")),
        llm("a port past the last one", "spec: {engine: MLX, url: 'http://h:65536'}", Refused("spec.url")),
        llm("a port of five digits that is none", "spec: {engine: MLX, url: 'http://h:99999/v1'}", Refused("spec.url")),
        llm("the port zero", "spec: {engine: MLX, url: 'http://h:0'}", Refused("spec.url")),
        llm("a colon without a port", "spec: {engine: MLX, url: 'http://h:'}", Refused("spec.url")),
        llm("an IPv4 address past its end", "spec: {engine: MLX, url: 'http://10.0.0.256:1'}", Refused("spec.url")),
        llm("an IPv4 address of five parts", "spec: {engine: MLX, url: 'http://10.0.0.1.1:1'}", Refused("spec.url")),
        llm("a host of strange signs", "spec: {engine: MLX, url: 'http://a|b:1'}", Refused("spec.url")),
        llm("a host with a percent sign", "spec: {engine: MLX, url: 'http://%zz:1'}", Refused("spec.url")),
        llm("brackets around a word", "spec: {engine: MLX, url: 'http://[abc]:1'}", Refused("spec.url")),
        llm("a host that begins with a digit", "spec: {engine: MLX, url: 'http://3com.example.:1'}", Accepted),
        llm("a host with a number in it", "spec: {engine: MLX, url: 'http://mac-2.local:1'}", Accepted),
        llm("the last port", "spec: {engine: MLX, url: 'http://h:65535/v1'}", Accepted),
        llm("an IPv6 address with a port", "spec: {engine: MLX, url: 'http://[::ffff:127.0.0.1]:8080'}", Accepted),
        llm("an IPv6 address without brackets", "spec: {engine: MLX, url: 'http://::1:8080'}", Refused("spec.url")),
        agent("an agent's port past the last one", "spec: {url: 'http://h:70000'}", Refused("spec.url")),
        llm("an enum's word in small letters", "spec: {engine: mlx, url: 'http://h:1'}", Refused("spec.engine")),
        llm("no word of the enum", "spec: {engine: VLLM, url: 'http://h:1'}", Refused("spec.engine")),
        llm("an empty word", "spec: {engine: '', url: 'http://h:1'}", Refused("spec.engine")),
        llm("yes as a word", "spec: {engine: MLX, url: 'http://h:1', mode: yes}", Refused("spec.mode")),
    ]
}

fn bounds() -> Vec<Case> {
    vec![
        llm(
            "a period of nothing",
            "spec: {engine: MLX, url: 'http://h:1', probe: {periodSeconds: 0}}",
            Refused("probe.periodSeconds"),
        ),
        llm("the shortest period", "spec: {engine: MLX, url: 'http://h:1', probe: {periodSeconds: 1}}", Accepted),
        llm("the longest period", "spec: {engine: MLX, url: 'http://h:1', probe: {periodSeconds: 3600}}", Accepted),
        llm(
            "a period too long",
            "spec: {engine: MLX, url: 'http://h:1', probe: {periodSeconds: 3601}}",
            Refused("probe.periodSeconds"),
        ),
        llm("a negative priority", "spec: {engine: MLX, url: 'http://h:1', priority: -1}", Refused("spec.priority")),
        llm(
            "an empty name of a model",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: ''}]}",
            Refused("models[0].name"),
        ),
        llm("a url of another scheme", "spec: {engine: MLX, url: 'ftp://host:1'}", Refused("spec.url")),
        llm("a url without a scheme", "spec: {engine: MLX, url: 'localhost:11434'}", Refused("spec.url")),
        llm("a url with a query", "spec: {engine: MLX, url: 'http://host:1/?a=b'}", Refused("spec.url")),
        llm("a url with a space", "spec: {engine: MLX, url: 'http://ho st:1'}", Refused("spec.url")),
        llm("a url with a strange space", "spec: {engine: MLX, url: 'http://ho\u{a0}st:1'}", Refused("spec.url")),
        llm("a url with credentials", "spec: {engine: MLX, url: 'http://ada:hunter2@host:1'}", Refused("spec.url")),
        llm(
            "a path with a space",
            "spec: {engine: MLX, url: 'http://h:1', probe: {paths: ['/a b']}}",
            Refused("probe.paths[0]"),
        ),
        llm(
            "a webhook with a query",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {webhook: {url: 'https://h/restart?what=mlx'}}}",
            Accepted,
        ),
        llm("a url with a path", "spec: {engine: OpenAI, url: 'https://host/api'}", Accepted),
        llm("a url with a slash at its end", "spec: {engine: OpenAI, url: 'https://host/'}", Accepted),
        llm(
            "a probe's path without a slash",
            "spec: {engine: MLX, url: 'http://h:1', probe: {paths: [health]}}",
            Refused("probe.paths[0]"),
        ),
        llm(
            "too many paths",
            "spec: {engine: MLX, url: 'http://h:1', probe: {paths: [/1, /2, /3, /4, /5, /6, /7, /8, /9]}}",
            Refused("probe.paths"),
        ),
        llm(
            "an agent above",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {hostAgentRef: {name: ../x}, service: a}}",
            Refused("hostAgentRef.name"),
        ),
        llm(
            "a service above",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {hostAgentRef: {name: x}, service: ../a}}",
            Refused("recovery.service"),
        ),
        llm(
            "a workload above",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {workloadRef: {kind: Deployment, name: a/b}}}",
            Refused("workloadRef.name"),
        ),
        llm(
            "a secret in capitals",
            "spec: {engine: MLX, url: 'http://h:1', authSecretRef: {name: Token}}",
            Refused("authSecretRef.name"),
        ),
        llm(
            "a name of dots",
            "spec: {engine: MLX, url: 'http://h:1', authSecretRef: {name: ..}}",
            Refused("authSecretRef.name"),
        ),
        llm("a name with a dot", "spec: {engine: MLX, url: 'http://h:1', authSecretRef: {name: a.b-c}}", Accepted),
        llm(
            "a model of a space",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: ' '}]}",
            Refused("models[0].name"),
        ),
        llm(
            "an alias of two lines",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: a, alias: \"a\\nb\"}]}",
            Refused("models[0].alias"),
        ),
        llm(
            "a model that is a path with a space",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: '/Users/ada/My Models/x:4bit'}]}",
            Accepted,
        ),
        llm("letters count, not bytes", "spec: {engine: MLX, url: 'http://h:1', models: [{name: ä}]}", Accepted),
    ]
}

fn rules() -> Vec<Case> {
    vec![
        llm(
            "MLX with three calls at once",
            "spec: {engine: MLX, url: 'http://h:1', concurrency: {max: 3}}",
            Refused("unsafeMax: true"),
        ),
        llm("MLX with two", "spec: {engine: MLX, url: 'http://h:1', concurrency: {max: 2}}", Accepted),
        llm(
            "MLX with three, insisted on",
            "spec: {engine: MLX, url: 'http://h:1', concurrency: {max: 3, unsafeMax: true}}",
            Accepted,
        ),
        llm(
            "min above max",
            "spec: {engine: Ollama, url: 'http://h:1', concurrency: {max: 2, min: 3}}",
            Refused("lower min"),
        ),
        llm("min without max", "spec: {engine: Ollama, url: 'http://h:1', concurrency: {min: 3}}", Accepted),
        llm(
            "MLX pulls nothing",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: a, pull: true}]}",
            Refused("only Ollama can pull"),
        ),
        llm(
            "OpenAI preloads nothing",
            "spec: {engine: OpenAI, url: 'http://h:1', models: [{name: a, preload: true}]}",
            Refused("only Ollama can pull"),
        ),
        llm("MLX without models", "spec: {engine: MLX, url: 'http://h:1'}", Accepted),
        llm(
            "a canary without a model",
            "spec: {engine: Ollama, url: 'http://h:1', canary: {when: Always}}",
            Refused("canary.model"),
        ),
        llm(
            "a canary without a model, and no models",
            "spec: {engine: Ollama, url: 'http://h:1', models: [], canary: {when: Always}}",
            Refused("canary.model"),
        ),
        llm(
            "a canary with a model",
            "spec: {engine: Ollama, url: 'http://h:1', canary: {when: Always, model: a}}",
            Accepted,
        ),
        llm("recovery by nothing", "spec: {engine: MLX, url: 'http://h:1', recovery: {}}", Refused("exactly one")),
        llm(
            "recovery by two",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {workloadRef: {kind: Deployment, name: a}, webhook: {url: 'http://h:1'}}}",
            Refused("exactly one"),
        ),
        llm(
            "recovery by an agent without a service",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {hostAgentRef: {name: a}}}",
            Refused("service"),
        ),
        llm(
            "recovery by a service without an agent",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {service: a, webhook: {url: 'http://h:1'}}}",
            Refused("hostAgentRef and service go together"),
        ),
        llm(
            "recovery by a workload",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {workloadRef: {kind: StatefulSet, name: a}}}",
            Accepted,
        ),
        llm(
            "recovery by a workload of another kind",
            "spec: {engine: MLX, url: 'http://h:1', recovery: {workloadRef: {kind: Pod, name: a}}}",
            Refused("workloadRef.kind"),
        ),
    ]
}

fn metadata() -> Vec<Case> {
    const SPEC: &str = "spec: {engine: MLX, url: 'http://h:1'}";
    let with = |what: &'static str, fields: &'static str, verdict: Verdict| {
        let rest: &'static str = Box::leak(format!("  {fields}\n{SPEC}").into_boxed_str());
        llm(what, rest, verdict)
    };
    vec![
        with(
            "labels and annotations",
            "labels: {app.kubernetes.io/name: x}\n  annotations: {a.b/c: 'any text'}",
            Accepted,
        ),
        with("a label that is a number", "labels: {version: 5}", Refused("labels")),
        with("a label that is no word", "labels: {a: 'two words'}", Refused("metadata.labels")),
        with("a label with a bad key", "labels: {'a b': c}", Refused("metadata.labels")),
        with("an annotation with a bad key", "annotations: {'/b': c}", Refused("metadata.annotations")),
        with("an annotation that is true", "annotations: {a: true}", Refused("annotations")),
        with("an unknown field of metadata", "label: {a: b}", Refused("metadata.label")),
        with("what a server wrote", "uid: 0c0\n  creationTimestamp: '2024-01-01T00:00:00Z'\n  generation: 3", Accepted),
        with("a name twice", "name: other", Refused("name")),
    ]
}

fn yaml() -> Vec<Case> {
    vec![
        llm("a key twice", "spec: {engine: MLX, url: 'http://h:1', priority: 1, priority: 2}", Refused("priority")),
        llm("octal, as YAML 1.1 has it", "spec: {engine: MLX, url: 'http://h:1', priority: 010}", Accepted),
        llm("hexadecimal", "spec: {engine: MLX, url: 'http://h:1', priority: 0x10}", Accepted),
        llm("an underscore in a number", "spec: {engine: MLX, url: 'http://h:1', priority: 1_00}", Accepted),
        llm(
            "on and off",
            "spec: {engine: MLX, url: 'http://h:1', suspend: on, concurrency: {adaptive: off}}",
            Accepted,
        ),
        llm("a date as a name", "spec: {engine: MLX, url: 'http://h:1', models: [{name: 2024-01-02}]}", Accepted),
        llm(
            "a version as a name",
            "spec: {engine: MLX, url: 'http://h:1', models: [{name: 1.5}]}",
            Refused("models[0].name"),
        ),
        llm("an explicit type", "spec: {engine: MLX, url: 'http://h:1', models: [{name: !!str 1.5}]}", Accepted),
        llm("anchors", "spec: {engine: MLX, url: &u 'http://h:1', models: [{name: a, alias: *u}]}", Accepted),
        llm(
            "a merge key",
            "spec:\n  engine: MLX\n  url: http://h:1\n  models:\n  - {name: a, <<: {alias: x}}",
            Accepted,
        ),
        llm("no YAML at all", "spec: {engine: MLX", Refused("")),
        llm("a tab", "spec:\n\tengine: MLX", Refused("")),
    ]
}
