//! The container image: what is in it, that it runs, and that the Dockerfile makes the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::real::Docker;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// A temporary folder.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ostler-image-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).expect("make a folder");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(program: impl AsRef<Path>, args: &[&str]) -> String {
    let program = program.as_ref();
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {complaint}", program.display());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A docker-archive, unpacked: its configuration, and its files in `to`.
fn unpack(archive: &Path, to: &Path) -> Value {
    let parts = to.with_extension("parts");
    for folder in [to, &parts] {
        fs::create_dir_all(folder).expect("make a folder");
    }
    run("tar", &["-xf", text(archive), "-C", text(&parts)]);
    let read = |name: &str| fs::read_to_string(parts.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let manifest: Value = serde_json::from_str(&read("manifest.json")).expect("JSON");
    for layer in manifest[0]["Layers"].as_array().expect("layers") {
        let layer = parts.join(layer.as_str().expect("a path"));
        run("tar", &["-xpf", text(&layer), "-C", text(to)]);
    }
    serde_json::from_str(&read(manifest[0]["Config"].as_str().expect("a path"))).expect("JSON")
}

/// Kind, mode, owner and content of everything below a folder.
fn files(root: &Path) -> BTreeMap<String, (String, u32, u32, Vec<u8>)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("read a folder") {
            let path = entry.expect("an entry").path();
            let of = fs::symlink_metadata(&path).expect("look at it");
            let (kind, content) = if of.is_dir() {
                folders.push(path.clone());
                ("folder", Vec::new())
            } else if of.is_symlink() {
                ("link", text(&fs::read_link(&path).expect("read it")).as_bytes().to_vec())
            } else {
                ("file", fs::read(&path).expect("read it"))
            };
            let name = text(path.strip_prefix(root).expect("below")).to_owned();
            found.insert(name, (kind.to_owned(), of.permissions().mode() & 0o7777, of.uid(), content));
        }
    }
    found
}

fn image(folder: &Folder) -> (Value, PathBuf) {
    let (archive, root) = (folder.path("image.tar"), folder.path("root"));
    let script = Path::new(REPOSITORY).join("scripts/image");
    run(script, &[env!("CARGO_BIN_EXE_ostler"), "local/ostler:1", text(&archive)]);
    (unpack(&archive, &root), root)
}

#[test]
fn real_image_holds_the_program_and_what_it_needs_and_nothing_else() {
    let folder = Folder::new();
    let (config, root) = image(&folder);
    let mut left: BTreeSet<String> =
        files(&root).into_iter().filter(|(_, (kind, ..))| kind != "folder").map(|(name, _)| name).collect();
    let listed = run("ldd", &[env!("CARGO_BIN_EXE_ostler")]);
    let libraries: Vec<&str> = listed.split_whitespace().filter(|word| word.starts_with("/")).collect();
    assert!(libraries.iter().any(|library| library.contains("libc.so")), "{listed}");
    let named = ["bin/ostler", "etc/passwd", "etc/group", "etc/os-release", "etc/ssl/certs/ca-certificates.crt"];
    for name in libraries.into_iter().map(|library| &library[1..]).chain(named) {
        assert!(left.remove(name), "{name} is missing");
    }
    for name in ["usr/share/zoneinfo/Asia/Kathmandu", "usr/share/zoneinfo/UTC", "var/lib/dpkg/status.d/libc6"] {
        assert!(left.contains(name), "{name} is missing");
    }
    left.retain(|name| !name.starts_with("usr/share/zoneinfo/") && !name.starts_with("var/lib/dpkg/status.d/"));
    assert_eq!(left, BTreeSet::new(), "nothing else");
    let package = fs::read_to_string(root.join("var/lib/dpkg/status.d/libc6")).expect("read it");
    assert!(package.starts_with("Package: libc6\n") && package.contains("\nVersion: "), "{package}");
    for (name, (_, mode, uid, _)) in files(&root) {
        assert_eq!(uid, 0, "{name}");
        assert!(mode & 0o6000 == 0 && (mode & 0o022 == 0 || name == "tmp" || mode == 0o777), "{name}: {mode:o}");
    }
    assert_eq!(config["config"]["User"], "65532:65532");
}

#[test]
fn real_image_is_the_same_bytes_each_time() {
    let folder = Folder::new();
    let script = Path::new(REPOSITORY).join("scripts/image");
    let [one, two] = ["one.tar", "two.tar"].map(|name| folder.path(name));
    for archive in [&one, &two] {
        // The smallest program that is linked with a library.
        run(&script, &["/bin/true", "local/x:1", text(archive)]);
    }
    assert!(fs::read(one).expect("read") == fs::read(two).expect("read"));
}

