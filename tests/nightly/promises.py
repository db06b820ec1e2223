"""What walarchiver promises, the tests that try to break it, and what they leave open.

test_reliability.py sees to it that every test named here exists; docs/reliability.md is made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

INTEGRATION = "tests/integration/"
SIMULATION = "tests/simulation/"
NIGHTLY = "tests/nightly/"


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise; `open` says what no test shows."""

    number: int
    text: str
    tests: tuple[str, ...]
    open: str = ""


PROMISES = (
    Promise(
        1,
        "Never acknowledges a segment that is not durable and in the ledger.",
        (
            f"{SIMULATION}test_archiver_calls.py::test_nothing_is_acknowledged_before_object_and_entry_are_durable",
            f"{SIMULATION}test_archiver_calls.py::"
            "test_a_store_failure_is_not_acknowledged_and_the_next_try_succeeds",
            f"{INTEGRATION}test_kills.py::test_a_server_killed_at_any_step_of_archiving_loses_nothing",
            f"{NIGHTLY}test_kills.py::test_servers_killed_at_random_lose_nothing",
        ),
        "Power loss is not played: that fsync reaches the disk is the operating system's word.",
    ),
    Promise(
        2,
        'Never says "not found" for anything but the proven end of the archive.',
        (
            f"{SIMULATION}test_fetcher.py::test_a_hole_is_not_the_end",
            f"{SIMULATION}test_fetcher.py::test_under_random_failures_absent_is_only_said_when_it_is_true",
            "tests/hook/test_hook.py::test_an_odd_answer_is_a_failure_for_push_and_a_doubt_for_fetch",
            "tests/hook/test_twins.py::test_both_hooks_say_the_same_to_anything",
            f"{INTEGRATION}test_outages.py::"
            "test_recovery_stops_at_any_doubt_goes_on_without_it_and_ends_at_the_true_end",
        ),
    ),
    Promise(
        3,
        "Never overwrites; the same name with other bytes is refused.",
        (
            "tests/contracts/test_object_store.py::test_a_name_is_never_written_twice",
            "tests/contracts/test_object_store.py::test_of_forty_creators_of_one_name_exactly_one_wins",
            f"{SIMULATION}test_archiver.py::"
            "test_other_bytes_under_a_recorded_name_are_refused_and_nothing_is_stored",
            f"{INTEGRATION}test_refusals.py::"
            "test_the_same_bytes_again_succeed_and_other_bytes_are_a_divergence",
        ),
        "S3 is played by SeaweedFS; other stores are proven on the spot by `walarchiver s3 probe`.",
    ),
    Promise(
        4,
        "Never prunes what a promised second, hold, pin, chain or running restore needs.",
        (),
        "Nothing prunes yet.",
    ),
    Promise(
        5,
        "Any one-bit change at rest is detected before PostgreSQL sees it.",
        (
            "tests/format/test_bit_flips.py::test_every_flipped_bit_is_found",
            f"{SIMULATION}test_repository.py::test_a_flipped_byte_is_never_handed_out_as_good",
            "tests/postgres/test_unpack.py::test_a_flipped_byte_anywhere_is_found",
            f"{INTEGRATION}test_verify.py::"
            "test_damage_is_named_with_what_it_affects_and_the_rest_is_read_too",
        ),
        "A flipped bit in the label or the time of the repository mark (`v1/REPO`) is not noticed: the mark "
        "is not signed, and nothing reads these two. In a key file bits of comments and of the last line end "
        "do not count. A raw master key has no check of its own: with a flipped bit it is another key, which "
        "opens nothing.",
    ),
    Promise(
        6,
        "Every hole is reported within one archive interval.",
        (
            f"{SIMULATION}test_status.py::test_behind_a_gap_only_a_later_backup_counts",
            f"{INTEGRATION}test_unreachable.py::test_a_hole_is_named_and_a_later_backup_ends_it",
            f"{INTEGRATION}test_check.py::test_a_gap_decides_the_exit_status",
        ),
        "A hole shows once a later segment is archived, to whoever asks (`status`, `check`, metrics); "
        "nothing sends a message by itself.",
    ),
    Promise(
        7,
        "Storage down for hours costs disk, never data, and never unbounded memory.",
        (
            f"{INTEGRATION}test_outages.py::test_segments_arrive_in_order_after_every_kind_of_outage",
            f"{NIGHTLY}test_scenes.py::test_two_minutes_without_a_store_cost_nothing_but_time",
            f"{SIMULATION}test_archiver_calls.py::test_memory_stays_at_one_part_whatever_the_segment_size",
            "tests/shells/test_budget.py::test_holders_never_exceed_the_budget_together",
        ),
        "The longest outage played lasts two minutes, not hours.",
    ),
    Promise(
        8,
        "A crash at any point leaves a restartable state with no manual step.",
        (
            f"{INTEGRATION}test_kills.py::test_a_server_killed_at_any_step_of_archiving_loses_nothing",
            f"{SIMULATION}test_archiver_crashes.py::"
            "test_after_a_crash_at_any_step_a_new_process_archives_the_same_file",
            f"{SIMULATION}test_fetcher_files.py::test_a_kill_in_the_middle_leaves_nothing_under_the_final_name",
            f"{SIMULATION}test_rotation.py::"
            "test_a_rotation_stopped_at_any_step_is_finished_by_the_next_and_nothing_unrecorded_counts",
            f"{SIMULATION}test_keyring_change.py::"
            "test_a_change_stopped_at_any_step_is_finished_by_the_same_command",
            "tests/postgres/test_unpack.py::test_postgresql_cannot_start_before_publishing",
            f"{NIGHTLY}test_scenes.py::test_a_crash_of_postgresql_during_an_upload_leaves_one_good_object",
        ),
        "Rotations and keyring changes are finished by giving the same command again; archiving and fetching "
        "need no command.",
    ),
    Promise(
        9,
        "SIGTERM drains or refuses within 10 s, never half-acknowledges.",
        (
            f"{INTEGRATION}test_daemon.py::test_sigterm_under_load_drains_and_acknowledges_nothing_by_half",
            f"{INTEGRATION}test_daemon.py::test_sigterm_ends_a_server_whose_store_does_not_answer",
            "tests/hook/test_api_callers.py::test_the_end_of_the_drain_cuts_without_acknowledging",
            f"{SIMULATION}test_archiver_calls.py::test_a_queue_that_stops_leaves_nobody_waiting",
        ),
    ),
    Promise(
        10,
        "Corrupt, empty, short, oversized or wrong-cluster input never enters as good, and a bad .backup "
        "never blocks WAL.",
        (
            f"{SIMULATION}test_archiver.py::"
            "test_a_file_that_is_no_segment_of_this_cluster_is_refused_and_nothing_stored",
            f"{INTEGRATION}test_refusals.py::test_damaged_and_foreign_files_never_enter",
            f"{INTEGRATION}test_refusals.py::test_a_bad_backup_label_never_blocks_the_wal_behind_it",
        ),
        "Page headers are checked before a segment is stored. Damage inside a page that left its header "
        "whole is stored as it is, and is found by the record checksums when WAL is read.",
    ),
    Promise(
        11,
        "A stolen archiver (one without an identity) reads no earlier epoch and rewrites no history unseen.",
        (
            f"{SIMULATION}test_stolen_writer.py::test_no_epoch_key_is_in_the_store_or_in_the_state_folder",
            f"{SIMULATION}test_depositor.py::test_the_writer_itself_cannot_open_what_it_wrote",
            f"{SIMULATION}test_stolen_writer.py::"
            "test_an_entry_rewritten_with_a_stolen_writers_key_cuts_off_what_follows_and_is_an_alarm",
            f"{SIMULATION}test_ledger_audit.py::test_entries_cut_off_the_end_show_only_against_a_checkpoint",
        ),
        "Entries cut off the end, or signed anew up to the end, show only against a checkpoint kept outside "
        "of the repository.",
    ),
    Promise(
        12,
        "Any single custodian key restores everything; rotation moves no data.",
        (
            f"{SIMULATION}test_depositor.py::test_every_single_custodian_opens_everything",
            f"{INTEGRATION}test_restore_command.py::test_any_other_custodian_restores_everything_too",
            f"{SIMULATION}test_rotation.py::"
            "test_an_added_custodian_opens_everything_after_a_rotation_and_a_second_one_has_nothing_to_do",
        ),
    ),
    Promise(
        13,
        "Clock jumps change labels, never ordering, acknowledgement or pruning safety.",
        (
            f"{SIMULATION}test_clock_jumps.py::"
            "test_segments_are_acknowledged_in_order_whatever_the_clock_says",
            "tests/restore_core/test_planner_model.py::"
            "test_a_moment_is_decided_as_the_rule_says_and_recovers_to_exactly_that",
            "tests/integration/test_stepped_clock.py::test_plans_hold_under_a_clock_that_is_stepped",
            "tests/nightly/test_stepped_clocks.py::test_plans_hold_under_a_clock_that_is_stepped",
        ),
        "PostgreSQL's clock is set for real, while it works; our own server's is played.",
    ),
    Promise(
        14,
        "A restored cluster reached the asked target, or we say it failed.",
        (
            "tests/shells/test_judge.py::test_any_other_end_is_a_failure",
            "tests/postgres/test_instance.py::"
            "test_a_target_that_is_never_met_stops_the_server_with_its_reason",
            f"{INTEGRATION}test_any_moment.py::test_restores_to_chosen_moments_are_exact_row_by_row",
            f"{NIGHTLY}test_moments.py::test_restores_to_random_moments_are_exact",
        ),
    ),
    Promise(
        15,
        "One slow or hostile client cannot stall archiving.",
        (
            "tests/hook/test_api_callers.py::test_slow_callers_are_cut_and_stall_nobody",
            "tests/hook/test_api_callers.py::test_a_dripping_caller_is_cut_too",
            "tests/hook/test_api_callers.py::test_too_many_callers_get_an_honest_failure",
        ),
    ),
    Promise(
        16,
        "Objects from any release open with the stand-alone reader.",
        (
            "tests/vectors/test_reader.py::"
            "test_every_vector_is_read_as_it_says_by_a_program_that_knows_only_the_text",
            "tests/vectors/test_carried.py::test_a_copy_of_the_repository_reads_itself",
        ),
        "There is one release so far, and its format is still a draft.",
    ),
    Promise(
        17,
        "A bucket restore destroys no version.",
        (
            "tests/restore_core/test_bucketactions_chance.py::"
            "test_carrying_out_an_action_reaches_what_was_wanted_destroys_nothing_and_then_needs_nothing",
            "tests/evidence/test_bucket_restore_chance.py::"
            "test_the_bucket_holds_again_what_it_held_and_nothing_was_destroyed",
            "tests/evidence/test_bucket_restore_killed.py::"
            "test_a_killed_restore_is_gone_on_with_and_nothing_is_done_twice",
            "tests/evidence/test_bucket_restore_model.py::test_another_writer_is_never_overwritten_unseen",
            "tests/evidence/test_bucket_restore_seaweed.py::"
            "test_a_writer_that_goes_on_never_loses_a_version_and_is_told_of",
        ),
        "Played on a model of S3 and on SeaweedFS, not on Amazon's. SeaweedFS does not hold a copy's "
        "condition until the copy is done: what others wrote in that moment is below it, and is told "
        "afterwards.",
    ),
)
