//! Files as people write them.

use super::*;

const WHOLE: &str = r#"
apiVersion: ostler.dev/v1alpha1
kind: AgentConfig
metadata: {name: mac}
spec:
  listen: 127.0.0.1:9099
  tls: {certFile: tls.crt, keyFile: tls.key}
  auth: {signingSecretFile: secret, tokenFile: token}
  selfCheckSeconds: 300
  services:
  - name: ollama
    manager: Process
    start: {command: [ollama, serve], user: ada, workingDirectory: /Users/ada, environment: {OLLAMA_MODELS: /Users/ada/.ollama/models}}
    check: {url: "http://127.0.0.1:11434/api/tags", timeoutSeconds: 5}
    log: {file: ollama.log, maxBytes: 50Mi, files: 3}
    outOfMemoryPatterns: ["Insufficient Memory"]
    restart: Always
    adopt: false
"#;

fn read(text: &str) -> Result<AgentFile, ConfigError> {
    parse(text, "agent.yaml", "/etc/ostler".into())
}

fn resolved(text: &str) -> Result<Resolved, ConfigError> {
    let file = read(text)?;
    resolve(&file.spec, &file.base_dir, Path::new("/var/lib/ostler"))
}

#[test]
fn the_documented_file_is_read_and_its_paths_start_at_its_folder() {
    let config = resolved(WHOLE).unwrap();
    assert_eq!(config.tls.unwrap().cert, Path::new("/etc/ostler/tls.crt"));
    let ManagerSpec::Process(process) = &config.services[0].manager else { panic!("a process") };
    let log = &process.log;
    assert_eq!(log.file, Path::new("/etc/ostler/ollama.log"));
    assert_eq!(log.max_bytes, 50 << 20);
    assert_eq!(config.services[0].check.as_ref().unwrap().port(), 11434);
}

#[test]
fn a_field_that_no_agent_knows_is_named_with_its_line() {
    let text = WHOLE.replace("    adopt: false\n", "    adopt: false\n    adpot: true\n");
    let error = read(&text).unwrap_err().to_string();
    assert!(error.contains("agent.yaml:19: ") && error.contains("adpot"), "{error}");
    let podman = WHOLE.replace("  selfCheckSeconds", "  podman: {}\n  selfCheckSeconds");
    assert!(read(&podman).unwrap_err().to_string().contains("podman"));
}

#[test]
fn what_can_not_work_is_refused_with_its_field() {
    let swap = |from: &str, to: &str| WHOLE.replace(from, to);
    for (text, expected) in [
        (swap("kind: AgentConfig", "kind: AgentConf"), "AgentConfig"),
        (swap("manager: Process", "manager: Container"), "container"),
        (swap("manager: Process", "container: {name: a}"), "container"),
        (
            swap(
                "    start: {command: [ollama, serve], user: ada, workingDirectory: /Users/ada, environment: {OLLAMA_MODELS: /Users/ada/.ollama/models}}\n",
                "",
            ),
            "start",
        ),
        (swap("manager: Process", "manager: Command"), "needs stop"),
        (swap("manager: Process", "stop: {command: [x]}"), "belong to manager: Command"),
        (swap("selfCheckSeconds: 300", "selfCheckSeconds: 0"), "selfCheckSeconds"),
        (swap("[ollama, serve]", "[]"), "command"),
        (swap("maxBytes: 50Mi", "maxBytes: 50MB"), "maxBytes"),
        (swap("maxBytes: 50Mi", "maxBytes: \"3\""), "maxBytes"),
        (swap("http://127", "gopher://127"), "url"),
        (swap("name: ollama", "name: ../ollama"), "name"),
        (swap("127.0.0.1:9099", "127.0.0.1:90999"), "listen"),
        (swap("127.0.0.1:9099", "localhost"), "listen"),
    ] {
        let error = resolved(&text).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_url_with_a_password_is_refused_in_words_and_without_it() {
    for url in ["http://ada:hunter2@127.0.0.1:11434/", "http://ada:hun/ter2@127.0.0.1/", "ftp://ada:hunter2@h"] {
        let error = resolved(&WHOLE.replace("http://127.0.0.1:11434/api/tags", url)).unwrap_err().to_string();
        let words =
            "spec.services[0].check.url: must be http(s)://HOST[:PORT][/PATH][?QUERY], without user or fragment";
        assert!(error.contains(words) && error.contains("***@"), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("ter2"), "{error}");
    }
}

#[test]
fn two_services_of_one_name_are_refused() {
    let twice = format!("{WHOLE}  - {{name: ollama, start: {{command: [x]}}}}\n");
    assert!(resolved(&twice).unwrap_err().to_string().contains("already"));
}

#[test]
fn only_addresses_of_this_host_are_local() {
    let local = |url: &str| CheckSpec { url: Url::parse(url).unwrap(), timeout: Duration::ZERO }.local_address();
    assert_eq!(local("http://localhost:1/"), Some(Ipv4Addr::LOCALHOST.into()));
    assert_eq!(local("http://127.0.0.2:1/"), Some(Ipv4Addr::new(127, 0, 0, 2).into()));
    assert_eq!(local("http://[::1]:1/"), Some("::1".parse().unwrap()));
    assert_eq!(local("http://192.0.2.1:1/"), None, "a documentation address is nobody's");
    assert_eq!(local("http://gpu.example:1/"), None);
}

#[test]
fn a_container_is_named_in_one_way_and_permitted_by_what_the_file_says_of_docker() {
    let with = |docker: &str, container: &str| {
        resolved(&format!(
            "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {{name: mac}}\nspec:\n{docker}  services:\n  \
             - {{name: ollama, manager: Container, {container}}}\n"
        ))
    };
    let docker = "  docker: {allow: {names: [ollama]}}\n";
    let config = with(docker, "container: {projectDirectory: web, service: ollama}").unwrap();
    let ManagerSpec::Container(target) = &config.services[0].manager else { panic!("a container") };
    let ContainerTarget::Service(service) = &**target else { panic!("a service") };
    assert_eq!((service.project_directory.as_str(), service.service.as_str()), ("/etc/ostler/web", "ollama"));
    for (docker, container, expected) in [
        ("", "container: {name: ollama}", "needs spec.docker"),
        (docker, "container: {}", "the one or the other"),
        (docker, "container: {name: a, projectDirectory: /srv, service: b}", "the one or the other"),
        (docker, "container: {service: b}", "the one or the other"),
        (docker, "container: {name: ../b}", "name"),
        (docker, "container: {name: a}, adopt: true, check: {url: \"http://127.0.0.1:1/\"}", "are for processes"),
        (docker, "container: {name: a}, stop: {command: [x]}", "belong to manager: Command"),
    ] {
        let error = with(docker, container).expect_err(expected).to_string();
        assert!(error.contains(expected), "{container}: {error}");
    }
}
