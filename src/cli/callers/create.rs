//! `ostler callers create NAME`.

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    api::{API_VERSION, Kind},
    calls::CallerKey,
    cli::{CliError, DataDir, Global, kube::Cluster, output::print_ready},
    store::new_file,
};

/// Make a key for a program, and declare who it is: the key is shown once
///
/// Beside an `ostler up` a manifest is written into its folder; with --kube a Secret and a Caller are made in the cluster.
#[derive(Debug, clap::Args)]
pub struct CallersCreateArgs {
    /// Name of the Caller
    #[arg(value_parser = name)]
    name: String,
    /// A name under which it asks for a model, and the alias that is served: 'claude-*=coder'
    #[arg(long = "alias", value_name = "MATCH=ALIAS", value_parser = alias)]
    aliases: Vec<(String, String)>,
    /// An alias that it may ask for; without any, all
    #[arg(long = "model", value_name = "ALIAS")]
    models: Vec<String>,
    /// Calls at once at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    max_concurrent: Option<i32>,
    /// Tokens of one UTC day
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..=1_000_000_000_000))]
    tokens_per_day: Option<i64>,
    /// The folder of manifests [default: that of the `ostler up` on this machine]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// As a manifest is checked, so that nobody gets a key that counts for nothing.
fn name(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        is_end(part.as_bytes().first())
            && is_end(part.as_bytes().last())
            && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    // With room for what the Secret's name adds.
    let fits = text.len() <= 249 && text.split('.').all(is_part);
    fits.then(|| text.to_owned()).ok_or_else(|| "write lower-case letters, digits, - and .".to_owned())
}

fn alias(text: &str) -> Result<(String, String), String> {
    let (pattern, alias) = text.split_once('=').ok_or("write MATCH=ALIAS, such as 'claude-*=coder'")?;
    Ok((pattern.to_owned(), alias.to_owned()))
}

pub async fn run(args: CallersCreateArgs, global: &Global) -> Result<(), CliError> {
    let key = CallerKey::generate();
    let namespace = global.namespace()?;
    let place = if global.kube {
        in_cluster(&args, namespace, &key).await?
    } else {
        in_folder(&args, &namespace.unwrap_or_else(|| "default".to_owned()), &key, global)?
    };
    let name = &args.name;
    print_ready(&format!(
        "{}\n\nThat is the key of Caller {name}; it is not shown again. {place}\nnext: `ostler callers env {name} --for claude` (or codex, opencode, ollama) says what to set\n",
        key.text()
    ))
}

impl CallersCreateArgs {
    fn secret_name(&self) -> String {
        format!("{}-key", self.name)
    }

    fn spec(&self) -> Value {
        let mut spec = json!({"secretRefs": [{"name": self.secret_name()}]});
        let aliases = self.aliases.iter().map(|(pattern, alias)| json!({"match": pattern, "alias": alias}));
        let fields = [
            ("aliases", (!self.aliases.is_empty()).then(|| aliases.collect::<Value>())),
            ("models", (!self.models.is_empty()).then(|| json!(self.models))),
            ("maxConcurrent", self.max_concurrent.map(Value::from)),
            ("tokensPerDay", self.tokens_per_day.map(Value::from)),
        ];
        for (field, value) in fields {
            if let Some(value) = value {
                spec[field] = value;
            }
        }
        spec
    }

    /// Values are written as JSON, which is YAML too.
    fn manifest(&self, namespace: &str, key: &CallerKey) -> String {
        format!(
            "# Made by `ostler callers create {}`. Whoever has the key calls as this Caller: keep this file out of any repository.\n\
             apiVersion: v1\nkind: Secret\nmetadata: {}\nstringData: {}\n---\n\
             apiVersion: {API_VERSION}\nkind: Caller\nmetadata: {}\nspec: {}\n",
            self.name,
            json!({"name": self.secret_name(), "namespace": namespace}),
            json!({"key": key.text()}),
            json!({"name": self.name, "namespace": namespace}),
            self.spec(),
        )
    }
}

/// Writes a manifest, for its owner alone. Returns where.
fn in_folder(args: &CallersCreateArgs, namespace: &str, key: &CallerKey, global: &Global) -> Result<String, CliError> {
    let folder = match &args.folder {
        Some(folder) => folder.clone(),
        None => DataDir::of(global)?.served_folder().ok_or_else(|| {
            CliError::misused(
                "no `ostler up` has run on this machine: name the folder of manifests with --folder DIR, or use --kube",
            )
        })?,
    };
    let prefix = if namespace == "default" { String::new() } else { format!("{namespace}-") };
    let file = folder.join(format!("caller-{prefix}{}.yaml", args.name));
    let written = new_file().open(&file).and_then(|mut out| {
        out.write_all(args.manifest(namespace, key).as_bytes())?;
        out.sync_all()
    });
    match written {
        Ok(()) => Ok(format!("Secret and Caller are in {}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(CliError::failed(format!(
            "{} is there already: choose another name, or delete the file, which withdraws its key",
            file.display()
        ))),
        Err(error) => Err(CliError::failed(format!("can't write {}: {error}", file.display()))),
    }
}

/// Makes both, by the caller's own kubeconfig. Returns where.
async fn in_cluster(args: &CallersCreateArgs, namespace: Option<String>, key: &CallerKey) -> Result<String, CliError> {
    let cluster = Cluster::connect().await?;
    let namespace = namespace.unwrap_or_else(|| cluster.default_namespace().to_owned());
    let data = BTreeMap::from([("key".to_owned(), key.text().to_owned())]);
    cluster.create_secret(&namespace, &args.secret_name(), data).await?;
    if let Err(error) = cluster.create(Kind::Caller, &namespace, &args.name, args.spec()).await {
        // Nobody would know what it is for.
        if let Err(left) = cluster.delete_secret(&namespace, &args.secret_name()).await {
            return Err(CliError::failed(format!("{error}; and Secret {} is left: {left}", args.secret_name())));
        }
        return Err(error);
    }
    Ok(format!("Caller and Secret {} are in namespace {namespace} of {}", args.secret_name(), cluster.context()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str) -> CallersCreateArgs {
        CallersCreateArgs {
            name: name.to_owned(),
            aliases: vec![("claude-*".to_owned(), "coder".to_owned())],
            models: Vec::new(),
            max_concurrent: Some(2),
            tokens_per_day: None,
            folder: None,
        }
    }

    #[test]
    fn only_names_that_a_manifest_may_have_are_taken() {
        for (text, is_name) in [
            ("editor", true),
            ("my.editor-2", true),
            ("Editor", false),
            ("a/b", false),
            ("", false),
            ("-a", false),
            ("a..b", false),
        ] {
            assert_eq!(name(text).is_ok(), is_name, "{text}");
        }
        assert_eq!(alias("claude-*=coder"), Ok(("claude-*".to_owned(), "coder".to_owned())));
        assert!(alias("coder").is_err());
    }

    #[test]
    fn what_is_written_has_the_key_once_and_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("ostler-callers-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let args = CallersCreateArgs { folder: Some(folder.clone()), ..args("editor") };
        let key = CallerKey::generate();
        in_folder(&args, "team", &key, &Global::default()).unwrap();
        let file = folder.join("caller-team-editor.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches(key.text()).count(), 1);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
        assert!(in_folder(&args, "team", &key, &Global::default()).unwrap_err().to_string().contains("there already"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
