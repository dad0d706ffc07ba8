//! The store's contract: one suite, run on SQLite and on a real PostgreSQL, and what only one of them does.

mod bench;
mod leading;
mod migrating;
mod outages;
mod projecting;
mod records;
mod slots;
mod stopped;

use bench::Bench;

/// Runs each function of the suite with a new database of either kind.
macro_rules! on_both {
    ($($room:ident :: $case:ident,)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                super::$room::$case(&super::Bench::sqlite().await).await;
            })*
        }
        mod real_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                super::$room::$case(&super::Bench::postgres().await).await;
            })*
        }
    };
}

on_both! {
    leading::the_epoch_only_rises,
    leading::a_renewal_keeps_the_epoch_and_a_lost_lead_is_not_renewed,
    leading::every_write_of_an_old_leader_is_refused,
    leading::a_lapsed_leader_writes_nothing_until_it_renews,
    leading::the_runner_leads_renews_and_resigns,
    projecting::a_projected_backend_is_read_back_as_it_was,
    projecting::what_does_not_differ_is_not_written,
    projecting::a_sweep_marks_what_is_missing_and_a_projection_brings_it_back,
    projecting::a_gone_backends_server_gives_no_new_slots,
    projecting::recovery_documents_and_observations_are_kept_by_uid,
    slots::exactly_the_limit_is_given_to_fifty_takers,
    slots::a_lowered_limit_stops_new_calls_and_no_running_one,
    slots::a_lapsed_lease_counts_until_its_call_must_have_ended,
    slots::a_lapsed_lease_of_another_instance_does_not_count,
    slots::a_lapsed_slot_that_still_counts_is_renewed_under_its_epoch,
    slots::a_slot_that_was_given_to_somebody_else_is_neither_renewed_nor_released,
    slots::an_abort_reaches_the_holder_at_its_next_renewal,
    slots::a_lingering_slot_counts_until_it_is_free,
    slots::a_canary_is_alone,
    slots::admission_says_who_gets_a_slot,
    slots::a_holders_clock_that_is_ahead_hides_no_stall,
    records::the_journal_is_filtered_and_pruned,
    records::controls_are_set_and_taken_back,
    records::local_objects_are_kept_until_deleted,
    migrating::migrating_again_changes_nothing,
    migrating::another_installation_is_refused_until_adopted,
    migrating::a_newer_schema_is_refused,
}
