//! Bodies with a time: of requests, so that nobody sends one byte an hour, and of answers, to know when they have ended.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Limits,
    slots::{ConnectionActivity, InFlight},
};

/// A request's body. Reading fails when its time is over.
pub struct TimedBody {
    inner: Incoming,
    limits: Limits,
    activity: Arc<ConnectionActivity>,
    /// Made with the first wait: most bodies are there at once.
    timer: Option<Timer>,
}

struct Timer {
    end: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl TimedBody {
    pub fn new(inner: Incoming, limits: Limits, activity: Arc<ConnectionActivity>) -> Self {
        Self { inner, limits, activity, timer: None }
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        if !self.inner.is_end_stream() {
            self.activity.left_unread();
        }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            if let Some(timer) = &mut this.timer {
                let next = (Instant::now() + this.limits.body_gap).min(timer.end);
                timer.sleep.as_mut().reset(next);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        let (gap, whole) = (this.limits.body_gap, this.limits.body);
        let timer = this.timer.get_or_insert_with(|| {
            let now = Instant::now();
            Timer { end: now + whole, sleep: Box::pin(sleep_until(now + gap.min(whole))) }
        });
        match timer.sleep.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let why = format!(
                    "the body took too long to arrive: at most {} s between two parts and {} s in all",
                    gap.as_secs(),
                    whole.as_secs()
                );
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, why))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body: the request is in flight until all of it was taken.
pub struct AnswerBody {
    pub inner: Body,
    pub _in_flight: InFlight,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
