//! Slot and task in one transaction, or neither.

use jiff::Timestamp;
use sqlx::postgres::PgConnection;

use super::claim::{ClaimBatch, ClaimBounds, ClaimProgress, Search, slotted, slotted_lanes, unless_refused};
use super::scheduling::move_due_now_and_then;
use crate::store::admit::{Decision, SlotRecord, decide, life_at};
use crate::store::order::{class_word, grants};
use crate::store::postgres::PostgresStore;
use crate::store::postgres::slots::{calls_left, count_calls, lock_server, rows};
use crate::store::postgres::waits::line;
use crate::store::rows::purpose_word;
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
    let occupied = rows(connection, &server.url).await?;
    let left = calls_left(connection, &server, now).await?;
    let room = claim.most.min(i32::try_from(left).unwrap_or(i32::MAX));
    let waiting = line(connection, &server.url, now).await?;
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
        count_calls(connection, &server, answer.given.len(), now).await?;
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
                slots.retain(|slot| slot.number != number);
                slots.push(taken(server, claim, number, epoch, now));
                free.push(Slot { server_url: server.url.clone(), number, holder: claim.holder.clone(), epoch });
            }
            Decision::Refuse(refusal) => return (free, Some(refusal)),
        }
    }
    (free, None)
}

/// The row as it will be, so that the next decision counts it.
fn taken(server: &ServerRow, claim: &SlotClaim, number: i64, epoch: i64, now: Stamp) -> SlotRecord {
    SlotRecord {
        server_url: server.url.clone(),
        number,
        holder: claim.holder.clone(),
        epoch,
        purpose: purpose_word(SlotPurpose::Call).to_owned(),
        class: Some(class_word(CallClass::Batch).to_owned()),
        caller: None,
        model: None,
        taken_at: now,
        lease_expires_at: now.after(claim.slot_lease),
        call_ends_at: now.after(claim.call_within),
        call_began_at: None,
        last_byte_at: None,
        outlives_client: false,
        instance: server.instance.clone(),
        aborted: false,
        frees_at: None,
    }
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
            let (server, now) = match hold(session.connection(), slot).await {
                Ok(Some(held)) => held,
                Ok(None) => {
                    session.roll_back().await?;
                    return Ok(None);
                }
                Err(fenced @ StoreError::Fenced(_)) => {
                    session.roll_back().await?;
                    return Err(fenced);
                }
                Err(error) => return Err(error),
            };
            let ClaimBatch { mut claimed, seen, .. } = slotted(session.connection(), searches, &asked).await?;
            let next = claimed.pop();
            match &next {
                Some(claimed) => {
                    keep(session.connection(), slot, claim, claimed, (life, asked_at, now)).await?;
                    count_calls(session.connection(), &server, 1, now).await?;
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

/// Locks the server's row, and checks that the slot may go on. A next call is a new call: it starts only if the server would give
/// the slot again; `None`: it would not.
async fn hold(connection: &mut PgConnection, slot: &Slot) -> Result<Option<(ServerRow, Stamp)>, StoreError> {
    let server = lock_server(connection, &slot.server_url).await?;
    let mut slots = rows(connection, &slot.server_url).await?;
    let own = slots.iter().position(|record| record.number == slot.number);
    let (Some((server, now)), Some(own)) = (server, own) else {
        return Err(StoreError::Fenced(format!("slot {} of {} is gone", slot.number, slot.server_url)));
    };
    let own = slots.remove(own);
    own.renewable(slot, now)?;
    let given = matches!(decide(&server, &slots, SlotPurpose::Call, now), Decision::Give { .. });
    let waiting = line(connection, &server.url, now).await?;
    let keeps = grants(&server, &slots, &waiting, (slot.holder.as_str(), CallClass::Batch, 1), true, now) > 0;
    let may = given && keeps && calls_left(connection, &server, now).await? > 0;
    Ok(may.then_some((server, now)))
}

/// The same slot, for another call.
async fn keep(
    connection: &mut PgConnection,
    slot: &Slot,
    claim: &SlotClaim,
    claimed: &Claimed,
    (life, asked_at, now): (CallLife, Timestamp, Stamp),
) -> Result<(), StoreError> {
    let (call_began_at, last_byte_at) = life_at(life, asked_at, now);
    // The call before may still run.
    sqlx::query(
        "UPDATE slots SET lease_expires_at = $3, call_ends_at = greatest(call_ends_at, $4), model = $5,
            call_began_at = $6, last_byte_at = $7, outlives_client = $8
         WHERE server_url = $1 AND number = $2",
    )
    .bind(&slot.server_url)
    .bind(slot.number)
    .bind(now.after(claim.slot_lease))
    .bind(now.after(claim.call_within))
    .bind(&claimed.task.assigned_model)
    .bind(call_began_at)
    .bind(last_byte_at)
    .bind(life.outlives_client)
    .execute(connection)
    .await?;
    Ok(())
}
