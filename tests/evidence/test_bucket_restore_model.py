"""A bucket restored on the model of S3: what is written and what is not, and what other writers change."""

from __future__ import annotations

import pytest

from restore.bucketjournal import Outcome
from restore.bucketplan import read_plan, wants_by_name
from restore.core.bucketactions import Kind, Undelete
from restore.core.bucketstate import Flag
from tests.evidence.restoreworld import AFTER, BEFORE, NOW, T, World, lay_out
from tests.evidence.restoreworld import world as world
from tests.kit.bucketscene import KeptPieces, actions_in
from tests.kit.models3 import at
from tests.kit.models3.faults import ErrorIn200, LoseAnswer, Meanwhile, Refuse, Reset
from walarchiver.core.version import StoreMs
from walarchiver.errors import (
    BucketNotVersioned,
    StoreDenied,
    StoreUnavailable,
)


def test_making_a_plan_sends_no_writing_request_and_says_what_each_key_needs(world: World) -> None:
    lay_out(world)
    world.server.log.mark()
    plan = world.scene.plan(at(T))
    assert world.server.log.writes() == []
    assert world.server.log.body_reads() == []
    kinds = {key: action.kind for key, action in actions_in(plan).items()}
    assert kinds == {"changed": Kind.COPY, "deleted": Kind.COPY, "later": Kind.EXTRA}
    assert plan.end.unchanged == 2
    assert read_plan(plan.path) == plan


def test_a_restore_in_place_reaches_the_moment_keeps_every_version_and_a_second_run_writes_nothing(
    world: World,
) -> None:
    lay_out(world)
    versions = {one.version_id for key in ("changed", "deleted", "same") for one in world.app.history(key)}
    report = world.scene.carry_out(world.scene.plan(at(T)))
    assert report.outcomes == {Outcome.DONE: 2, Outcome.LEFT: 1}
    assert (report.verified, report.faults) == (2, [])
    assert {key: world.content(key) for key in world.app.current_keys()} == {
        "kept": b"kept",
        "changed": b"old",
        "deleted": b"deleted",
        "same": b"same",
        "later": b"later",
    }
    after = {one.version_id for key in ("changed", "deleted", "same") for one in world.app.history(key)}
    assert versions < after
    world.server.log.mark()
    second = world.scene.plan(at(T))
    world.scene.carry_out(second)
    assert world.server.log.writes() == []


def test_with_delete_newer_what_came_later_gets_a_marker_and_its_version_stays(world: World) -> None:
    lay_out(world)
    version = world.app.history("later")[0].version_id
    plan = world.scene.plan(at(T), delete_newer=True)
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.DONE: 3}
    top, below = world.app.history("later")
    assert top.is_marker
    assert below.version_id == version
    world.server.log.mark()
    world.scene.carry_out(world.scene.plan(at(T), delete_newer=True))
    assert world.server.log.writes() == []


def test_five_deleted_objects_of_a_thousand_cost_five_writes(world: World) -> None:
    for number in range(1000):
        world.app.put(f"case/{number:04}", b"%d" % number, BEFORE)
    for number in (3, 141, 592, 653, 999):
        world.app.delete(f"case/{number:04}", AFTER)
    world.app.put("case/0007", b"newer", AFTER)
    world.now()
    world.server.log.mark()
    report = world.scene.carry_out(world.scene.plan(at(T), missing_only=True))
    assert report.outcomes == {Outcome.DONE: 5}
    assert [one.operation for one in world.server.log.writes()] == ["CopyObject"] * 5
    assert world.content("case/0007") == b"newer"
    world.server.log.mark()
    world.scene.carry_out(world.scene.plan(at(T), missing_only=True))
    assert world.server.log.writes() == []


def test_keys_that_a_database_names_come_back_from_their_last_version_and_unknown_ones_are_lost(
    world: World,
) -> None:
    lay_out(world)
    world.scene.own.scan()
    now = StoreMs(at(NOW))
    wants = wants_by_name(world.scene.own.index, ["deleted", "never", "kept"], now)
    plan = world.scene.plan(now, missing_only=True, wants=wants)
    actions = actions_in(plan)
    assert (actions["deleted"].kind, actions["deleted"].flags) == (Kind.COPY, (Flag.LAST_VERSION,))
    assert actions["never"].kind is Kind.LOST
    world.scene.carry_out(plan)
    assert world.content("deleted") == b"deleted"


# --- delete markers ----------------------------------------------------------------------------------------


def test_undeleting_removes_only_markers_and_tells_the_sink_before(world: World) -> None:
    world.app.put("a", b"a", BEFORE)
    markers = [world.app.delete("a", AFTER), world.app.delete("a", AFTER)]
    world.now()
    sink = KeptPieces()
    world.scene.sink = sink
    told: list[bytes] = []
    look = Meanwhile(lambda: told.append(b"".join(sink.pieces.values())))
    world.server.faults.script(look, operation="DeleteObject")
    plan = world.scene.plan(at(T), undelete=Undelete.MARKERS)
    world.server.log.mark()
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.DONE: 1}
    ids = [one.version_id for one in markers if one is not None]
    assert sorted(one.version_id or "" for one in world.server.log.writes()) == sorted(ids)
    assert all(name.encode() in told[0] for name in ids), "every marker was in the repository before"
    assert [one.version_id for one in world.app.history("a")] == [world.app.history("a")[0].version_id]
    assert world.content("a") == b"a"


