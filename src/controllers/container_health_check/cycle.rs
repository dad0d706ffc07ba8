//! Whether a check depends on itself.

use std::collections::{BTreeMap, BTreeSet};

/// The way from `start` back to it, if there is one: each check with those that it depends on.
pub fn cycle<'a>(start: &'a str, edges: &'a BTreeMap<String, Vec<String>>) -> Option<Vec<&'a str>> {
    let mut way = vec![start];
    let mut known = BTreeSet::new();
    find(start, start, edges, &mut way, &mut known).then_some(way)
}

fn find<'a>(
    start: &str,
    at: &str,
    edges: &'a BTreeMap<String, Vec<String>>,
    way: &mut Vec<&'a str>,
    known: &mut BTreeSet<&'a str>,
) -> bool {
    for next in edges.get(at).into_iter().flatten() {
        if next == start {
            way.push(next);
            return true;
        }
        if known.insert(next) {
            way.push(next);
            if find(start, next, edges, way, known) {
                return true;
            }
            way.pop();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_back_is_found_and_one_that_only_passes_by_is_not() {
        let edges = |all: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
            all.iter().map(|(from, to)| ((*from).to_owned(), to.iter().map(|t| (*t).to_owned()).collect())).collect()
        };
        for (all, expected) in [
            (edges(&[("a", &["a"])]), Some(vec!["a", "a"])),
            (edges(&[("a", &["x", "b"]), ("b", &["c"]), ("c", &["a"])]), Some(vec!["a", "b", "c", "a"])),
            (edges(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]), None),
            (edges(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"])]), None),
            (edges(&[]), None),
        ] {
            assert_eq!(cycle("a", &all), expected, "{all:?}");
        }
    }
}
