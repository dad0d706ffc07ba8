//! Slot and task in one transaction, or neither.

use sqlx::SqliteConnection;

use super::claiming::{ClaimLine, Preference};
use crate::store::admit::{Decision, SlotRecord, decide, life_at};
use crate::store::order::{class_word, grants};
use crate::store::rows::purpose_word;
use crate::store::sqlite::slots::{calls_left, count_calls, find_server, put_slot, rows};
use crate::store::sqlite::waits::line as waiting;
use crate::store::stamp::Stamp;
use crate::store::{
    Admission, CallLife, Claimed, ServerRow, Slot, SlotClaim, SlotClaimAnswer, SlotPurpose, StoreError,
};
use crate::tasks::share::CallClass;

pub(super) async fn claim_slots(
    tx: &mut SqliteConnection,
    claim: &SlotClaim,
    now: Stamp,
) -> Result<SlotClaimAnswer, StoreError> {
    let mut answer = SlotClaimAnswer::default();
    let Some(server) = find_server(tx, &claim.server_url).await? else {
        answer.closed = true;
        return Ok(answer);
    };
    let mut slots = rows(tx, &server.url).await?;
    let mut line: Option<ClaimLine> = None;
    let left = calls_left(tx, &server, now).await?;
    let most = usize::try_from(i64::from(claim.most).min(left)).unwrap_or(0);
    let asker = (claim.holder.as_str(), CallClass::Batch, claim.most);
    let granted = grants(&server, &slots, &waiting(tx, &server.url, now).await?, asker, false, now);
    let room = most.min(granted);
    while answer.given.len() < room {
        let Decision::Give { number, epoch } = decide(&server, &slots, SlotPurpose::Call, now) else { break };
        let line = match &mut line {
            Some(line) => line,
            None => line.insert(line_of(tx, claim, now).await?),
        };
        let Some(claimed) = line.claim(tx, preference(claim).as_ref()).await? else { break };
        let record = slot_record(claim, &server, &claimed, number, epoch, now);
        put_slot(tx, &record).await?;
        slots.retain(|slot| slot.number != number);
        slots.push(record);
        let slot = Slot { server_url: server.url.clone(), number, holder: claim.holder.clone(), epoch };
        answer.given.push((slot, claimed));
    }
    answer.closed = most > 0 && server.admission == Admission::Closed;
    // Where tasks ran out first, nobody knows what the server would have said. Free slots may be for others.
    answer.full = room < most && answer.given.len() == room && !answer.closed;
    answer.spent = usize::try_from(left).is_ok_and(|left| answer.given.len() == left);
    count_calls(tx, &server, answer.given.len(), now).await?;
    Ok(answer)
}

/// A next call is a new call: it starts only if the server would give the slot again.
pub(super) async fn claim_next(
    tx: &mut SqliteConnection,
    slot: &Slot,
    claim: &SlotClaim,
    life: CallLife,
    now: Stamp,
) -> Result<Option<Claimed>, StoreError> {
    let server = find_server(tx, &slot.server_url).await?;
    let mut slots = rows(tx, &slot.server_url).await?;
    let own = slots.iter().position(|record| record.number == slot.number);
    let (Some(server), Some(own)) = (server, own) else {
        return Err(StoreError::Fenced(format!("slot {} of {} is gone", slot.number, slot.server_url)));
    };
    let own = slots.remove(own);
    own.renewable(slot, now)?;
    let refused = matches!(decide(&server, &slots, SlotPurpose::Call, now), Decision::Refuse(_));
    let asker = (claim.holder.as_str(), CallClass::Batch, 1);
    let gives_way = grants(&server, &slots, &waiting(tx, &server.url, now).await?, asker, true, now) == 0;
    if refused || gives_way || calls_left(tx, &server, now).await? == 0 {
        return Ok(None);
    }
    let mut line = line_of(tx, claim, now).await?;
    let Some(claimed) = line.claim(tx, preference(claim).as_ref()).await? else { return Ok(None) };
    let mut record = slot_record(claim, &server, &claimed, slot.number, slot.epoch, now);
    // The call before may still run.
    record.call_ends_at = record.call_ends_at.max(own.call_ends_at);
    record.taken_at = own.taken_at;
    (record.call_began_at, record.last_byte_at) = life_at(life, now.into(), now);
    record.outlives_client = life.outlives_client;
    put_slot(tx, &record).await?;
    count_calls(tx, &server, 1, now).await?;
    Ok(Some(claimed))
}

async fn line_of(tx: &mut SqliteConnection, claim: &SlotClaim, now: Stamp) -> Result<ClaimLine, StoreError> {
    let models: Vec<_> = claim.models.iter().cloned().map(Some).collect();
    ClaimLine::new(tx, &claim.queues, &models, now).await
}

fn preference(claim: &SlotClaim) -> Option<Preference<'_>> {
    let millis = i64::try_from(claim.affinity.as_millis()).unwrap_or(i64::MAX);
    claim.loaded.as_ref().map(|loaded| Preference { loaded, millis })
}

fn slot_record(
    claim: &SlotClaim,
    server: &ServerRow,
    given: &Claimed,
    number: i64,
    epoch: i64,
    now: Stamp,
) -> SlotRecord {
    SlotRecord {
        server_url: server.url.clone(),
        number,
        holder: claim.holder.clone(),
        epoch,
        purpose: purpose_word(SlotPurpose::Call).to_owned(),
        class: Some(class_word(CallClass::Batch).to_owned()),
        caller: None,
        model: given.task.assigned_model.clone(),
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
