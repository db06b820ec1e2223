"""Restores that cannot be whole at once, into other places, and their plans and journals: on the model."""

from __future__ import annotations

import pytest

from restore.bucketjournal import Outcome
from restore.bucketplan import read_plan
from restore.core.bucketactions import Kind
from tests.evidence.restoreworld import AFTER, BEFORE, NOW, T, World, lay_out
from tests.evidence.restoreworld import world as world
from tests.kit.bucketscene import Side, actions_in
from tests.kit.models3 import at
from walarchiver.errors import (
    BucketIndexStale,
    BucketNotVersioned,
    Locked,
    MalformedObject,
)
from walarchiver.storage.evidencecopy import CopyLimits

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
