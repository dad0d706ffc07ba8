//! `ostler service`: what it would write for systemd and launchd.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::bench::{Bench, Said};

/// A file with every character that one of the formats takes for something else.
const ODD: &str = "my 100% $HOME & <odd> folder";

fn bench() -> Bench {
    let bench = Bench::new();
    fs::create_dir_all(bench.path(ODD)).unwrap();
    bench
}

fn printed(bench: &Bench, args: &[&str]) -> Said {
    let said = bench.ostler(&[&["service", "install"], args, &["--print"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    said
}

#[test]
fn what_would_be_installed_is_printed_and_nothing_is_written() {
    let bench = bench();
    let folder = bench.path(ODD);
    let home = bench.path("home");
    let mut command = bench.command(&["service", "install", "up", "-f", folder.to_str().unwrap(), "--print"]);
    let said = Said::from(command.args(["--manager", "systemd"]).env("HOME", &home).output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("\nKillMode=process\n") && said.out.contains("\nWantedBy=default.target\n"),
        "{}",
        said.out
    );
    assert!(said.out.contains(&format!("\"--data-dir\" \"{}\"", bench.path("data").display())), "{}", said.out);
    assert!(!home.exists() && !bench.path("data").exists(), "nothing is written");
}

#[test]
fn what_a_job_can_not_be_made_of_is_refused_with_the_mend() {
    let bench = bench();
    fs::write(bench.path("bad.yaml"), "kind: AgentConfig\n").unwrap();
    let bad = bench.path("bad.yaml");
    for (args, code, word) in [
        (&["service", "install", "up"][..], 2, "-f"),
        (&["service", "install", "agent"], 2, "--config"),
        (&["service", "install", "up", "-f", "/nowhere/at/all"], 2, "no such folder"),
        (&["service", "install", "agent", "--config", bad.to_str().unwrap()], 1, "bad.yaml"),
        (&["service", "install", "up", "-f", "/", "--run-as", "x"], 2, "--system"),
    ] {
        let said = bench.ostler(args);
        assert!(said.code == code && said.err.contains(word), "{args:?}: {said:?}");
    }
}

#[test]
fn an_uninstalled_job_is_told_and_a_file_of_somebody_else_is_left_alone() {
    let bench = bench();
    let units = bench.path("home/.config/systemd/user");
    let ask = |args: &[&str]| {
        let args = [args, &["--manager", "systemd"]].concat();
        Said::from(bench.command(&args).env("HOME", bench.path("home")).output().unwrap())
    };
    let none = ask(&["service", "uninstall", "up"]);
    assert!(none.code == 0 && none.out.contains("not installed"), "{none:?}");
    let state = ask(&["service", "status", "up", "-o", "json"]);
    let told: Value = serde_json::from_str(&state.out).unwrap();
    assert_eq!((state.code, &told["installed"], &told["running"]), (3, &json!(false), &json!(false)), "{state:?}");

    fs::create_dir_all(&units).unwrap();
    fs::write(units.join("ostler-up.service"), "[Service]\nExecStart=/bin/mine\n").unwrap();
    let folder = bench.path(ODD);
    for args in [&["service", "uninstall", "up"][..], &["service", "install", "up", "-f", folder.to_str().unwrap()]] {
        let said = ask(args);
        assert!(said.code == 1 && said.err.contains("not written by"), "{args:?}: {said:?}");
    }
    assert!(fs::read_to_string(units.join("ostler-up.service")).unwrap().contains("/bin/mine"));
}

#[test]
fn real_systemd_takes_the_units() {
    let bench = bench();
    let folder = bench.path(ODD);
    for (name, args) in [("user", &[][..]), ("system", &["--system", "--run-as", "daemon"])] {
        let args = [&["up", "-f", folder.to_str().unwrap(), "--manager", "systemd"], args].concat();
        let unit = bench.path(&format!("{name}/ostler-up.service"));
        fs::create_dir_all(unit.parent().unwrap()).unwrap();
        fs::write(&unit, printed(&bench, &args).out).unwrap();
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        // It also tells of units of this machine.
        let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("ostler-up")).collect();
        assert_eq!(about_ours, Vec::<&str>::new(), "{said}");
    }
}

#[test]
fn real_plist_parser_reads_every_key_of_a_launchd_job() {
    let bench = bench();
    let folder = bench.path(ODD);
    let folder = folder.to_str().unwrap();
    let data = bench.path("data").display().to_string();
    let parsed = |args: &[&str]| -> Value {
        let file = bench.path("job.plist");
        fs::write(&file, printed(&bench, &[&["up", "-f", folder, "--manager", "launchd"], args].concat()).out).unwrap();
        let program = "import json, plistlib, sys; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
        let read = Command::new("python3").args(["-c", program]).arg(&file).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        serde_json::from_slice(&read.stdout).unwrap()
    };
    let expected = |data: &str| {
        json!({
            "Label": "dev.ostler.up",
            "ProgramArguments": [env!("CARGO_BIN_EXE_ostler"), "up", "-f", folder, "--data-dir", data],
            "RunAtLoad": true,
            "KeepAlive": {"SuccessfulExit": false},
            "ThrottleInterval": 10,
            "ProcessType": "Interactive",
            "AbandonProcessGroup": true,
            "SoftResourceLimits": {"NumberOfFiles": 8192},
            "HardResourceLimits": {"NumberOfFiles": 8192},
            "WorkingDirectory": data,
            "StandardOutPath": format!("{data}/up.log"),
            "StandardErrorPath": format!("{data}/up.log"),
        })
    };
    let mut agent = parsed(&[]);
    let path = agent.as_object_mut().unwrap().remove("EnvironmentVariables").unwrap();
    assert!(path["PATH"].as_str().is_some_and(|path| path.starts_with('/')), "{path}");
    assert_eq!(agent, expected(&data));

    let mut daemon = parsed(&["--system", "--run-as", "llm"]);
    let keys = daemon.as_object_mut().unwrap();
    keys.remove("EnvironmentVariables");
    assert_eq!(keys.remove("UserName"), Some(json!("llm")));
    // The test's own data folder is named by a variable, which a job of the machine does not go by.
    assert_eq!(daemon, expected("/Library/Application Support/ostler"));
}
