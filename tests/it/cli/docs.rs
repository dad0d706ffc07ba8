//! What the documentation says of the command line is there, and what is there is documented.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::error::ErrorKind;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<(String, String)> {
    let of = |folder: &str| {
        fs::read_dir(root().join(folder))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
    };
    let mut files: Vec<PathBuf> = of("docs").chain(of("docs/runbooks")).collect();
    files.extend(["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The words of the first `ostler …` of a line, as a shell splits them; up to a comment, a pipe or the next command.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote): (Vec<String>, Option<String>, Option<char>) = (Vec::new(), None, None);
    let is_ours = |words: &[String]| words.first().is_some_and(|w| w == "ostler" || w.ends_with("/ostler"));
    for c in line.chars().chain(['\n']) {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            ('|' | ';' | '&' | '\n' | ')', None) | ('#', None) if c != '#' || word.is_none() => {
                words.extend(word.take());
                if is_ours(&words) {
                    return Some(words);
                }
                words.clear();
            }
            (c, None) if c.is_whitespace() => {
                words.extend(word.take());
                // Variables before a command, and the prompt.
                if words.len() == 1 && (words[0].contains('=') || words[0] == "$" || words[0] == "do") {
                    words.clear();
                }
            }
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    None
}

#[test]
fn every_file_that_the_documentation_names_is_there() {
    let mut checked = 0;
    for (page, text) in pages() {
        // Names in code spans; `KIND` and `NAME` stand for some.
        let spans = text.split('`').skip(1).step_by(2);
        let files =
            spans.filter(|span| ["src/", "tests/it", "scripts/", "charts/"].iter().any(|room| span.starts_with(room)));
        for file in
            files.filter(|file| !file.contains(['*', '<', ' ']) && !file.contains("KIND") && !file.contains("NAME"))
        {
            checked += 1;
            assert!(root().join(file).exists(), "{page} names {file}, which is not there");
        }
    }
    assert!(checked > 40, "{checked} files were found");
}

#[test]
fn every_command_of_the_documentation_is_one() {
    let mut checked = 0;
    for (page, text) in pages() {
        let mut in_block = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                continue;
            }
            let Some(words) = words(line).filter(|_| in_block) else { continue };
            checked += 1;
            if let Err(error) = ostler::cli::command().try_get_matches_from(&words) {
                let good = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                assert!(good, "{page}: {line}\n{error}");
            }
        }
    }
    assert!(checked > 30, "{checked} commands were found");
}

#[test]
fn every_command_and_variable_is_documented() {
    let cli = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    for command in ostler::cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = command.get_name();
        let written = ["`", " `"]
            .iter()
            .any(|before| [" ", "`", "["].iter().any(|after| cli.contains(&format!("{before}{name}{after}"))));
        assert!(written, "docs/cli.md does not name `{name}`");
    }
    let mut files = vec![root().join("src")];
    let mut names = BTreeSet::new();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        for rest in text.split("OSTLER_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(rest.len());
            names.insert(format!("OSTLER_{}", &rest[..end]));
        }
    }
    let pages: String = pages().into_iter().map(|(_, text)| text).collect();
    // Of tests, and of what a shell asks itself.
    let private = ["OSTLER_", "OSTLER_CRASH_POINT", "OSTLER_RUNS", "OSTLER_SEED", "OSTLER_COMPLETE"];
    for name in names.iter().filter(|name| !private.contains(&name.as_str())) {
        let of_pods = name.starts_with("OSTLER_WORKER_") && pages.contains("OSTLER_WORKER_");
        assert!(of_pods || pages.contains(name), "{name} is documented nowhere");
    }
}
