//! Slot and task in one transaction, or neither.

use sqlx::SqliteConnection;

use super::claiming::{ClaimLine, Preference};
use crate::store::admit::{Decision, SlotRecord, decide};
use crate::store::order::grants;
use crate::store::slot_rows::SlotRows;
use crate::store::sqlite::slots::find_server;
use crate::store::stamp::Stamp;
use crate::store::{Admission, CallLife, Claimed, Slot, SlotClaim, SlotClaimAnswer, SlotPurpose, StoreError};
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
    let mut slots = tx.slot_rows(&server.url).await?;
    let mut line: Option<ClaimLine> = None;
    let left = tx.calls_left(&server, now).await?;
    let most = usize::try_from(i64::from(claim.most).min(left)).unwrap_or(0);
    let asker = (claim.holder.as_str(), CallClass::Batch, claim.most);
    let granted = grants(&server, &slots, &tx.line(&server.url, now).await?, asker, false, now);
    let room = most.min(granted);
    while answer.given.len() < room {
        let Decision::Give { number, epoch } = decide(&server, &slots, SlotPurpose::Call, now) else { break };
        let line = match &mut line {
            Some(line) => line,
            None => line.insert(line_of(tx, claim, now).await?),
        };
        let Some(claimed) = line.claim(tx, preference(claim).as_ref()).await? else { break };
        let slot = Slot { server_url: server.url.clone(), number, holder: claim.holder.clone(), epoch };
        let model = claimed.task.assigned_model.clone();
        let bounds = (claim.slot_lease, claim.call_within);
        let record = SlotRecord { model, ..SlotRecord::given(&slot, &server, bounds, now) };
        tx.put_slot(&record).await?;
        slots.retain(|slot| slot.number != number);
        slots.push(record);
        answer.given.push((slot, claimed));
    }
    answer.closed = most > 0 && server.admission == Admission::Closed;
    // Where tasks ran out first, nobody knows what the server would have said. Free slots may be for others.
    answer.full = room < most && answer.given.len() == room && !answer.closed;
    answer.spent = usize::try_from(left).is_ok_and(|left| answer.given.len() == left);
    tx.count_calls(&server, answer.given.len(), now).await?;
    Ok(answer)
}

/// The next task for a slot that is held.
pub(super) async fn claim_next(
    tx: &mut SqliteConnection,
    slot: &Slot,
    claim: &SlotClaim,
    life: CallLife,
    now: Stamp,
) -> Result<Option<Claimed>, StoreError> {
    let server = find_server(tx, &slot.server_url).await?;
    let goes_on = tx.may_go_on(server.as_ref(), slot, now).await?;
    let Some(server) = server.filter(|_| goes_on) else { return Ok(None) };
    let mut line = line_of(tx, claim, now).await?;
    let Some(claimed) = line.claim(tx, preference(claim).as_ref()).await? else { return Ok(None) };
    let life = CallLife { may_last: Some(claim.call_within), ..life };
    let model = claimed.task.assigned_model.as_deref();
    tx.note_call(slot, model, claim.slot_lease, (life, now.into()), now).await?;
    tx.count_calls(&server, 1, now).await?;
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
