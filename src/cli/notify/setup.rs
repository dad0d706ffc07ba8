//! `ostler notify setup TYPE`: asks what it needs, writes Secret and Notifier, sends a test.

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    api::{API_VERSION, Kind, NotifierType},
    cli::{
        CliError, DataDir, Global, TargetSystem,
        kube::Cluster,
        output::{print, tell},
    },
    http::Item,
    store::new_file,
};

/// An `ostler up` reads its folder within this.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// Make a Notifier: what it needs is asked for, or read line by line from standard input; then a test is sent
///
/// Beside an `ostler up` a manifest is written into its folder; with --kube a Secret and a Notifier are made in the cluster.
#[derive(Debug, clap::Args)]
pub struct NotifySetupArgs {
    /// Which service is told
    #[arg(value_enum)]
    type_: SetupType,
    /// Name of the Notifier [default: the service]
    #[arg(long)]
    name: Option<String>,
    /// The folder of manifests [default: that of the `ostler up` on this machine]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SetupType {
    Slack,
    Telegram,
    Ntfy,
    Email,
    Webhook,
    Heartbeat,
}

/// What is asked: whether it is of the Secret or of `smtp`, its field, the question, and whether it may be left out.
struct Question {
    place: Place,
    field: &'static str,
    text: &'static str,
    optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Secret,
    Smtp,
}

const fn needed(field: &'static str, text: &'static str) -> Question {
    Question { place: Place::Secret, field, text, optional: false }
}

const fn optional(field: &'static str, text: &'static str) -> Question {
    Question { place: Place::Secret, field, text, optional: true }
}

const fn smtp(field: &'static str, text: &'static str) -> Question {
    Question { place: Place::Smtp, field, text, optional: false }
}

impl SetupType {
    fn questions(self) -> Vec<Question> {
        match self {
            Self::Slack => vec![needed("url", "URL of the incoming webhook")],
            Self::Telegram => vec![
                needed("token", "token of the bot, from @BotFather"),
                needed("chat", "ID of the chat, or @name of the channel"),
            ],
            Self::Ntfy => vec![
                needed("url", "URL of the topic: https://ntfy.sh/TOPIC"),
                optional("token", "access token (empty: none)"),
            ],
            Self::Email => vec![
                smtp("host", "mail server, which must offer STARTTLS"),
                smtp("port", "its port: mostly 587"),
                smtp("from", "address that it is from"),
                smtp("to", "address that it is for"),
                optional("user", "user at the mail server (empty: no login)"),
                optional("password", "password (empty: no login)"),
            ],
            Self::Webhook => vec![
                needed("url", "URL that is posted to"),
                optional("signingSecret", "whsec_ secret that it is signed with (empty: unsigned)"),
            ],
            Self::Heartbeat => vec![needed("url", "URL that is called while all is well")],
        }
    }

    fn api(self) -> NotifierType {
        match self {
            Self::Slack => NotifierType::Slack,
            Self::Telegram => NotifierType::Telegram,
            Self::Ntfy => NotifierType::Ntfy,
            Self::Email => NotifierType::Email,
            Self::Webhook => NotifierType::Webhook,
            Self::Heartbeat => NotifierType::Heartbeat,
        }
    }
}

/// What is written.
struct Made {
    name: String,
    secret: BTreeMap<String, String>,
    spec: Value,
}

pub async fn run(args: NotifySetupArgs, global: &Global) -> Result<(), CliError> {
    let NotifySetupArgs { type_, name, folder } = args;
    let name = name.unwrap_or_else(|| type_.api().as_str().to_ascii_lowercase());
    let answers = ask(&type_.questions(), &mut std::io::stdin().lock())?;
    let made = make(type_, name, &answers)?;
    let namespace = global.namespace()?;
    let (namespace, place) = if global.kube {
        in_cluster(&made, namespace).await?
    } else {
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let place = in_folder(&made, &namespace, folder, global)?;
        (namespace, place)
    };
    print(&format!("{place}\n"))?;
    let Ok(target) = TargetSystem::of(global).await else {
        return print(&format!("nothing runs that could try it: then, `ostler notify test {}`\n", made.name));
    };
    await_it(&target, &namespace, &made.name).await?;
    print(&format!("{}\n", super::test(&target, &namespace, &made.name).await?))
}

/// One answer for each question, by its field.
fn ask(questions: &[Question], input: &mut impl BufRead) -> Result<Vec<String>, CliError> {
    let mut answers = Vec::new();
    for question in questions {
        tell(&format!("{}: ", question.text));
        let _ = std::io::stderr().flush();
        let mut line = String::new();
        input.read_line(&mut line).map_err(|error| CliError::failed(format!("can't read an answer: {error}")))?;
        let answer = line.trim().to_owned();
        if answer.is_empty() && !question.optional {
            return Err(CliError::misused(format!("{} is needed: {}", question.field, question.text)));
        }
        answers.push(answer);
    }
    Ok(answers)
}

