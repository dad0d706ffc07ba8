//! The README, followed literally: every command of its first steps, in order, and what it says of each.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use super::bench::{Bench, PATIENCE, Said};

/// The commands of the README's first steps: lines of `sh` blocks, and those after `$` of `console` blocks.
fn commands(readme: &str) -> Vec<String> {
    let first_steps = readme.split("\n## Work on it").next().unwrap();
    let (mut commands, mut block) = (Vec::new(), None);
    for line in first_steps.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language),
            (Some(_), Some(_)) => block = None,
            (None, Some("sh")) => commands.push(line.split("  #").next().unwrap().trim().to_owned()),
            (None, Some("console")) => commands.extend(line.strip_prefix("$ ").map(str::to_owned)),
            _ => {}
        }
    }
    commands
}

/// A checkout as its reader has it: the program at its place, the example, a cargo that is done at once.
struct Reader {
    bench: Bench,
    ports: [u16; 2],
    ups: Vec<Child>,
    /// Where the reader's own server is, as Ollama's variable has it.
    ollama: Option<String>,
}

impl Reader {
    fn new() -> Self {
        let (bench, ports) = Bench::of_quickstart();
        let root = bench.path("");
        fs::create_dir_all(root.join("examples")).unwrap();
        fs::rename(root.join("manifests"), root.join("examples/quickstart")).unwrap();
        fs::create_dir_all(root.join("target/debug")).unwrap();
        let program = env!("CARGO_BIN_EXE_ostler");
        // Other tests run at the same time: no port may be fixed.
        let up = format!("if [ \"$1\" = up ]; then exec {program} \"$@\" --listen 127.0.0.1:0; fi");
        script(&root.join("target/debug/ostler"), &format!("{up}\nexec {program} \"$@\""));
        script(&root.join("cargo"), "shift 2\nexec target/debug/ostler \"$@\"");
        Self { bench, ports, ups: Vec::new(), ollama: None }
    }

    fn shell(&self, line: &str) -> Command {
        let line = line.replace("21434", &self.ports[0].to_string());
        let mut shell = self.bench.command(&[]);
        let environment: Vec<_> = shell.get_envs().map(|(k, v)| (k.to_owned(), v.map(|v| v.to_owned()))).collect();
        shell = Command::new("bash");
        for (name, value) in environment {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let path = std::env::var("PATH").unwrap();
        let root = self.bench.path("");
        // Not as an argument: `pkill -f` would find the shell itself.
        let file = root.join(format!("line-{}.sh", uuid::Uuid::new_v4()));
        fs::write(&file, line).unwrap();
        shell.arg(file).current_dir(&root).env("PATH", format!("{}:{path}", root.display()));
        shell.envs(self.ollama.iter().map(|address| ("OLLAMA_HOST", address))).stdin(Stdio::null());
        shell
    }

    fn run(&self, line: &str) -> Said {
        let said = Said::from(self.shell(line).output().unwrap());
        assert_eq!(said.code, 0, "{line}: {said:?}");
        said
    }

    fn up(&mut self, line: &str) {
        let log = fs::File::create(self.bench.path("up.log")).unwrap();
        let mut up = self.shell(line).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
        let next = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("next:"));
        assert!(next.is_some(), "{line}: {}", self.bench.log());
        std::thread::spawn(move || lines.for_each(drop));
        self.ups.push(up);
    }

    fn down(&mut self, line: &str) {
        assert!(self.run(line).out.ends_with("down\n"));
        for mut up in self.ups.drain(..) {
            assert_eq!(Bench::ended(&mut up), 0);
        }
    }

