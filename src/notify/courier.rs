//! Sends a message to a Notifier: its address and credentials come from its Secret, and are told to nobody else.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode, Url, header};
use serde_json::Value;

use super::{
    email::{self, MailSecret},
    render,
};
use crate::{
    api::{NotifierSpec, NotifierType, Webhook},
    causes::{Letter, clean},
    engines::{retry_after, words_of},
    host::{SigningSecret, sign::sign_as},
    net::{Broken, HttpClient, redirected, shown},
    platform::{SecretError, Secrets},
};

/// For one attempt.
const PATIENCE: Duration = Duration::from_secs(20);
/// The key of a Secret that signs.
const SIGNING_KEY: &str = "signingSecret";
const TELEGRAM: &str = "https://api.telegram.org";
/// Of a refusal, in bytes.
const MOST_ANSWER: usize = 64 << 10;

/// Why a message did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A person must mend how it is set up.
    #[error("{0}")]
    Setup(String),
    /// The address refuses for good.
    #[error("{0}")]
    Refused(String),
    /// It may pass.
    #[error("{why}")]
    Failed { why: String, retry_after: Option<SignedDuration> },
}

/// Where it is sent, and with what.
struct Wire {
    url: Url,
    body: Value,
    bearer: Option<String>,
    signing: Option<SigningSecret>,
}

/// Sends messages.
#[derive(Clone)]
pub struct Courier {
    secrets: Secrets,
    http: HttpClient,
}

impl Courier {
    pub fn new(secrets: Secrets, http: HttpClient) -> Self {
        Self { secrets, http }
    }

    /// Whether everything is there that sending needs.
    pub async fn check(&self, namespace: &str, spec: &NotifierSpec) -> Result<(), SendError> {
        match spec.type_ {
            NotifierType::Email => self.mail_secret(namespace, spec).await.map(drop),
            NotifierType::Heartbeat => self.address(namespace, spec).await.map(drop),
            _ => self.wire(namespace, spec, &Letter { at: Timestamp::UNIX_EPOCH, items: Vec::new() }).await.map(drop),
        }
    }

    /// Sends one message. A Heartbeat is only called.
    pub async fn send(&self, namespace: &str, spec: &NotifierSpec, letter: &Letter) -> Result<(), SendError> {
        match (spec.type_, &spec.smtp) {
            (NotifierType::Heartbeat, _) => self.beat(namespace, spec).await,
            (NotifierType::Email, Some(smtp)) => {
                let secret = self.mail_secret(namespace, spec).await?;
                email::send(smtp, secret, email::mail(smtp, letter, &letter.words())?).await
            }
            (NotifierType::Email, None) => Err(SendError::Setup("an Email needs smtp: set it".to_owned())),
            _ => {
                let wire = self.wire(namespace, spec, letter).await?;
                self.post(wire, &render::message_id(letter)).await
            }
        }
    }

    /// Sends a body to a webhook that a resource declares, signed where it has a Secret. `id` is the same each time that it is tried.
    pub async fn call(&self, namespace: &str, webhook: &Webhook, id: &str, body: Value) -> Result<(), SendError> {
        let url = Url::parse(&webhook.url)
            .map_err(|error| SendError::Setup(format!("{}: is no address: {error}", shown(&webhook.url))))?;
        let signing = match &webhook.secret_ref {
            None => None,
            Some(secret) => {
                Some(signing(&self.text(namespace, &secret.name, SIGNING_KEY).await?, namespace, &secret.name)?)
            }
        };
        self.post(Wire { url, body, bearer: None, signing }, id).await
    }

    /// Calls a Heartbeat's URL.
    async fn beat(&self, namespace: &str, spec: &NotifierSpec) -> Result<(), SendError> {
        let url = self.address(namespace, spec).await?;
        let place = place(&url);
        self.answered(self.http.request(Method::GET, url), &place).await
    }

