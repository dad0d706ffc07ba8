//! Mail: a text of one part, threaded by cause, by a mail server that encrypts or is on this machine.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};

use super::{SendError, render};
use crate::{
    api::{Smtp, SmtpTls},
    causes::{Letter, LetterWords},
};

/// For one command of the mail server, and for all: whoever tests a Notifier waits for half a minute.
const PATIENCE: Duration = Duration::from_secs(20);
const WHOLE: Duration = Duration::from_secs(25);

/// What the Secret has for a mail server.
#[derive(Default)]
pub struct MailSecret {
    pub user: Option<String>,
    pub password: Option<String>,
    pub certificate: Option<String>,
}

/// The mail as it is sent.
pub fn mail(smtp: &Smtp, letter: &Letter, words: &LetterWords) -> Result<Message, SendError> {
    let domain = smtp.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let id = |id: &str| format!("<ostler-{id}@{domain}>");
    let mut mail = Message::builder()
        .from(mailbox(&smtp.from)?)
        .subject(words.subject.clone())
        .header(ContentType::TEXT_PLAIN)
        .message_id(Some(id(&render::message_id(letter))));
    for to in &smtp.to {
        mail = mail.to(mailbox(to)?);
    }
    if let [one] = letter.items.as_slice() {
        // Nobody has that mail itself; readers join by it what is about one cause.
        let thread = id(&render::thread_id(&one.cause.key, one.cause.opened_at));
        mail = mail.in_reply_to(thread.clone()).references(thread);
    }
    mail.body(format!("{}\n", words.text)).map_err(|error| SendError::Setup(format!("can't write the mail: {error}")))
}

fn mailbox(address: &str) -> Result<Mailbox, SendError> {
    address.parse().map_err(|error| SendError::Setup(format!("{address:?} is no address of a mailbox: {error}")))
}

/// Sends it.
pub async fn send(smtp: &Smtp, secret: MailSecret, mail: Message) -> Result<(), SendError> {
    let place = format!("mail server {}:{}", smtp.host, smtp.port);
    let setup = |error: lettre::transport::smtp::Error| SendError::Setup(format!("{place}: {}", words_of(&error)));
    let mut parameters = TlsParameters::builder(smtp.host.clone());
    if let Some(pem) = &secret.certificate {
        parameters = parameters.add_root_certificate(Certificate::from_pem(pem.as_bytes()).map_err(setup)?);
    }
    let tls = match smtp.tls {
        SmtpTls::Implicit => Tls::Wrapper(parameters.build_rustls().map_err(setup)?),
        // Required: where the server does not offer it, nothing is sent.
        SmtpTls::StartTLS => Tls::Required(parameters.build_rustls().map_err(setup)?),
        SmtpTls::None => Tls::None,
    };
    let port = u16::try_from(smtp.port).map_err(|_| SendError::Setup(format!("{} is no port", smtp.port)))?;
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(smtp.host.as_str())
        .port(port)
        .tls(tls)
        .hello_name(ClientId::Domain("localhost".to_owned()))
        .timeout(Some(PATIENCE));
    if let (Some(user), Some(password)) = (secret.user, secret.password) {
        transport = transport.credentials(Credentials::new(user, password));
    }
    match tokio::time::timeout(WHOLE, transport.build::<Tokio1Executor>().send(mail)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.is_permanent() => Err(SendError::Refused(format!("{place}: {}", words_of(&error)))),
        Ok(Err(error)) => Err(SendError::Failed { why: format!("{place}: {}", words_of(&error)), retry_after: None }),
        Err(_) => Err(SendError::Failed { why: format!("{place}: no answer in time"), retry_after: None }),
    }
}

/// With its causes: the outermost says only that something failed.
fn words_of(error: &lettre::transport::smtp::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), std::error::Error::source(error));
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_mail_is_plain_text_from_one_to_several_without_lines_of_others_in_its_head() {
        let smtp: Smtp = serde_json::from_value(
            serde_json::json!({"host": "h", "from": "ostler@ex.org", "to": ["a@ex.org", "b@ex.org"]}),
        )
        .unwrap();
        let letter = Letter { at: Timestamp::UNIX_EPOCH, items: Vec::new() };
        let words =
            LetterWords { subject: "down\r\nBcc: x@evil.org".into(), text: "größer\n.\nRSET".into(), severity: None };
        let mail = String::from_utf8(mail(&smtp, &letter, &words).unwrap().formatted()).unwrap();
        let (head, _) = mail.split_once("\r\n\r\n").unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(head.contains("From: ostler@ex.org") && head.contains("To: a@ex.org, b@ex.org"), "{head}");
        assert!(head.contains("text/plain") && head.contains("Message-ID: <ostler-"), "{head}");
    }
}
