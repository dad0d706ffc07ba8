//! Names of resources as people type them: `KIND/NAME`.

use super::{CliError, TargetSystem};
use crate::{api::Kind, base::closest, http::ItemList};

/// `KIND NAME`, `KIND/NAME` or `KIND`.
pub fn kind_and_name(text: &str, name: Option<String>) -> Result<(Kind, Option<String>), CliError> {
    let (kind, inner) = match text.split_once('/') {
        Some((kind, inner)) => (kind, Some(inner.to_owned())),
        None => (text, None),
    };
    let known = || Kind::ALL.iter().map(|k| format!("{} ({})", k.plural(), k.short())).collect::<Vec<_>>().join(", ");
    let kind = Kind::find(nickname(kind))
        .ok_or_else(|| CliError::misused(format!("there is no kind {kind:?}: there are {}", known())))?;
    match (inner, name) {
        (Some(a), Some(b)) => Err(CliError::misused(format!("two names, {a:?} and {b:?}: write one"))),
        (Some(inner), None) if inner.is_empty() => {
            Err(CliError::misused(format!("{text:?} has no name: write {}/NAME", kind.short())))
        }
        (inner, name) => Ok((kind, inner.or(name))),
    }
}

/// What people call a kind, by its whole name.
fn nickname(word: &str) -> &str {
    match word {
        "queue" | "queues" => "taskqueues",
        "pool" | "pools" => "workerpools",
        "schedule" | "schedules" => "taskschedules",
        other => other,
    }
}

/// `KIND/NAME`, or a NAME alone where one resource only is called so.
pub async fn resolve(text: &str, target: &TargetSystem) -> Result<(Kind, String), CliError> {
    resolve_among(text, Kind::ALL, target).await
}

/// The same, of these kinds only.
pub async fn resolve_among(text: &str, kinds: &[Kind], target: &TargetSystem) -> Result<(Kind, String), CliError> {
    if let Some(found) = whole(text)? {
        return Ok(found);
    }
    let namespace = target.namespace_of_one();
    let query = [("namespace", namespace.to_owned())];
    let (mut found, mut known) = (Vec::new(), Vec::new());
    for kind in kinds {
        let list: ItemList = target.api.get(&[kind.plural()], &query).await?;
        found.extend(list.items.iter().filter(|item| item.name() == text).map(|_| *kind));
        known.extend(list.items.iter().map(|item| format!("{}/{}", kind.short(), item.name())));
    }
    match found.as_slice() {
        [kind] => Ok((*kind, text.to_owned())),
        [] => {
            let names: Vec<&str> = known.iter().filter_map(|k| k.split_once('/').map(|(_, name)| name)).collect();
            let meant = match closest(text, names.into_iter()) {
                Some(meant) => format!("did you mean {meant}?"),
                None if known.is_empty() => "nothing is declared there".to_owned(),
                None => format!("there are {}", known.join(", ")),
            };
            Err(CliError::failed(format!("nothing is called {text:?} in namespace {namespace}: {meant}")))
        }
        several => {
            let all: Vec<String> = several.iter().map(|kind| format!("{}/{text}", kind.short())).collect();
            Err(CliError::misused(format!("{text:?} may be {}: write which", all.join(" or "))))
        }
    }
}

/// What says its kind itself; `None` when it is a name alone, which somebody must be asked about.
pub fn whole(text: &str) -> Result<Option<(Kind, String)>, CliError> {
    if !text.contains('/') && Kind::find(nickname(text)).is_none() {
        return Ok(None);
    }
    match kind_and_name(text, None)? {
        (kind, Some(name)) => Ok(Some((kind, name))),
        (kind, None) => Err(CliError::misused(format!("{text:?} names no resource: write {}/NAME", kind.short()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_named_as_with_kubectl() {
        let name = |text: &str, name: Option<&str>| {
            kind_and_name(text, name.map(str::to_owned)).map(|(k, n)| (k.short(), n)).map_err(|e| e.to_string())
        };
        assert_eq!(name("llm", None), Ok(("llm", None)));
        assert_eq!(name("llm/mlx", None), Ok(("llm", Some("mlx".into()))));
        assert_eq!(name("HostAgent", Some("mac")), Ok(("ha", Some("mac".into()))));
        for (text, second) in [("pods", None), ("llm/", None), ("llm/a", Some("b"))] {
            assert!(name(text, second).is_err(), "{text} {second:?}");
        }
        assert!(whole("queue").unwrap_err().to_string().contains("tq/NAME"));
        assert_eq!(whole("ollama").unwrap(), None);
        assert_eq!(whole("llm/ollama").unwrap().unwrap().1, "ollama");
    }
}
