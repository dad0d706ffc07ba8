//! An answer, read within bounds: a peer that floods fills neither memory nor time.

use std::time::Duration;

use reqwest::{
    Response, StatusCode, Url,
    header::{HeaderMap, LOCATION},
};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Broken;

/// Of a refusal only the first words matter.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
const MAX_REFUSAL_TIME: Duration = Duration::from_secs(5);
/// How much of a Location is shown, in characters.
const MAX_LOCATION: usize = 120;
/// Pieces of this size or more cost nothing here: the bound on a body's bytes holds for them.
const WHOLE: usize = 1024;
/// Small pieces that are taken at once, and a second after that.
const BURST: f64 = 16_384.0;
const PER_SECOND: f64 = 2_048.0;
/// Whoever sent too many waits for so many, so that a flood wakes this process seldom.
const BATCH: f64 = 64.0;

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct HttpReply {
    response: Response,
    until: Instant,
    pace: ReplyPace,
}

impl HttpReply {
    pub(super) fn new(response: Response, until: Instant) -> Self {
        Self { response, until, pace: ReplyPace::new(Instant::now()) }
    }

    /// Gives the body until then; it had the time that the head was waited for.
    pub fn prolonged(self, until: Instant) -> Self {
        Self { until, ..self }
    }

    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next piece of the body; `None`: it has ended.
    pub async fn chunk(&mut self, until: Instant) -> Result<Option<impl AsRef<[u8]> + use<>>, Broken> {
        let until = until.min(self.until);
        // A peer that always has more would never be waited for, and so never time out.
        if Instant::now() >= until {
            return Err(Broken::Timeout);
        }
        let chunk = match timeout_at(until, self.response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(Broken::of(&error)),
            Err(_elapsed) => return Err(Broken::Timeout),
        };
        if let Some(chunk) = &chunk {
            let now = Instant::now();
            let wait = self.pace.take(chunk.len(), now);
            if !wait.is_zero() {
                sleep_until(until.min(now + wait)).await;
            }
        }
        Ok(chunk)
    }

    /// The whole body, if it has at most so many bytes.
    pub async fn whole(mut self, most: usize) -> Result<Vec<u8>, Broken> {
        let until = self.until;
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(until).await? {
            let chunk = chunk.as_ref();
            if body.len() + chunk.len() > most {
                return Err(Broken::TooLong(most));
            }
            body.extend_from_slice(chunk);
        }
        Ok(body)
    }

    /// The body of an answer that isn't a success, as far as it comes: its status counts without it.
    pub async fn refusal(mut self) -> Vec<u8> {
        let until = self.until.min(Instant::now() + MAX_REFUSAL_TIME);
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = self.chunk(until).await {
            let chunk = chunk.as_ref();
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL_BYTES - body.len())]);
            if body.len() == MAX_REFUSAL_BYTES {
                break;
            }
        }
        body
    }
}

/// What an answer that redirects says: nothing is sent to where it points. `None`: it is none.
pub fn redirected(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    let code = status.as_u16();
    status.is_redirection().then(|| format!("HTTP {code} sends the client elsewhere{}", target(headers)))
}

/// ` (scheme://host/path)` of `Location`: its query may carry credentials.
fn target(headers: &HeaderMap) -> String {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else { return String::new() };
    let plain = match Url::parse(location) {
        Ok(url) => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
        }
        Err(_) => location.split(['?', '#']).next().unwrap_or_default().to_owned(),
    };
    format!(" ({})", plain.chars().take(MAX_LOCATION).collect::<String>())
}

/// How fast small pieces of a body are taken: a peer that sends single bytes costs a small part of a core. Pure.
#[derive(Debug)]
struct ReplyPace {
    left: f64,
    at: Instant,
}

impl ReplyPace {
    fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// Counts a piece; how long to wait before the next one is taken.
    fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * PER_SECOND).min(BURST);
        self.at = now;
        self.left -= WHOLE.saturating_sub(bytes) as f64 / WHOLE as f64;
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64((BATCH - self.left) / PER_SECOND) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_names_where_it_points_without_secrets() {
        let of = |location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            redirected(StatusCode::FOUND, &headers).unwrap()
        };
        let elsewhere = "HTTP 302 sends the client elsewhere";
        assert_eq!(of("http://ada:pw@10.0.0.1:8080/x?token=y#z"), format!("{elsewhere} (http://10.0.0.1:8080/x)"));
        assert_eq!(of("/login?next=/"), format!("{elsewhere} (/login)"));
        assert!(of(&format!("http://h/{}", "x".repeat(5000))).len() < 200);
        assert_eq!(
            redirected(StatusCode::TEMPORARY_REDIRECT, &HeaderMap::new()).unwrap(),
            "HTTP 307 sends the client elsewhere"
        );
        assert_eq!(redirected(StatusCode::OK, &HeaderMap::new()), None);
    }

    /// How many pieces of a size are taken within a time by a peer that always has one.
    fn taken(bytes: usize, within: Duration) -> u64 {
        let begun = Instant::now();
        let (mut pace, mut now, mut count) = (ReplyPace::new(begun), begun, 0);
        while now < begun + within && count < 1_000_000 {
            count += 1;
            now += pace.take(bytes, now);
        }
        count
    }

    #[test]
    fn a_flood_of_small_pieces_is_slowed_and_an_answer_is_not() {
        let flood = taken(1, Duration::from_secs(60));
        assert!((100_000..160_000).contains(&flood), "{flood}");
        assert_eq!(taken(8192, Duration::from_secs(1)), 1_000_000);
        let (begun, mut pace) = (Instant::now(), ReplyPace::new(Instant::now()));
        for token in 0..100_000_u32 {
            let now = begun + Duration::from_micros(500) * token;
            assert_eq!(pace.take(200, now), Duration::ZERO, "2,000 tokens a second");
        }
    }
}
