//! The layers that docs/architecture.md draws are those of the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

fn source(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Each module of the drawing with its layer, the lowest one 0: a blank line ends a layer.
fn drawn() -> BTreeMap<String, usize> {
    let page = source("docs/architecture.md");
    let block = page.split("```").find(|block| block.starts_with("\nsrc/\n")).expect("the drawing of src/");
    let layers: Vec<_> = block.split("\n\n").collect();
    let modules = |layer: &str| -> Vec<String> {
        let first_words = layer.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
        first_words.filter_map(|word| word.strip_suffix('/')).map(str::to_owned).collect()
    };
    let ranked = layers.iter().rev().enumerate();
    ranked.flat_map(|(rank, layer)| modules(layer).into_iter().map(move |module| (module, rank))).collect()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            files(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// The modules of the crate that a file names: `crate::NAME`, and what stands in `use crate::{…}`.
fn used(text: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for after in text.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            names.insert(word(after));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    names.insert(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn every_module_uses_only_layers_below_its_own() {
    let layers = drawn();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let mut wrong = Vec::new();
    for path in all {
        let relative = path.strip_prefix(&src).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap();
        if ["main.rs", "lib.rs", "testing.rs"].contains(&module) {
            continue;
        }
        let rank = layers.get(module).unwrap_or_else(|| panic!("{module}/ is not drawn in docs/architecture.md"));
        for name in used(&std::fs::read_to_string(&path).unwrap()) {
            if name != module && layers.get(&name).is_some_and(|other| other >= rank) {
                wrong.push(format!("src/{} uses {name}/", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these reach sideways or upwards:\n{}", wrong.join("\n"));
    assert!(layers.len() > 20, "{layers:?}");
}
