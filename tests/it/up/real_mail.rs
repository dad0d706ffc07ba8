//! Mail, by a real mail server that wants STARTTLS and a login.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use crate::real::{cache, part_script};

use super::harness::{Up, is_ready};

const CA: &str = include_str!("../agent/tls/ca.crt");

struct MailServer {
    process: Child,
    said: BufReader<ChildStdout>,
    port: u16,
}

impl MailServer {
    fn start(up: &Up, arguments: &[&str]) -> Self {
        for (name, text) in [
            ("mail.crt", include_str!("../agent/tls/server.crt")),
            ("mail.key", include_str!("../agent/tls/server.key")),
        ] {
            std::fs::write(up.root.join(name), text).unwrap();
        }
        let mut process = Command::new(cache().join("python/bin/python"))
            .arg(part_script("python/mail.py"))
            .args([up.root.join("mail.crt"), up.root.join("mail.key")])
            .args(["ostler", "correct horse"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/run installs Python");
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let mut port = String::new();
        said.read_line(&mut port).unwrap();
        Self { process, said, port: port.trim().parse().expect("a port") }
    }

    fn mail(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn manifests(name: &str, port: u16, password: &str) -> String {
    let ca = CA.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n  user: ostler\n  password: {password}\n  ca.crt: |\n{ca}---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: Notifier\nmetadata: {{name: {name}}}\nspec:\n  type: Email\n  secretRef: {{name: {name}}}\n  \
         smtp: {{host: 127.0.0.1, port: {port}, from: ostler@example.org, to: [ada@example.org, jo@example.org]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn real_mail_leaves_by_starttls_with_a_login_and_not_otherwise() {
    let mut up = Up::prepare(&[]);
    let (mut server, plain) = (MailServer::start(&up, &[]), MailServer::start(&up, &["plain"]));
    up.write("good.yaml", &manifests("good", server.port, "correct horse"));
    up.write("wrong.yaml", &manifests("wrong", server.port, "battery staple"));
    up.write("open.yaml", &manifests("open", plain.port, "correct horse"));
    up.run(&[]).await;
    for name in ["good", "wrong", "open"] {
        up.until_of("notifiers", name, "ready", is_ready).await;
    }
    up.ostler_ok(&["notify", "test", "good"]);
    let mail = server.mail();
    assert_eq!(
        (&mail["tls"], &mail["login"], &mail["from"]),
        (&true.into(), &true.into(), &"ostler@example.org".into())
    );
    assert_eq!(mail["to"], serde_json::json!(["ada@example.org", "jo@example.org"]));
    let content = mail["content"].as_str().unwrap();
    assert!(
        content.contains("Subject: Ostler: a test message") && content.contains("Message-ID: <ostler-"),
        "{content}"
    );
    for (name, why) in [("wrong", "535"), ("open", "STARTTLS")] {
        let output = up.ostler(&["notify", "test", name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.to_uppercase().contains(why), "{name}: {said}");
        assert!(!said.contains("staple") && !said.contains("horse"), "{name}: {said}");
    }
}