fn make(type_: SetupType, name: String, answers: &[String]) -> Result<Made, CliError> {
    let (mut secret, mut smtp) = (BTreeMap::new(), json!({}));
    for (question, answer) in type_.questions().iter().zip(answers).filter(|(_, answer)| !answer.is_empty()) {
        match (question.place, question.field) {
            (Place::Secret, field) => drop(secret.insert(field.to_owned(), answer.clone())),
            (Place::Smtp, "port") => {
                let port: u16 = answer.parse().map_err(|_| CliError::misused(format!("{answer:?} is no port")))?;
                smtp["port"] = port.into();
            }
            (Place::Smtp, "to") => smtp["to"] = json!([answer]),
            (Place::Smtp, field) => smtp[field] = answer.as_str().into(),
        }
    }
    let mut spec = json!({"type": type_.api()});
    if !secret.is_empty() {
        spec["secretRef"] = json!({"name": secret_name(&name)});
    }
    if type_ == SetupType::Email {
        spec["smtp"] = smtp;
    }
    Ok(Made { name, secret, spec })
}

fn secret_name(name: &str) -> String {
    format!("{name}-notifier")
}

impl Made {
    /// Values are written as JSON, which is YAML too.
    fn manifest(&self, namespace: &str) -> String {
        let secret = match self.secret.is_empty() {
            true => String::new(),
            false => format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {}\nstringData: {}\n---\n",
                json!({"name": secret_name(&self.name), "namespace": namespace}),
                json!(self.secret)
            ),
        };
        format!(
            "# Made by `ostler notify setup`. Whoever has what is in the Secret can write there: keep this file out of any repository.\n\
             {secret}apiVersion: {API_VERSION}\nkind: Notifier\nmetadata: {}\nspec: {}\n",
            json!({"name": self.name, "namespace": namespace}),
            self.spec
        )
    }
}

/// Writes a manifest, for its owner alone. Returns where.
fn in_folder(made: &Made, namespace: &str, folder: Option<PathBuf>, global: &Global) -> Result<String, CliError> {
    let folder = match folder {
        Some(folder) => folder,
        None => DataDir::of(global)?.served_folder().ok_or_else(|| {
            CliError::misused(
                "no `ostler up` has run on this machine: name the folder of manifests with --folder DIR, or use --kube",
            )
        })?,
    };
    let prefix = if namespace == "default" { String::new() } else { format!("{namespace}-") };
    let file = folder.join(format!("notifier-{prefix}{}.yaml", made.name));
    let written = new_file().open(&file).and_then(|mut out| {
        out.write_all(made.manifest(namespace).as_bytes())?;
        out.sync_all()
    });
    match written {
        Ok(()) => Ok(format!("Secret and Notifier are in {}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(CliError::failed(format!(
            "{} is there already: choose another name with --name, or delete the file",
            file.display()
        ))),
        Err(error) => Err(CliError::failed(format!("can't write {}: {error}", file.display()))),
    }
}

/// Makes both, by the caller's own kubeconfig. Returns the namespace, and where.
async fn in_cluster(made: &Made, namespace: Option<String>) -> Result<(String, String), CliError> {
    let cluster = Cluster::connect().await?;
    let namespace = namespace.unwrap_or_else(|| cluster.default_namespace().to_owned());
    let secret = secret_name(&made.name);
    if !made.secret.is_empty() {
        cluster.create_secret(&namespace, &secret, made.secret.clone()).await?;
    }
    if let Err(error) = cluster.create(Kind::Notifier, &namespace, &made.name, made.spec.clone()).await {
        if !made.secret.is_empty()
            && let Err(left) = cluster.delete_secret(&namespace, &secret).await
        {
            return Err(CliError::failed(format!("{error}; and Secret {secret} is left: {left}")));
        }
        return Err(error);
    }
    let place = format!("Secret and Notifier {} are in namespace {namespace} of {}", made.name, cluster.context());
    Ok((namespace, place))
}

/// A folder is read a moment after it was written.
async fn await_it(target: &TargetSystem, namespace: &str, name: &str) -> Result<(), CliError> {
    let begun = Instant::now();
    loop {
        match target.api.get::<Item>(&[Kind::Notifier.plural(), namespace, name], &[]).await {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_becomes_a_secret_and_a_notifier_that_the_folder_takes() {
        for (type_, answers, field) in [
            (SetupType::Slack, "https://hooks.example/T0/x\n", "url"),
            (SetupType::Telegram, "1:a\n-100\n", "token"),
            (SetupType::Ntfy, "https://ntfy.sh/t\n\n", "url"),
            (SetupType::Email, "mail.ex.org\n587\na@ex.org\nb@ex.org\nu\np\n", "password"),
            (SetupType::Webhook, "https://h/x\n\n", "url"),
            (SetupType::Heartbeat, "https://h/x\n", "url"),
        ] {
            let answers = ask(&type_.questions(), &mut answers.as_bytes()).unwrap();
            let made = make(type_, "a".into(), &answers).unwrap();
            assert!(made.secret.contains_key(field), "{type_:?}: {:?}", made.secret.keys());
            let spec: crate::api::NotifierSpec = serde_json::from_value(made.spec.clone()).unwrap();
            assert_eq!(spec.type_, type_.api());
            let manifest = made.manifest("team");
            assert!(manifest.contains("kind: Notifier") && manifest.contains("\"namespace\":\"team\""), "{manifest}");
        }
        let refused = ask(&SetupType::Slack.questions(), &mut "\n".as_bytes());
        assert!(refused.unwrap_err().to_string().contains("incoming webhook"));
    }
}
