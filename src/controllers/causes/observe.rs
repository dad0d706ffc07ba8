//! What is seen of everything that may be a cause or a symptom: projections, statuses, and what agents last reported.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kube::ResourceExt;

use crate::{
    api::{MinSeverity, Notifier, NotifierType, QuietHours},
    causes::{Audience, CauseFacts, CauseSeverity, KnownCause, QuietTime},
    store::StoreError,
};

use super::{super::declared::ControlPlane, backend, rest, work::WorkWatch};

/// Everything, now.
pub async fn facts(
    world: &ControlPlane,
    work: &mut WorkWatch,
    known: &[KnownCause],
    now: Timestamp,
) -> Result<CauseFacts, StoreError> {
    let mut objects = backend::facts(world, work.is_changed(), now).await;
    objects.extend(rest::agents(world));
    objects.extend(rest::checks(world, now));
    objects.extend(rest::declared(world, now));
    objects.extend(work.queues(world, now).await?);
    let open = known.iter().filter(|k| k.cause.is_open()).map(|k| k.cause.key.clone()).collect();
    Ok(CauseFacts { objects, open })
}

/// Those who are told of causes.
pub fn audiences(world: &ControlPlane) -> Vec<(Arc<Notifier>, Audience)> {
    let all = world.feeds.notifiers.objects.state();
    all.into_iter().filter_map(|object| audience(world, &object).map(|audience| (object, audience))).collect()
}

fn audience(world: &ControlPlane, object: &Notifier) -> Option<Audience> {
    let (spec, namespace) = (&object.spec, object.namespace().unwrap_or_default());
    if world.is_suspended(object) || spec.type_ == NotifierType::Heartbeat {
        return None;
    }
    Some(Audience {
        uid: object.uid()?,
        namespace: (namespace != world.parts.home_namespace).then_some(namespace),
        min_severity: match spec.min_severity {
            MinSeverity::Warning => CauseSeverity::Warning,
            MinSeverity::Critical => CauseSeverity::Critical,
        },
        repeat: SignedDuration::from_secs(spec.repeat_seconds.into()),
        quiet: spec.quiet_hours.as_ref().and_then(|hours| quiet_time(hours).ok()),
    })
}

/// `Err`: why they can't be read.
pub fn quiet_time(hours: &QuietHours) -> Result<QuietTime, String> {
    let QuietHours { from, to, time_zone } = hours;
    let time = |text: &str| {
        jiff::civil::Time::strptime("%H:%M", text).map_err(|_| format!("quietHours: {text:?} is no time: write 22:00"))
    };
    let zone = TimeZone::get(time_zone).map_err(|_| {
        format!("quietHours.timeZone: {time_zone:?} is not known here: write a name such as Europe/Berlin")
    })?;
    Ok(QuietTime { from: time(from)?, to: time(to)?, zone })
}
