//! The store's contract: one suite, run on SQLite and on a real PostgreSQL, and what only one of them does.

mod answers;
pub mod bench;
mod callbacks;
mod callers;
mod calls_of_day;
mod holders;
mod killed;
mod leading;
mod migrating;
mod order;
mod outages;
mod projecting;
mod records;
mod refusing;
mod slots;
mod stopped;
mod tasks_bench;
mod tasks_claiming;
mod tasks_commands;
mod tasks_ending;
mod tasks_following;
mod tasks_inserting;
mod tasks_leading;
mod tasks_model;
mod tasks_postgres;
mod tasks_steps;
mod tasks_walking;

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
    answers::an_answer_is_its_owners_to_its_request_and_the_last_one_counts,
    answers::answers_lapse_and_the_oldest_make_room,
    leading::the_epoch_only_rises,
    leading::a_raised_epoch_is_kept_and_the_next_one_is_higher,
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
    slots::a_slot_that_lapsed_before_another_instance_began_does_not_count,
    slots::a_lapsed_slot_that_still_counts_is_renewed_under_its_epoch,
    slots::a_slot_that_was_given_to_somebody_else_is_neither_renewed_nor_released,
    slots::an_abort_reaches_the_holder_at_its_next_renewal,
    slots::a_lingering_slot_counts_until_it_is_free,
    slots::a_canary_is_alone,
    slots::admission_says_who_gets_a_slot,
    slots::a_slot_tells_of_the_call_that_runs_in_it_now_and_of_none_before,
    holders::what_a_dead_process_held_is_free_after_the_linger_and_its_tasks_pending,
    holders::what_nobody_registered_counts_until_its_call_must_have_ended,
    holders::a_servers_slots_are_freed_only_when_nobody_renews_any,
    holders::a_call_that_outlives_its_dead_client_counts_until_it_must_have_ended,
    order::a_worker_makes_way_for_an_interactive_call,
    order::a_slot_is_kept_for_an_agents_next_turn_and_then_for_tasks,
    order::tasks_that_wait_get_a_tenth_of_the_time,
    order::whoever_is_dead_or_stands_still_delays_nobody,
    order::a_renewal_may_move_the_end_of_a_call,
    callbacks::each_end_is_told_once_in_the_order_of_its_task,
    callers::a_callers_calls_at_once_are_exact_at_all_gateways_and_servers,
    callers::a_slot_that_a_task_takes_next_is_no_callers_any_more,
    callers::a_days_tokens_are_counted_and_come_back_on_the_next,
    calls_of_day::a_days_calls_are_exact_whoever_makes_them,
    calls_of_day::the_next_day_has_calls_again,
    records::the_journal_is_filtered_and_pruned,
    records::controls_are_set_and_taken_back,
    records::causes_are_kept_with_who_took_them_and_who_was_told,
    records::local_objects_are_kept_until_deleted,
    migrating::migrating_again_changes_nothing,
    migrating::another_installation_is_refused_until_adopted,
    migrating::a_newer_schema_is_refused,
    tasks_inserting::a_task_is_read_back_as_it_was_given_in,
    tasks_inserting::a_key_gives_the_task_that_exists,
    tasks_inserting::keys_that_many_give_at_once_make_one_task_each,
    tasks_inserting::pages_go_from_the_newest_down,
    tasks_inserting::a_filter_gives_what_matches_all_of_it,
    tasks_inserting::a_task_without_a_deadline_gets_its_queues,
    tasks_inserting::tasks_are_counted_by_what_they_wait_for,
    tasks_inserting::whoever_waits_is_told_of_changes_by_others,
    tasks_claiming::only_what_is_assigned_and_due_is_claimed,
    tasks_claiming::the_higher_priority_goes_first_and_the_older_of_two_alike,
    tasks_claiming::ten_minutes_of_waiting_count_as_one_priority,
    tasks_claiming::no_task_is_claimed_twice,
    tasks_claiming::an_experts_places_are_exact_under_fifty_claimers,
    tasks_claiming::every_way_out_frees_the_experts_place,
    tasks_claiming::a_full_expert_holds_nobody_up,
    tasks_claiming::slot_and_task_are_taken_together_or_neither,
    tasks_claiming::a_server_is_asked_for_the_models_that_the_claim_names,
    tasks_claiming::a_slot_prefers_the_loaded_model_within_bounds,
    tasks_claiming::a_queue_that_is_suspended_held_or_gone_gives_nothing,
    tasks_claiming::a_claim_needs_a_lease_that_holds,
    tasks_claiming::several_queues_are_one_line,
    tasks_claiming::a_held_slot_takes_its_next_task,
    tasks_ending::each_verdict_leads_where_the_machine_says,
    tasks_ending::a_batch_of_completions_is_answered_one_by_one,
    tasks_ending::a_task_remembers_its_last_twenty_attempts,
    tasks_ending::a_lost_lease_gives_its_tasks_back_and_the_third_time_to_a_human,
    tasks_ending::a_lapsed_lease_that_nobody_took_is_renewed_under_its_epoch,
    tasks_ending::a_closed_lease_frees_its_tasks_at_once,
    tasks_ending::a_task_that_was_handed_over_has_a_lease_of_its_own,
    tasks_ending::a_task_past_its_deadline_fails_instead_of_being_tried,
    tasks_commands::cancel_ends_what_is_live,
    tasks_commands::retry_opens_a_new_cycle_of_what_ended,
    tasks_commands::resume_gives_deferred_tasks_all_their_attempts_again,
    tasks_commands::reassign_gives_waiting_and_deferred_tasks_to_somebody_else,
    tasks_commands::close_ends_deferred_tasks_as_failed,
    tasks_commands::purge_deletes_what_ended,
    tasks_commands::a_command_stops_at_its_bound_and_a_filter_without_conditions_is_all,
    tasks_commands::a_command_can_be_for_tasks_older_than_some_moment,
    tasks_ending::what_becomes_pending_follows_its_expert,
    tasks_ending::a_result_of_any_shape_is_kept,
    tasks_commands::large_tasks_are_read_and_cancelled_in_parts_whatever_their_number,
    tasks_following::changes_are_read_on_from_a_cursor_in_their_order,
    tasks_leading::an_old_leader_changes_no_task,
    tasks_leading::what_is_declared_is_read_back_until_it_is_gone,
    tasks_leading::a_changed_expert_moves_its_waiting_tasks,
    tasks_leading::only_what_is_unassigned_is_assigned,
    tasks_leading::ended_tasks_are_kept_as_long_as_their_queue_says,
    tasks_leading::a_run_of_a_schedule_is_fired_once,
    tasks_leading::a_run_replaces_what_was_there_before_and_nothing_of_its_own,
    tasks_leading::workers_report_until_they_leave,
    tasks_walking::every_walk_ends_where_the_machine_says,
    refusing::a_nul_is_stored_as_the_replacement_character,
    refusing::now_is_the_databases,
    refusing::a_claim_that_a_trigger_refuses_is_singled_out,
    refusing::an_assignment_that_a_trigger_refuses_holds_up_no_other,
    refusing::a_lost_task_that_a_trigger_refuses_holds_up_no_other,
    refusing::a_task_that_may_not_be_changed_at_all_is_stepped_over,
    killed::what_must_hold_holds_when_workers_are_killed,
}
