//! Of the machine: its data folder, disk, limits, ports, jobs, sleep and engines.

use super::{
    super::observed::{EngineParallel, FindingLevel, FolderObserved, MachineObserved},
    Findings,
};
use crate::{cli::process::PortHolder, host::DiskSpace};

/// Fewer open files than this, and many servers or clients are too many.
const FEW_FILES: u64 = 4_096;

impl Findings {
    pub(super) fn machine(&mut self, machine: &MachineObserved) {
        let MachineObserved { data_dir, folder, disk, open_files, ports, up, jobs, sleeps_after, engines } = machine;
        let place = data_dir.display().to_string();
        match folder {
            None => self.add("data-folder", FindingLevel::Note, format!("{place} is not there yet"), ""),
            Some(folder) => self.folder(&place, folder),
        }
        match disk {
            Some(disk) if disk.is_short_of(DiskSpace::FOR_RESULTS) => self.error(
                "disk.free",
                format!("{} MiB are free at {place}", disk.free_bytes >> 20),
                "free some space: workers begin nothing, and the database may take no writes",
            ),
            Some(disk) => self.ok("disk.free", format!("{} GiB are free at {place}", disk.free_bytes >> 30)),
            None => {}
        }
        if *open_files < FEW_FILES {
            self.warn(
                "open-files",
                format!("{open_files} open files are allowed"),
                "raise the limit (`ulimit -n 8192`), or let `ostler service install` run it",
            );
        } else {
            self.ok("open-files", format!("{open_files} open files are allowed"));
        }
        self.ports(ports, *up);
        for (name, state) in jobs {
            if state.running {
                self.ok("job", format!("{name} {}", state.sentence()));
            } else {
                self.error(
                    "job",
                    format!("{name} {}", state.sentence()),
                    "`ostler service status` and the job's log say why; `ostler service install` starts it again",
                );
            }
        }
        match sleeps_after {
            Some(0) => self.ok("sleep", "this machine does not sleep by itself on mains power"),
            Some(minutes) => self.warn(
                "sleep",
                format!("this machine sleeps after {minutes} minutes on mains power, and serves nobody then"),
                "let it stay awake: `sudo pmset -c sleep 0`",
            ),
            None => {}
        }
        for engine in engines {
            self.engine(engine);
        }
    }

    fn folder(&mut self, place: &str, folder: &FolderObserved) {
        let FolderObserved { owner, own_uid, mode, is_symlink, network, synced_by } = folder;
        if *is_symlink {
            self.error("data-folder", format!("{place} is a symbolic link"), "name the folder itself with --data-dir");
        } else if owner != own_uid {
            self.error(
                "data-folder",
                format!("{place} belongs to user {owner}, and you are user {own_uid}"),
                "run ostler as that user, or name another folder with --data-dir",
            );
        } else if mode & 0o077 != 0 {
            self.warn(
                "data-folder",
                format!("others can look into {place} (mode {mode:03o})"),
                format!("chmod 700 {place}"),
            );
        } else {
            self.ok("data-folder", format!("{place} is yours alone"));
        }
        if let Some(network) = network {
            self.error(
                "data-folder.place",
                format!("{place} is on {network}: SQLite's locks do not hold there"),
                "name a folder on a local disk with --data-dir",
            );
        }
        if let Some(service) = synced_by {
            self.error(
                "data-folder.place",
                format!("{place} is synchronized by {service}, which copies a database while it is written"),
                "name a folder outside of it with --data-dir",
            );
        }
    }

    fn ports(&mut self, ports: &[(u16, PortHolder)], up: Option<(u32, bool)>) {
        if let Some((pid, false)) = up {
            self.warn(
                "up",
                format!("process {pid}, which served this data folder, has ended without saying so"),
                "start `ostler up` again",
            );
        }
        let own = up.filter(|(_, alive)| *alive).map(|(pid, _)| pid);
        for (port, holder) in ports {
            let is_own = holder.pid.is_some() && holder.pid == own;
            let is_ostler = holder.command.as_deref().is_some_and(|command| command.contains("ostler"));
            if is_own || is_ostler {
                self.ok("port", format!("port {port} is Ostler's ({holder})"));
            } else {
                self.warn(
                    "port",
                    format!("port {port} is taken by {holder}"),
                    "end that program, or choose another port with --listen or --gateway",
                );
            }
        }
    }

    fn engine(&mut self, engine: &EngineParallel) {
        let EngineParallel { backend, limit, parallel } = engine;
        if limit > parallel {
            self.warn(
                "engine.parallel",
                format!("{backend}: {limit} calls are sent at once, its Ollama computes {parallel} and lets the others wait unseen"),
                format!("set OLLAMA_NUM_PARALLEL={limit} for that Ollama, or concurrency.max: {parallel} in its LLMBackend"),
            );
        } else {
            self.ok(
                "engine.parallel",
                format!("{backend}: Ollama computes {parallel} calls at once, {limit} are sent"),
            );
        }
    }
}
