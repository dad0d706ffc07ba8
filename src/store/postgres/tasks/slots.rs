//! Slot and task in one transaction, or neither.

use jiff::Timestamp;
use sqlx::postgres::PgConnection;

use super::claim::{ClaimBatch, ClaimBounds, ClaimProgress, Search, slotted, slotted_lanes, unless_refused};
use super::scheduling::move_due_now_and_then;
use crate::store::admit::{Decision, SlotRecord, decide};
use crate::store::order::{class_word, grants};
use crate::store::postgres::PostgresStore;
use crate::store::postgres::slots::lock_server;
use crate::store::rows::purpose_word;
use crate::store::slot_rows::SlotRows;
use crate::store::stamp::Stamp;
use crate::store::{
    Admission, BootInstant, CallLife, Claimed, ServerRow, Slot, SlotAnswer, SlotClaim, SlotClaimAnswer, SlotPurpose,
    StoreError,
};
use crate::tasks::{TaskId, share::CallClass};

pub(super) async fn claim(store: &PostgresStore, claim: &SlotClaim) -> Result<SlotClaimAnswer, StoreError> {
    move_due_now_and_then(store).await?;
    let began = BootInstant::now();
    let mut searches = slotted_lanes(claim);
    store.work.begin(&mut searches, began);
    let searches = &searches[..];
    unless_refused(store, searches, i64::from(claim.most), move |most, without| {
        let claim = SlotClaim { most: i32::try_from(most).unwrap_or(i32::MAX), ..claim.clone() };
        store.within(async move {
            let mut session = store.write().await?;
            let (answer, seen) = give(session.connection(), &claim, searches, without).await?;
            if answer.given.is_empty() {
                session.roll_back().await?;
            } else {
                session.commit().await?;
            }
            store.work.claimed(searches, &seen, began);
            Ok(answer)
        })
    })
    .await
}