def test_an_object_written_on_top_of_the_markers_meanwhile_is_seen_before_anything_is_removed(
    world: World,
) -> None:
    world.app.put("a", b"a", BEFORE)
    world.app.delete("a", AFTER)
    world.now()
    plan = world.scene.plan(at(T), undelete=Undelete.MARKERS)
    world.app.put("a", b"theirs")
    world.server.log.mark()
    report = world.scene.carry_out(plan)
    assert world.server.log.count("DeleteObject") == 0
    assert report.replanned_found == 1
    assert world.content("a") == b"a"
    assert [one.is_marker for one in world.app.history("a")] == [False, False, True, False]


# --- somebody else writes ----------------------------------------------------------------------------------


def test_another_writer_is_never_overwritten_unseen(world: World) -> None:
    world.app.put("a", b"old", BEFORE)
    world.app.put("a", b"new", AFTER)
    world.now()
    plan = world.scene.plan(at(T))
    theirs = []
    write = Meanwhile(lambda: theirs.append(world.app.put("a", b"theirs %d" % len(theirs))))
    world.server.faults.script(write, operation="CopyObject", times=2)
    world.server.log.mark()
    report = world.scene.carry_out(plan)
    copies = world.server.log.of("CopyObject")
    assert [one.status for one in copies] == [412, 412, 200]
    assert report.replanned_found == 1
    assert report.replanned[0].replaced == theirs[-1].version_id
    listed = [one.number for one in world.server.log.of("ListObjectVersions")]
    assert listed[0] > copies[0].number, "the key was listed between two tries"
    assert {one.version_id for one in theirs} <= {one.version_id for one in world.app.history("a")}


def test_a_key_that_somebody_writes_again_and_again_is_left(world: World) -> None:
    world.app.put("a", b"old", BEFORE)
    world.app.put("a", b"new", AFTER)
    world.now()
    plan = world.scene.plan(at(T))
    write = Meanwhile(lambda: world.app.put("a", b"theirs %d" % len(world.app.history("a"))))
    world.server.faults.script(write, operation="CopyObject", times=None)
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.CONTENDED: 1}
    assert world.content("a") == b"theirs 5"


def test_in_missing_only_a_key_that_came_back_meanwhile_is_left_alone(world: World) -> None:
    world.app.put("a", b"old", BEFORE)
    world.app.delete("a", AFTER)
    world.now()
    plan = world.scene.plan(at(T), missing_only=True)
    world.app.put("a", b"theirs")
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.UNCHANGED: 1}
    assert world.content("a") == b"theirs"


def test_what_was_written_on_top_after_us_is_found_by_the_verification(world: World) -> None:
    world.app.put("a", b"old", BEFORE)
    world.app.put("a", b"new", AFTER)
    world.now()
    plan = world.scene.plan(at(T))
    world.server.faults.script(
        Meanwhile(lambda: world.app.put("a", b"later")), operation="ListObjectVersions", key="", times=1
    )
    report = world.scene.carry_out(plan)
    assert (report.faults_found, report.by_others) == (1, 1)


# --- the store fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [LoseAnswer(), Reset(), Refuse("SlowDown"), ErrorIn200()])
def test_a_copy_whose_answer_was_lost_is_not_made_twice(world: World, fault: object) -> None:
    world.app.put("a", b"old", BEFORE)
    world.app.put("a", b"new", AFTER)
    world.now()
    plan = world.scene.plan(at(T))
    world.server.faults.script(fault, operation="CopyObject")  # type: ignore[arg-type]
    report = world.scene.carry_out(plan)
    assert report.count(Outcome.DONE, Outcome.UNCHANGED) == 1
    assert len(world.app.history("a")) == 3
    assert world.content("a") == b"old"


def test_a_store_that_denies_ends_the_run_and_what_was_done_is_not_done_again(world: World) -> None:
    for number in range(20):
        world.app.put(f"{number:02}", b"old %d" % number, BEFORE)
        world.app.put(f"{number:02}", b"new", AFTER)
    world.now()
    plan = world.scene.plan(at(T))
    world.server.faults.script(Refuse("AccessDenied"), operation="CopyObject", after=7, times=None)
    with pytest.raises(StoreDenied):
        world.scene.carry_out(plan, threads=1)
    assert sum(len(world.app.history(f"{number:02}")) == 3 for number in range(20)) == 7
    world.server.faults.heal()
    world.server.log.mark()
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.DONE: 13}
    assert report.verified == 20
    assert world.server.log.count("CopyObject") == 13


def test_nothing_is_written_once_versioning_is_suspended(world: World) -> None:
    lay_out(world)
    plan = world.scene.plan(at(T))
    world.app.set_versioning("Suspended")
    world.server.log.mark()
    with pytest.raises(BucketNotVersioned):
        world.scene.carry_out(plan)
    assert world.server.log.writes() == []
    with pytest.raises(BucketNotVersioned):
        world.scene.plan(at(T))


def test_versioning_suspended_in_the_middle_stops_at_the_first_answer_without_a_version(world: World) -> None:
    for name in "abc":
        world.app.put(name, b"old", BEFORE)
        world.app.put(name, b"new", AFTER)
    world.now()
    plan = world.scene.plan(at(T))
    suspend = Meanwhile(lambda: world.app.set_versioning("Suspended"))
    world.server.faults.script(suspend, operation="CopyObject")
    world.server.log.mark()
    with pytest.raises(BucketNotVersioned):
        world.scene.carry_out(plan, threads=1)
    assert world.server.log.count("CopyObject") == 1


def test_a_store_that_does_not_answer_ends_the_run(world: World) -> None:
    lay_out(world)
    plan = world.scene.plan(at(T))
    world.server.faults.script(Reset(), operation="CopyObject", times=None)
    with pytest.raises(StoreUnavailable):
        world.scene.carry_out(plan)