#[test]
fn real_image_runs_as_nobody_in_particular_with_time_zones_and_certificates() {
    let folder = Folder::new();
    let (_, root) = image(&folder);
    fs::create_dir_all(root.join("data")).expect("make a folder");
    fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o777)).expect("open it");
    let inside = |args: &[&str]| {
        let mut command = Command::new("/usr/sbin/chroot");
        command.args(["--userspec=65532:65532", text(&root), "/bin/ostler"]).args(args);
        let output =
            command.env_clear().env("PATH", "/bin").env("OSTLER_DATA_DIR", "/data/d").output().expect("chroot");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, said) = inside(&["version", "--client"]);
    assert_eq!((code, said.trim()), (Some(0), concat!("ostler ", env!("CARGO_PKG_VERSION"))));
    let (code, said) = inside(&["doctor", "--all"]);
    assert!(code == Some(0) && said.contains("✓ disk.free"), "{code:?} {said}");
    let schedule = "apiVersion: ostler.dev/v1alpha1\nkind: TaskSchedule\nmetadata: {name: s}\n\
                    spec: {queueRef: {name: q}, schedule: '0 3 * * *', timeZone: Asia/Kathmandu, task: {prompt: x}}\n";
    fs::write(root.join("data/s.yaml"), schedule).expect("write it");
    let (code, said) = inside(&["validate", "-f", "/data/s.yaml"]);
    assert_eq!(code, Some(0), "a time zone of the image: {said}");
}

#[test]
fn real_release_is_an_archive_with_program_completions_and_a_checksum_that_holds() {
    let folder = Folder::new();
    let made = run(Path::new(REPOSITORY).join("scripts/release"), &[text(&folder.0), env!("CARGO_BIN_EXE_ostler")]);
    let archive = made.trim();
    assert!(archive.contains(concat!("/ostler-", env!("CARGO_PKG_VERSION"), "-linux-")), "{archive}");
    let name = archive.rsplit('/').next().expect("a name").strip_suffix(".tar.gz").expect("an archive");
    let listed = run("tar", &["-tzf", archive]);
    for file in ["ostler", "completions/ostler.bash", "completions/ostler.zsh", "completions/ostler.fish", "LICENSE"] {
        assert!(listed.lines().any(|line| line == format!("{name}/{file}")), "{file}: {listed}");
    }
    let sum = run("sha256sum", &[archive]);
    let told = fs::read_to_string(format!("{archive}.sha256")).expect("read it");
    assert_eq!(sum.split_whitespace().next(), told.split_whitespace().next());
}

/// The last stage of the Dockerfile, with the files that its build stage would have made.
#[test]
fn real_docker_build_makes_the_same_files_and_configuration() {
    let folder = Folder::new();
    let (config, root) = image(&folder);
    let dockerfile = fs::read_to_string(Path::new(REPOSITORY).join("Dockerfile")).expect("read the Dockerfile");
    let (build, last) = dockerfile.split_once("\nFROM scratch\n").expect("a last stage from scratch");
    assert!(build.contains("RUN scripts/image-files target/release/ostler /image"), "{build}");
    let stage = folder.path("stage");
    fs::create_dir(&stage).expect("make a folder");
    run("cp", &["-a", text(&root), text(&stage.join("image"))]);
    let built = folder.path("build.tar");
    let tool = Path::new(REPOSITORY).join("scripts/image.py");
    run("python3", &[text(&tool), text(&built), "local/build:1", "--root", text(&stage), "--run", "/none"]);
    fs::create_dir(folder.path("context")).expect("make a folder");
    let last = format!("FROM scratch\n{}", last.replace("--from=build ", "--from=local/build:1 "));
    fs::write(folder.path("context/Dockerfile"), last).expect("write it");

    let docker = Docker::start();
    docker.docker(&["load", "--input", text(&built)]);
    docker.docker(&["build", "--tag", "local/ostler:built", text(&folder.path("context"))]);
    let saved = folder.path("saved.tar");
    docker.docker(&["save", "--output", text(&saved), "local/ostler:built"]);
    let theirs = folder.path("theirs");
    let their_config = unpack(&saved, &theirs);
    for field in ["User", "Entrypoint", "Env"] {
        assert_eq!(their_config["config"][field], config["config"][field], "{field}");
    }
    let (ours, theirs) = (files(&root), files(&theirs));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, of) in &ours {
        assert!(theirs.get(name) == Some(of), "{name}: {:o} and {:o}", of.1, theirs[name].1);
    }
}
