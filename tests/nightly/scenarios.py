"""The twenty scenarios that a recovery service has to live through, and the tests that play each.

test_scenarios.py sees to it that every test named here exists; `./dev test --nightly scenarios` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass

MAJORS = "tests/matrix/test_majors.py::test_everything_archived_comes_back_exactly"
MOMENTS = "tests/matrix/test_moments.py::"
OUTAGES = "tests/integration/test_outages.py::"
REFUSALS = "tests/integration/test_refusals.py::"
WALDUMP = "tests/core/test_wal_of_postgres.py::"
HARD = "tests/nightly/test_scenes.py::"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of them; `left_out` says plainly what of it no test plays, and why."""

    number: int
    text: str
    tests: tuple[str, ...]
    left_out: str = ""


SCENARIOS = (
    Scenario(
        1,
        "PostgreSQL 14 to 18 with 1, 16 and 64 MB segments: 50 are each stored once, byte-equal, in order",
        (
            MAJORS,
            "tests/nightly/test_segments.py::test_fifty_segments_of_every_size_are_stored_once_and_whole",
        ),
    ),
    Scenario(
        2,
        "the store is down for two minutes: every call ends with 1, then all arrive in order",
        (
            f"{OUTAGES}test_segments_arrive_in_order_after_every_kind_of_outage",
            f"{HARD}test_two_minutes_without_a_store_cost_nothing_but_time",
        ),
    ),
    Scenario(
        3,
        "PostgreSQL crashes while a segment is uploaded: offered again it succeeds, one good object is there",
        (f"{HARD}test_a_crash_of_postgresql_during_an_upload_leaves_one_good_object",),
    ),
    Scenario(
        4,
        "another content under a stored name: refused, alarmed, the first content untouched",
        (f"{REFUSALS}test_the_same_bytes_again_succeed_and_other_bytes_are_a_divergence",),
    ),
    Scenario(
        5,
        "a hole in the archive: a moment behind it is refused before anything starts, by the segment's name",
        (f"{MOMENTS}test_a_moment_behind_a_hole_is_refused_by_the_segments_name",),
    ),
    Scenario(
        6,
        "the store does not answer during a restore: 200, a stop, the second start ends at the same LSN",
        (f"{OUTAGES}test_recovery_stops_at_any_doubt_goes_on_without_it_and_ends_at_the_true_end",),
    ),
    Scenario(
        7,
        "a stored object with a flipped byte is never handed out; another version is tried, else 200",
        (
            f"{OUTAGES}test_recovery_stops_at_any_doubt_goes_on_without_it_and_ends_at_the_true_end",
            "tests/simulation/test_repository.py::"
            "test_a_damaged_newest_version_is_passed_over_for_the_genuine_one",
            "tests/simulation/test_fetcher_files.py::test_a_damaged_object_is_never_placed",
        ),
    ),
    Scenario(
        8,
        "T a microsecond before, at and behind a commit, in several zones",
        (f"{MOMENTS}test_a_microsecond_decides_in_every_zone",),
    ),
    Scenario(
        9,
        "T behind the last commit: restorable once samples prove it, refused with the provable time before",
        (
            f"{MOMENTS}test_idle_seconds_are_restorable_once_proven_and_refused_before",
            "tests/integration/test_unreachable.py::test_seconds_of_an_idle_server_are_restorable",
            "tests/simulation/test_horizon.py::"
            "test_an_idle_servers_samples_are_due_after_a_minute_then_at_doubling_intervals",
        ),
        "the real servers idle for seconds; an hour is played only with a simulated clock",
    ),
    Scenario(
        10,
        "T inside a base backup: the older backup is chosen; without one, refusal",
        (f"{MOMENTS}test_a_moment_inside_a_backup_needs_an_older_one",),
    ),
    Scenario(
        11,
        "a restore point's name used twice: both are listed, each can be restored",
        (f"{MOMENTS}test_a_name_used_twice_is_asked_back_and_each_one_can_be_restored",),
    ),
    Scenario(12, "just before a DELETE amid concurrent commits", (MAJORS,)),
    Scenario(
        13,
        "failover, the old primary goes on: timelines keep their own rows, the default follows production",
        (
            "tests/matrix/test_failover.py::test_after_a_failover_each_timeline_gives_its_own_rows",
            "tests/shells/test_production.py::"
            "test_an_old_primary_does_not_take_the_default_back_by_writing_on",
        ),
    ),
    Scenario(
        14,
        "a promoted standby: .history and .partial are stored, the fork is crossed by the child's segment",
        (
            "tests/matrix/test_failover.py::test_after_a_failover_each_timeline_gives_its_own_rows",
            "tests/matrix/test_forks.py::"
            "test_a_hidden_first_segment_of_the_child_stops_recovery_until_it_is_back",
        ),
    ),
    Scenario(
        15,
        "a transaction prepared at T is reported and restored as prepared, a later one is absent",
        (MAJORS,),
    ),
    Scenario(
        16,
        "our reading of WAL and pg_waldump's agree, record by record, on 14 to 18",
        (
            f"{WALDUMP}test_the_record_list_is_that_of_pg_waldump",
            f"{WALDUMP}test_every_event_has_the_kind_xid_and_time_that_pg_waldump_prints",
        ),
    ),
    Scenario(
        17,
        "DROP, TRUNCATE, VACUUM FULL and DELETE are told apart, with xid, time and LSN",
        ("tests/integration/test_find.py::test_each_loss_is_told_apart_with_its_target",),
    ),
    Scenario(
        18,
        "a drill on production's host: nothing of it is archived, no TCP port opens, its folder goes",
        (
            f"{HARD}test_a_restored_server_on_the_same_host_archives_nothing_and_opens_no_port",
            "tests/matrix/test_peek.py::test_a_peek_shows_the_moment_touches_nothing_and_leaves_nothing",
        ),
        "`walarchiver drill` is not built yet: a restored instance and `peek` are played in its place",
    ),
    Scenario(
        19,
        "a WAL receiver is killed and started again: the bytes are contiguous",
        (),
        "belongs to streaming, which is not built yet",
    ),
    Scenario(
        20,
        "pg_ctl succeeded while replay goes on: not yet said to be restored",
        (f"{MOMENTS}test_a_server_that_is_up_is_not_yet_restored",),
    ),
)