    /// What is watched until the killed server serves again.
    fn watch(&self, line: &str) {
        let mut watch = self.shell(line).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = watch.stdout.take().unwrap();
        let (mut seen, begun) = (String::new(), Instant::now());
        let serves_again = |seen: &str| seen.split("✗ ollama").nth(1).is_some_and(|after| after.contains("✓ ollama"));
        let helped = || self.run("target/debug/ostler describe ollama").out.contains("RecoveryHelped");
        while !serves_again(&seen) {
            // On a busy machine it may serve again before the first screen.
            if begun.elapsed() > PATIENCE / 4 && seen.contains("✓ ollama") && helped() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{seen}");
            let mut some = [0; 4096];
            let got = output.read(&mut some).unwrap();
            assert!(got > 0, "it ended: {seen}");
            seen += &String::from_utf8_lossy(&some[..got]);
        }
        assert!(!seen.contains("✗ ollama") || seen.contains("killed by signal 9"), "{seen}");
        drop(output);
        assert_eq!(Bench::ended(&mut watch), 0);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.ups.is_empty() {
            let _ = self.shell("target/debug/ostler down").output();
        }
        for mut up in self.ups.drain(..) {
            let _ = up.kill();
            let _ = up.wait();
        }
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/bash\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The first lines that the README shows of the screen, without what changes by itself.
fn shown_screen(readme: &str) -> Vec<String> {
    let block = readme.split("$ target/debug/ostler status\n").nth(1).unwrap().split("```").next().unwrap();
    block.lines().map(steady).collect()
}

fn steady(line: &str) -> String {
    line.split("last answer").next().unwrap().trim_end().to_owned()
}

#[test]
fn the_readme_holds_when_it_is_followed_literally() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let mut reader = Reader::new();
    let mut own = None;
    let commands = commands(&readme);
    assert!(commands.len() >= 18, "{commands:?}");
    for line in &commands {
        let line = line.as_str();
        let words = line.strip_prefix("target/debug/ostler ").unwrap_or(line);
        match words {
            "cargo run -- up -f examples/quickstart" => reader.up(line),
            "status" => {
                reader.bench.healthy();
                let screen: Vec<String> = reader.run(line).out.lines().map(steady).collect();
                assert_eq!(screen, shown_screen(&readme));
            }
            _ if words.contains("status --watch") => reader.watch(line),
            "stop mlx" => {
                reader.run(line);
                assert_eq!(Bench::pid_on(reader.ports[1]), None);
            }
            "start mlx" => {
                reader.run(line);
                reader.bench.healthy();
                assert!(Bench::pid_on(reader.ports[1]).is_some());
            }
            "pause --for 10m" => {
                reader.run(line);
                assert!(reader.run("target/debug/ostler status").out.contains("nothing acts"));
            }
            "unpause" => {
                reader.run(line);
                reader.bench.healthy();
            }
            "describe ollama" => {
                let said = reader.run(line).out;
                assert!(["SPEC", "CONDITION", "RecoveryHelped"].iter().all(|word| said.contains(word)), "{said}");
            }
            "logs ollama" => assert!(reader.run(line).out.contains("serving on http://"), "{line}"),
            "down" => {
                reader.down(line);
                assert_eq!(reader.ports.map(Bench::pid_on), [None, None], "the servers end, too");
            }
            "init my-team" => {
                own = Some(own_server(&mut reader));
                let said = reader.run(line).out;
                for file in ["backends.yaml", "work.yaml"] {
                    assert!(said.contains(&format!("wrote my-team/{file}")), "{said}");
                }
                // The agent's usual port may be somebody's on a machine that tests.
                let agent = reader.bench.path("my-team/agent.yaml");
                // In a container there is none: its engine restarts what runs there.
                if let Ok(text) = fs::read_to_string(&agent) {
                    fs::write(&agent, text.replace("127.0.0.1:9099", "127.0.0.1:0")).unwrap();
                }
            }
            "validate -f my-team" => assert!(reader.run(line).out.contains(" files: "), "{line}"),
            "up -f my-team" => {
                reader.up(line);
                let status = reader.bench.until(&["status"], |said| said.out.contains("✓ default"));
                assert!(!status.out.contains(" here ") && !status.out.contains("mlx-community"), "{}", status.out);
                let task = "target/debug/ostler tasks add 'Say hello.' --wait --timeout 1m";
                assert!(!reader.run(task).out.trim().is_empty());
            }
            _ if words.starts_with("tasks add ") => assert!(!reader.run(line).out.trim().is_empty()),
            _ if words.contains("tasks add -f -") => {
                assert!(reader.run(line).out.starts_with("20 tasks (2 to 21) added"), "{line}");
                reader.bench.until(&["tasks", "list", "-s", "completed"], |said| said.out.lines().count() == 22);
            }
            "tasks list --limit 3" => assert!(reader.run(line).out.contains("completed")),
            "tasks results" => {
                reader.bench.until(&["tasks", "results"], |said| said.out.contains("demo-20"));
            }
            "tasks explain 7" => assert!(reader.run(line).out.starts_with("task 7 completed ")),
            other => panic!("the README has a command that this test does not know: {other}"),
        }
    }
    reader.down("target/debug/ostler down");
    drop(own);
}

/// A server of the reader's own, as one that was started by hand.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own_server(reader: &mut Reader) -> Own {
    let port = crate::real::free_port();
    let address = format!("127.0.0.1:{port}");
    let mut simulate = reader.bench.command(&["simulate", "--listen", &address, "--model", "llama3.2:3b"]);
    let mut server = simulate.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("serving on"), "{said}");
    reader.ollama = Some(address);
    Own(server)
}