    async fn post(&self, wire: Wire, id: &str) -> Result<(), SendError> {
        let Wire { url, body, bearer, signing } = wire;
        let (place, body) = (place(&url), body.to_string());
        let mut request = self.http.post(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        if let Some(secret) = signing {
            let signature = sign_as(&secret, format!("msg_{id}"), body.as_bytes(), Timestamp::now());
            for (name, value) in signature.headers() {
                request = request.header(name, value);
            }
        }
        self.answered(request.body(body), &place).await
    }

    async fn answered(&self, request: reqwest::RequestBuilder, place: &str) -> Result<(), SendError> {
        let reply = match self.http.send_within(request, PATIENCE).await {
            Ok(reply) => reply,
            Err(error @ Broken::Invalid(_)) => return Err(SendError::Setup(format!("{place}: {error}"))),
            Err(error) => return Err(SendError::Failed { why: format!("{place}: {error}"), retry_after: None }),
        };
        let status = reply.status();
        if redirected(status, reply.headers()).is_some() {
            // Where it points may have the address' own secret in it.
            let why = format!("{place}: HTTP {} sends the client elsewhere; nothing was sent there", status.as_u16());
            return Err(SendError::Refused(format!("{why}: correct the address")));
        }
        if status.is_success() {
            return Ok(());
        }
        let asked = retry_after(reply.headers());
        let body = reply.whole(MOST_ANSWER).await.unwrap_or_default();
        let asked = asked.or_else(|| asked_by_telegram(&body)).and_then(|wait| SignedDuration::try_from(wait).ok());
        let why = format!("{place}: HTTP {}: {}", status.as_u16(), clean(&words_of(&body)));
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
                SendError::Refused(why)
            }
            _ => SendError::Failed { why, retry_after: asked },
        })
    }

    async fn wire(&self, namespace: &str, spec: &NotifierSpec, letter: &Letter) -> Result<Wire, SendError> {
        let (words, secret) = (letter.words(), secret_of(spec)?);
        let plain = |url, body| Wire { url, body, bearer: None, signing: None };
        match spec.type_ {
            NotifierType::Telegram => {
                let token = self.text(namespace, secret, "token").await?;
                let chat = self.text(namespace, secret, "chat").await?;
                let server = self.optional(namespace, secret, "url").await?.unwrap_or_else(|| TELEGRAM.to_owned());
                let mut url = parsed(&server, namespace, secret)?;
                let path = url.path_segments_mut().map(|mut path| {
                    path.pop_if_empty().push(&format!("bot{token}")).push("sendMessage");
                });
                path.map_err(|()| SendError::Setup(no_address(namespace, secret)))?;
                Ok(plain(url, render::telegram(&words, &chat)))
            }
            NotifierType::Ntfy => {
                let mut url = self.address(namespace, spec).await?;
                let topic =
                    url.path_segments().and_then(|mut path| path.rfind(|part| !part.is_empty()).map(str::to_owned));
                let topic = topic.ok_or_else(|| {
                    SendError::Setup(format!(
                        "key url of Secret {namespace}/{secret} names no topic: write https://ntfy.sh/TOPIC"
                    ))
                })?;
                let root = url.path_segments_mut().map(|mut path| {
                    path.pop_if_empty().pop();
                });
                root.map_err(|()| SendError::Setup(no_address(namespace, secret)))?;
                let bearer = self.optional(namespace, secret, "token").await?;
                Ok(Wire { bearer, ..plain(url, render::ntfy(&words, &topic)) })
            }
            NotifierType::Webhook => {
                let signing = self.optional(namespace, secret, SIGNING_KEY).await?;
                let signing = signing.map(|text| self::signing(&text, namespace, secret)).transpose()?;
                let url = self.address(namespace, spec).await?;
                Ok(Wire { signing, ..plain(url, render::webhook(letter, &words)) })
            }
            NotifierType::Slack | NotifierType::Email | NotifierType::Heartbeat => {
                Ok(plain(self.address(namespace, spec).await?, render::slack(&words)))
            }
        }
    }

    /// The URL of its Secret.
    async fn address(&self, namespace: &str, spec: &NotifierSpec) -> Result<Url, SendError> {
        let secret = secret_of(spec)?;
        parsed(&self.text(namespace, secret, "url").await?, namespace, secret)
    }

    async fn mail_secret(&self, namespace: &str, spec: &NotifierSpec) -> Result<MailSecret, SendError> {
        let Some(reference) = &spec.secret_ref else { return Ok(MailSecret::default()) };
        let secret = reference.name.as_str();
        let user = self.optional(namespace, secret, "user").await?;
        let password = match user {
            Some(_) => Some(self.text(namespace, secret, "password").await?),
            None => None,
        };
        Ok(MailSecret { user, password, certificate: self.optional(namespace, secret, "ca.crt").await? })
    }

    async fn text(&self, namespace: &str, secret: &str, key: &str) -> Result<String, SendError> {
        self.secrets.text(namespace, secret, key).await.map_err(unreadable)
    }

    async fn optional(&self, namespace: &str, secret: &str, key: &str) -> Result<Option<String>, SendError> {
        self.secrets.optional(namespace, secret, key).await.map_err(unreadable)
    }
}

fn signing(text: &str, namespace: &str, secret: &str) -> Result<SigningSecret, SendError> {
    SigningSecret::parse(text)
        .map_err(|error| SendError::Setup(format!("key {SIGNING_KEY} of Secret {namespace}/{secret}: {error}")))
}

fn unreadable(error: SecretError) -> SendError {
    match error {
        SecretError::Missing(what) => SendError::Setup(what),
        SecretError::Unavailable(error) => SendError::Failed { why: error.to_string(), retry_after: None },
    }
}

fn secret_of(spec: &NotifierSpec) -> Result<&str, SendError> {
    let named = spec.secret_ref.as_ref().map(|reference| reference.name.as_str());
    named.ok_or_else(|| SendError::Setup("nobody knows where to send it: set secretRef".to_owned()))
}

fn parsed(text: &str, namespace: &str, secret: &str) -> Result<Url, SendError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| SendError::Setup(no_address(namespace, secret)))
}

fn no_address(namespace: &str, secret: &str) -> String {
    format!("key url of Secret {namespace}/{secret} is no address: write https://HOST/PATH")
}

/// Scheme and host: the path of such a URL is a secret, mostly.
fn place(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// `{"parameters": {"retry_after": 5}}`
fn asked_by_telegram(body: &[u8]) -> Option<Duration> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    answer.pointer("/parameters/retry_after").and_then(Value::as_u64).map(Duration::from_secs)
}
