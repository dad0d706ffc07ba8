//! A plist of launchd: a LaunchAgent of a user, or a LaunchDaemon of the machine.

use std::path::PathBuf;

use super::{JobProgram, JobState, JobSteps, MARK, ManagedJob, OPEN_FILES, RESTART_SECONDS};

pub fn label(program: JobProgram) -> String {
    format!("dev.ostler.{program}")
}

fn domain(job: &ManagedJob) -> String {
    if job.system { "system".to_owned() } else { format!("gui/{}", job.uid) }
}

fn launchctl(arguments: &[&str]) -> Vec<String> {
    std::iter::once("launchctl").chain(arguments.iter().copied()).map(str::to_owned).collect()
}

pub fn steps(job: &ManagedJob) -> JobSteps {
    let label = label(job.program);
    let folder =
        if job.system { PathBuf::from("/Library/LaunchDaemons") } else { job.home.join("Library/LaunchAgents") };
    let file = folder.join(format!("{label}.plist"));
    let target = format!("{}/{label}", domain(job));
    let stop = vec![launchctl(&["bootout", &target])];
    JobSteps {
        text: text(job),
        before: stop.clone(),
        start: vec![
            launchctl(&["enable", &target]),
            launchctl(&["bootstrap", &domain(job), &file.display().to_string()]),
        ],
        stop,
        forget: Vec::new(),
        file,
    }
}

fn text(job: &ManagedJob) -> String {
    let log = job.data_dir.join(format!("{}.log", job.program)).display().to_string();
    let mut keys = vec![
        ("Label", string(&label(job.program))),
        ("ProgramArguments", array(&job.command)),
        ("RunAtLoad", "<true/>".to_owned()),
        // Again after a crash, not after a person ended it in good order.
        ("KeepAlive", dict(&[("SuccessfulExit", "<false/>".to_owned())])),
        ("ThrottleInterval", integer(RESTART_SECONDS)),
        // Neither CPU nor disk are throttled: who waits for an answer is a person.
        ("ProcessType", string("Interactive")),
        // Services that it started outlive it.
        ("AbandonProcessGroup", "<true/>".to_owned()),
        ("EnvironmentVariables", dict(&[("PATH", string(&job.path))])),
        ("SoftResourceLimits", dict(&[("NumberOfFiles", integer(OPEN_FILES))])),
        ("HardResourceLimits", dict(&[("NumberOfFiles", integer(OPEN_FILES))])),
        ("WorkingDirectory", string(&job.data_dir.display().to_string())),
        ("StandardOutPath", string(&log)),
        ("StandardErrorPath", string(&log)),
    ];
    if let Some(user) = job.run_as.as_deref().filter(|_| job.system) {
        keys.push(("UserName", string(user)));
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <!-- {MARK}; `ostler service uninstall {}` removes it. -->\n\
         <plist version=\"1.0\">\n{}</plist>\n",
        job.program,
        dict(&keys)
    )
}

fn string(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<string>{escaped}</string>")
}

fn integer(number: u32) -> String {
    format!("<integer>{number}</integer>")
}

fn array(items: &[String]) -> String {
    let items: String = items.iter().map(|item| format!("  {}\n", string(item))).collect();
    format!("<array>\n{items}</array>")
}

fn dict(keys: &[(&str, String)]) -> String {
    let keys: String = keys.iter().map(|(key, value)| format!("  <key>{key}</key>\n  {value}\n")).collect();
    format!("<dict>\n{keys}</dict>\n")
}

pub fn show(job: &ManagedJob) -> Vec<String> {
    launchctl(&["print", &format!("{}/{}", domain(job), label(job.program))])
}

/// Of lines such as `state = running`, `runs = 3`, `last exit code = 1`.
pub fn state(text: &str) -> JobState {
    let of = |name: &str| {
        let lines = text.lines().filter_map(|line| line.trim().split_once(" = "));
        lines.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.trim()).unwrap_or_default()
    };
    JobState {
        installed: true,
        running: of("state") == "running",
        says: of("state").to_owned(),
        restarts: of("runs").parse::<u32>().ok().map(|runs| runs.saturating_sub(1)),
        last_exit_code: of("last exit code").parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::job::JobManager;

    fn job(system: bool) -> ManagedJob {
        ManagedJob {
            program: JobProgram::Agent,
            manager: JobManager::Launchd,
            system,
            run_as: system.then(|| "llm".to_owned()),
            command: ["/usr/local/bin/ostler", "agent", "--config", "/Users/a & b/<agent>.yaml"]
                .map(str::to_owned)
                .to_vec(),
            path: "/usr/bin:/bin".into(),
            home: "/Users/ada".into(),
            uid: 501,
            data_dir: "/Users/ada/Library/Application Support/ostler".into(),
        }
    }

    #[test]
    fn a_plist_is_where_launchd_looks_and_is_bootstrapped_there() {
        let agent = steps(&job(false));
        assert_eq!(agent.file, PathBuf::from("/Users/ada/Library/LaunchAgents/dev.ostler.agent.plist"));
        let last = agent.start.last().unwrap();
        assert_eq!(last[..3], ["launchctl", "bootstrap", "gui/501"]);
        assert_eq!(agent.stop, [["launchctl", "bootout", "gui/501/dev.ostler.agent"]]);
        assert!(!agent.text.contains("UserName"));
        let daemon = steps(&job(true));
        assert_eq!(daemon.file, PathBuf::from("/Library/LaunchDaemons/dev.ostler.agent.plist"));
        assert_eq!(daemon.start.last().unwrap()[2], "system");
        assert!(daemon.text.contains("<key>UserName</key>\n  <string>llm</string>"), "{}", daemon.text);
    }

    #[test]
    fn what_is_no_xml_is_escaped() {
        let text = text(&job(false));
        assert!(text.contains("<string>/Users/a &amp; b/&lt;agent&gt;.yaml</string>"), "{text}");
    }

    #[test]
    fn a_state_is_read_from_what_launchctl_prints() {
        let text = "gui/501/dev.ostler.agent = {\n\tactive count = 1\n\tstate = running\n\truns = 3\n\tlast exit code = 1\n}\n";
        let running = state(text);
        assert!(running.running);
        assert_eq!((running.restarts, running.last_exit_code), (Some(2), Some(1)));
        assert!(!state("\tstate = not running\n\tlast exit code = (never exited)\n").running);
    }
}