/// Slots as the decision gives them, one after the other, as many as there are tasks for.
async fn give(
    connection: &mut PgConnection,
    claim: &SlotClaim,
    searches: &[Search<'_>],
    without: Vec<TaskId>,
) -> Result<(SlotClaimAnswer, ClaimProgress), StoreError> {
    let mut answer = SlotClaimAnswer::default();
    let Some((server, now)) = lock_server(connection, &claim.server_url).await? else {
        answer.closed = true;
        return Ok((answer, ClaimProgress::default()));
    };
    let occupied = connection.slot_rows(&server.url).await?;
    let left = connection.calls_left(&server, now).await?;
    let room = claim.most.min(i32::try_from(left).unwrap_or(i32::MAX));
    let waiting = connection.line(&server.url, now).await?;
    let asker = (claim.holder.as_str(), CallClass::Batch, claim.most);
    let granted = grants(&server, &occupied, &waiting, asker, false, now);
    let granted = i32::try_from(granted).unwrap_or(i32::MAX);
    let kept_for_others = server.admission != Admission::Closed && granted < room;
    let room = if server.admission == Admission::Closed { room } else { room.min(granted) };
    let (slots, refusal) = free_slots(&server, occupied, claim, room, now);
    let most = i64::try_from(slots.len()).unwrap_or(i64::MAX);
    let asked = ClaimBounds { affinity: claim.affinity, most, without };
    let ClaimBatch { claimed, seen, .. } = slotted(connection, searches, &asked).await?;
    // Where tasks ran out first, nobody knows what the server would have said.
    let refusal = refusal.filter(|_| claimed.len() == slots.len());
    answer.closed = refusal == Some(SlotAnswer::Closed);
    answer.full = (refusal.is_some() && !answer.closed) || (kept_for_others && claimed.len() == slots.len());
    answer.given = slots.into_iter().zip(claimed).collect();
    answer.spent = usize::try_from(left).is_ok_and(|left| answer.given.len() == left);
    if !answer.given.is_empty() {
        occupy(connection, &server, claim, &answer.given, now).await?;
        connection.count_calls(&server, answer.given.len(), now).await?;
    }
    Ok((answer, seen))
}

/// The slots that the server has for this claim, and why it has no more.
fn free_slots(
    server: &ServerRow,
    mut slots: Vec<SlotRecord>,
    claim: &SlotClaim,
    room: i32,
    now: Stamp,
) -> (Vec<Slot>, Option<SlotAnswer>) {
    let mut free = Vec::new();
    for _ in 0..room {
        match decide(server, &slots, SlotPurpose::Call, now) {
            Decision::Give { number, epoch } => {
                let slot = Slot { server_url: server.url.clone(), number, holder: claim.holder.clone(), epoch };
                slots.retain(|slot| slot.number != number);
                // The row as it will be, so that the next decision counts it.
                slots.push(SlotRecord::given(&slot, server, (claim.slot_lease, claim.call_within), now));
                free.push(slot);
            }
            Decision::Refuse(refusal) => return (free, Some(refusal)),
        }
    }
    (free, None)
}

async fn occupy(
    connection: &mut PgConnection,
    server: &ServerRow,
    claim: &SlotClaim,
    given: &[(Slot, Claimed)],
    now: Stamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO slots (server_url, number, holder, epoch, purpose, model, taken_at, lease_expires_at, call_ends_at,
            call_began_at, last_byte_at, instance, aborted, frees_at, class)
         SELECT $1, number, $2, epoch, $3, model, $4, $5, $6, NULL, NULL, $7, false, NULL, $11
         FROM unnest($8::bigint[], $9::bigint[], $10::text[]) AS given (number, epoch, model)
         ON CONFLICT (server_url, number) DO UPDATE SET holder = excluded.holder, epoch = excluded.epoch,
            purpose = excluded.purpose, model = excluded.model, taken_at = excluded.taken_at,
            lease_expires_at = excluded.lease_expires_at, call_ends_at = excluded.call_ends_at, call_began_at = NULL,
            last_byte_at = NULL, outlives_client = false, instance = excluded.instance, aborted = false, frees_at = NULL,
            class = excluded.class, caller = NULL",
    )
    .bind(&server.url)
    .bind(&claim.holder)
    .bind(purpose_word(SlotPurpose::Call))
    .bind(now)
    .bind(now.after(claim.slot_lease))
    .bind(now.after(claim.call_within))
    .bind(&server.instance)
    .bind(given.iter().map(|(slot, _)| slot.number).collect::<Vec<_>>())
    .bind(given.iter().map(|(slot, _)| slot.epoch).collect::<Vec<_>>())
    .bind(given.iter().map(|(_, claimed)| claimed.task.assigned_model.as_deref()).collect::<Vec<_>>())
    .bind(class_word(CallClass::Batch))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn next(
    store: &PostgresStore,
    slot: &Slot,
    claim: &SlotClaim,
    life: CallLife,
) -> Result<Option<Claimed>, StoreError> {
    let asked_at = Timestamp::now();
    move_due_now_and_then(store).await?;
    let began = BootInstant::now();
    let mut searches = slotted_lanes(claim);
    store.work.begin(&mut searches, began);
    let searches = &searches[..];
    unless_refused(store, searches, 1, move |most, without| {
        let asked = ClaimBounds { affinity: claim.affinity, most, without };
        store.within(async move {
            let mut session = store.write().await?;
            let locked = lock_server(session.connection(), &slot.server_url).await?;
            let (server, now) = locked.map_or((None, Stamp::now()), |(server, now)| (Some(server), now));
            let server = match session.connection().may_go_on(server.as_ref(), slot, now).await {
                Ok(true) => server,
                Ok(false) => None,
                Err(fenced @ StoreError::Fenced(_)) => {
                    session.roll_back().await?;
                    return Err(fenced);
                }
                Err(error) => return Err(error),
            };
            let Some(server) = server else {
                session.roll_back().await?;
                return Ok(None);
            };
            let ClaimBatch { mut claimed, seen, .. } = slotted(session.connection(), searches, &asked).await?;
            let next = claimed.pop();
            match &next {
                Some(claimed) => {
                    let model = claimed.task.assigned_model.as_deref();
                    let life = CallLife { may_last: Some(claim.call_within), ..life };
                    let connection = session.connection();
                    connection.note_call(slot, model, claim.slot_lease, (life, asked_at), now).await?;
                    connection.count_calls(&server, 1, now).await?;
                    session.commit().await?;
                }
                None => session.roll_back().await?,
            }
            store.work.claimed(searches, &seen, began);
            Ok(next)
        })
    })
    .await
}
