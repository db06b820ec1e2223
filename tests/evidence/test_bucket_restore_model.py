"""A bucket restored on the model of S3: what is written and what is not, and what other writers change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from restore.bucketjournal import Outcome
from restore.bucketplan import read_plan, wants_by_name
from restore.core.bucketactions import Kind, Undelete
from restore.core.bucketstate import Flag
from tests.kit.bucketscene import BucketScene, KeptPieces, Side, actions_in
from tests.kit.chance import RealClock
from tests.kit.models3 import at
from tests.kit.models3.app import App
from tests.kit.models3.faults import ErrorIn200, LoseAnswer, Meanwhile, Refuse, Reset
from tests.kit.models3.fixtures import MakeModel, TestedModel
from walarchiver.clock import SystemRandom
from walarchiver.core.version import StoreMs
from walarchiver.errors import (
    BucketIndexStale,
    BucketNotVersioned,
    Locked,
    MalformedObject,
    StoreDenied,
    StoreUnavailable,
)
from walarchiver.evidence.openindex import open_index
from walarchiver.storage import S3Location
from walarchiver.storage.evidence import S3EvidenceBucket
from walarchiver.storage.evidencecopy import CopyLimits

T = "2026-03-01T12:00:00Z"
BEFORE, AFTER, NOW = "2026-03-01T11:00:00Z", "2026-03-01T13:00:00Z", "2026-03-01T14:00:00Z"


@dataclass
class World:
    """A model server, the application, and the scene."""

    server: TestedModel
    app: App
    scene: BucketScene
    stack: ExitStack = field(repr=False)

    def bucket(self, name: str, *, limits: CopyLimits | None = None) -> S3EvidenceBucket:
        bucket = S3EvidenceBucket(
            S3Location.parse(f"s3://{name}"),
            self.server.options(),
            RealClock(),
            SystemRandom(),
            limits=limits,
        )
        self.stack.callback(bucket.close)
        return bucket

    def now(self, when: str = NOW) -> None:
        self.server.clock.now_ms = at(when)

    def content(self, key: str, app: App | None = None) -> bytes | None:
        current = (app or self.app).current(key)
        return None if current is None else b"".join(current.body.chunks())


@pytest.fixture
def world(make_model_s3: MakeModel, tmp_path: Path) -> Iterator[World]:
    server = make_model_s3()
    with ExitStack() as stack:
        app = server.app("evidence")
        index = open_index(tmp_path / "index.sqlite")
        stack.callback(index.close)
        found = World(server, app, None, stack)  # type: ignore[arg-type]
        found.scene = BucketScene(Side(found.bucket("evidence"), index), tmp_path, stack)
        yield found


def lay_out(world: World) -> None:
    """One key of each fate between T and now."""
    app = world.app
    app.put("kept", b"kept", BEFORE)
    app.put("changed", b"old", BEFORE)
    app.put("deleted", b"deleted", BEFORE)
    app.put("same", b"same", BEFORE)
    app.put("changed", b"new", AFTER)
    app.delete("deleted", AFTER)
    app.put("same", b"same", AFTER)
    app.put("later", b"later", AFTER)
    world.now()


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


# --- what cannot be restored at once -----------------------------------------------------------------------


def test_a_purged_version_is_reported_lost_and_the_others_are_restored(world: World) -> None:
    lay_out(world)
    version = world.app.history("changed")[1].version_id
    world.scene.own.scan()
    world.app.purge_version("changed", version)
    plan = world.scene.plan(at(T))
    action = actions_in(plan)["changed"]
    assert action.kind is Kind.LOST
    assert action.loss is not None
    assert (action.loss.existed_from, action.loss.existed_until) == (at(BEFORE), at(AFTER))
    report = world.scene.carry_out(plan)
    assert report.left == {Kind.LOST: 1, Kind.EXTRA: 1}
    assert world.content("deleted") == b"deleted"


def test_a_version_purged_after_the_plan_is_lost_too(world: World) -> None:
    lay_out(world)
    plan = world.scene.plan(at(T))
    world.app.purge_version("changed", world.app.history("changed")[1].version_id)
    report = world.scene.carry_out(plan)
    assert report.left == {Kind.LOST: 1, Kind.EXTRA: 1}
    assert world.content("changed") == b"new"


def test_an_archived_version_is_asked_back_only_with_thaw_and_copied_once_it_is_readable(
    world: World,
) -> None:
    world.app.put("cold", b"cold", BEFORE, storage_class="GLACIER")
    world.app.put("cold", b"new", AFTER)
    world.now()
    world.server.log.mark()
    plan = world.scene.plan(at(T))
    assert actions_in(plan)["cold"].kind is Kind.THAW
    assert world.scene.carry_out(plan).left == {Kind.THAW: 1}
    assert world.server.log.writes() == []
    assert world.server.log.body_reads() == []
    report = world.scene.carry_out(plan, thaw_days=3)
    assert report.outcomes == {Outcome.THAW_REQUESTED: 1}
    assert [one.operation for one in world.server.log.writes()] == ["RestoreObject"]
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.DONE: 1}
    assert world.content("cold") == b"cold"


def test_a_version_under_the_customers_key_is_reported_and_not_tried(world: World) -> None:
    world.app.put("sealed", b"sealed", BEFORE, encryption="customer")
    world.app.put("sealed", b"new", AFTER)
    world.now()
    plan = world.scene.plan(at(T))
    assert actions_in(plan)["sealed"].kind is Kind.NEEDS_KEY
    world.server.log.mark()
    assert world.scene.carry_out(plan).left == {Kind.NEEDS_KEY: 1}
    assert world.server.log.writes() == []


def test_a_version_under_a_key_service_is_copied_once_although_no_etag_tells(world: World) -> None:
    world.app.put("kms", b"same", BEFORE, encryption="aws:kms", key_id="k1")
    world.app.put("kms", b"else", AFTER, encryption="aws:kms", key_id="k1")
    world.now()
    plan = world.scene.plan(at(T))
    assert world.scene.carry_out(plan).outcomes == {Outcome.DONE: 1}
    world.server.log.mark()
    assert world.scene.plan(at(T)).end.actions == 0
    assert world.server.log.writes() == []


# --- other places ------------------------------------------------------------------------------------------


def test_everything_comes_into_another_bucket_below_a_prefix_and_what_is_there_else_is_reported(
    world: World,
) -> None:
    lay_out(world)
    copy = world.server.app("copy")
    copy.put("back/stranger", b"stranger")
    world.scene.target = world.scene.side(world.bucket("copy"), "copy")
    plan = world.scene.plan(at(T), to_prefix="back/")
    assert actions_in(plan)["stranger"].kind is Kind.EXTRA
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.DONE: 4, Outcome.LEFT: 1}
    assert {key: world.content(key, copy) for key in copy.current_keys()} == {
        "back/kept": b"kept",
        "back/changed": b"old",
        "back/deleted": b"deleted",
        "back/same": b"same",
        "back/stranger": b"stranger",
    }
    world.server.log.mark()
    world.scene.carry_out(world.scene.plan(at(T), to_prefix="back/"))
    assert world.server.log.writes() == []


def test_an_unversioned_bucket_is_not_restored_into(world: World) -> None:
    lay_out(world)
    world.server.app("plain", versioned=False)
    world.scene.target = world.scene.side(world.bucket("plain"), "plain")
    with pytest.raises(BucketNotVersioned):
        world.scene.plan(at(T))


def test_after_a_total_loss_everything_comes_from_the_second_bucket(world: World) -> None:
    lay_out(world)
    world.scene.own.scan()
    backup = world.server.app("backup")
    for key in ("kept", "changed", "same"):
        for one in reversed(world.app.history(key)):
            backup.put(key, b"".join(one.body.chunks()))
    for key in ("kept", "changed", "deleted", "same", "later"):
        for one in world.app.history(key):
            world.app.purge_version(key, one.version_id)
    world.scene.second = world.scene.side(world.bucket("backup"), "backup")
    plan = world.scene.plan(at(T))
    kinds = {key: action.kind for key, action in actions_in(plan).items()}
    assert kinds == {"kept": Kind.COPY, "changed": Kind.COPY, "same": Kind.COPY, "deleted": Kind.LOST}
    world.scene.carry_out(plan)
    assert {key: world.content(key) for key in world.app.current_keys()} == {
        "kept": b"kept",
        "changed": b"old",
        "same": b"same",
    }


def test_a_copy_in_parts_keeps_everything_and_a_crash_before_the_journal_does_not_make_it_twice(
    world: World,
) -> None:
    limits = CopyLimits(whole_max=1024, part=5 * 1024**2)
    world.scene.own = Side(world.bucket("evidence", limits=limits), world.scene.own.index)
    old, new = b"old" * 4096, b"new" * 4096
    world.app.put(
        "large", old, BEFORE, headers={"Content-Type": "image/jpeg"}, metadata={"case": "7"}, tags={"a": "b"}
    )
    world.app.put("large", new, AFTER)
    world.now()
    plan = world.scene.plan(at(T))
    world.scene.carry_out(plan)
    current = world.app.current("large")
    assert current is not None
    assert (current.props.headers.get("Content-Type"), current.props.metadata, current.props.tags) == (
        "image/jpeg",
        {"case": "7"},
        {"a": "b"},
    )
    assert world.content("large") == old
    assert "-" in world.scene.own.bucket.detail("large", current.version_id).etag  # type: ignore[union-attr]
    world.server.log.mark()
    assert world.scene.plan(at(T)).end.actions == 0, "the journal knows that it is a copy"
    journal = plan.path.with_name("journal.jsonl")
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    report = world.scene.carry_out(plan)
    assert report.outcomes == {Outcome.UNCHANGED: 1}
    assert world.server.log.writes() == []
    assert len(world.server.log.body_reads()) == 2, "only the bytes could tell"


# --- plans and journals ------------------------------------------------------------------------------------


def test_a_changed_plan_is_refused(world: World) -> None:
    lay_out(world)
    plan = world.scene.plan(at(T))
    raw = plan.path.read_bytes()
    plan.path.chmod(0o600)
    for spoiled in (raw.replace(b"changed", b"chanqed"), raw[:-1], raw.rsplit(b"\n", 2)[0] + b"\n"):
        plan.path.write_bytes(spoiled)
        with pytest.raises(MalformedObject):
            read_plan(plan.path)


def test_no_plan_is_made_without_a_listing_that_reaches_the_moment(world: World) -> None:
    lay_out(world)
    with pytest.raises(BucketIndexStale):
        world.scene.plan(at(NOW) + 60_000)


def test_two_runs_of_one_plan_at_a_time_are_refused(world: World) -> None:
    lay_out(world)
    plan = world.scene.plan(at(T))
    journal = world.scene.journal(plan)
    try:
        with pytest.raises(Locked):
            world.scene.carry_out(plan)
    finally:
        journal.close()
