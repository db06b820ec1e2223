"""Scenarios: restores, looked at from the outside: the wire, and what lies in the bucket before and after."""

from __future__ import annotations

import pytest

from restore.bucketjournal import Outcome
from restore.core.bucketactions import Kind, Undelete
from tests.kit.bucketscene import actions_in
from tests.kit.evidencescene import Scene
from tests.kit.models3 import faults
from tests.kit.models3.bodies import Body
from walarchiver.bucketports import KeyRange
from walarchiver.core.version import Entry, EntryKind


def _everything(scene: Scene) -> dict[str, Entry]:
    """All versions and markers, by id."""
    return {
        f"{entry.key} {entry.version_id}": entry
        for page in scene.bucket.list_entries(KeyRange())
        for entry in page
    }


def test_of_many_objects_the_deleted_ones_come_back_with_one_write_each(scene: Scene) -> None:
    """[scenario 12] Here 5 of 40; 5 of 1000 in test_bucket_restore_model.py."""
    for number in range(40):
        scene.evidence.put(f"{number:02}", b"%d" % number)
    moment = scene.moment()
    lost = ("03", "11", "17", "28", "39")
    for name in lost:
        scene.evidence.delete(name)
    scene.evidence.put("05", b"newer")
    before = _everything(scene)
    report = scene.restores.carry_out(scene.restores.plan(moment, missing_only=True))
    after = _everything(scene)
    assert report.outcomes == {Outcome.DONE: 5}
    assert {after[name].key for name in after.keys() - before.keys()} == {scene.key(name) for name in lost}
    assert not before.keys() - after.keys()
    assert scene.content("05") == b"newer"
    scene.restores.carry_out(scene.restores.plan(moment, missing_only=True))
    assert _everything(scene).keys() == after.keys()


def test_a_plan_alone_sends_no_writing_request_and_reads_no_body(model_scene: Scene) -> None:
    """[scenario 13]"""
    for name in ("changed", "deleted", "kept"):
        model_scene.evidence.put(name, b"1", Tagging="a=b")
    moment = model_scene.moment()
    model_scene.evidence.put("changed", b"22")
    model_scene.evidence.delete("deleted")
    model_scene.evidence.put("later", b"1")
    model_scene.model.log.mark()
    plan = model_scene.restores.plan(moment, delete_newer=True, undelete=Undelete.MARKERS)
    kinds = {action.kind for action in actions_in(plan).values()}
    assert kinds == {Kind.COPY, Kind.REMOVE_MARKERS, Kind.MARK_DELETED}
    assert model_scene.model.log.writes() == []
    assert model_scene.model.log.body_reads() == []


def test_what_came_later_stays_unless_it_is_to_be_hidden_and_then_its_version_stays(scene: Scene) -> None:
    """[scenario 14]"""
    scene.evidence.put("kept", b"1")
    moment = scene.moment()
    later = scene.evidence.put("later", b"1")
    plan = scene.restores.plan(moment)
    assert actions_in(plan)[scene.key("later")].kind is Kind.EXTRA
    scene.restores.carry_out(plan)
    assert scene.content("later") == b"1"
    scene.restores.carry_out(scene.restores.plan(moment, delete_newer=True))
    assert scene.content("later") is None
    assert later in {entry.version_id for entry in scene.evidence.listed("later")}


def test_undeleting_by_markers_removes_nothing_but_what_was_just_listed_as_a_marker(
    model_scene: Scene,
) -> None:
    """[scenario 15]"""
    for name in ("a", "b"):
        model_scene.evidence.put(name, name.encode())
    moment = model_scene.moment()
    for name in ("a", "a", "b"):
        model_scene.evidence.delete(name)
    plan = model_scene.restores.plan(moment, undelete=Undelete.MARKERS)
    model_scene.model.log.mark()
    model_scene.restores.carry_out(plan)
    assert (model_scene.content("a"), model_scene.content("b")) == (b"a", b"b")
    requests = list(model_scene.model.log)
    deletions = [one for one in requests if one.operation == "DeleteObject"]
    assert len(deletions) == 3
    for deletion in deletions:
        earlier = [
            one
            for one in requests[: requests.index(deletion)]
            if one.operation == "ListObjectVersions" and one.call.query["prefix"] == deletion.key
        ]
        assert earlier, f"{deletion.key} was not listed right before"
    assert [one.operation for one in model_scene.model.log.writes()] == ["DeleteObject"] * 3


@pytest.mark.parametrize("size", [7, 6 * 2**30], ids=["one request", "in parts"])
def test_a_restored_object_has_the_properties_of_its_version(model_scene: Scene, size: int) -> None:
    """[scenario 16] Six gigabytes are above what one copy takes; contract tests have it on every server."""
    app, key = model_scene.app, model_scene.key("k")
    wanted = app.put(
        key,
        Body.zeros(size),
        headers={"Content-Type": "image/png", "Cache-Control": "no-store"},
        metadata={"case": "7"},
        tags={"kind": "photo"},
    )
    moment = model_scene.moment()
    app.put(key, b"later", headers={"Content-Type": "text/plain"}, tags={"kind": "other"})
    plan = model_scene.restores.plan(moment)
    model_scene.restores.carry_out(plan)
    current = app.current(key)
    assert current is not None and current.version_id != wanted.version_id
    assert current.body.size == size
    assert current.props.headers == wanted.props.headers
    assert (current.props.metadata, current.props.tags) == ({"case": "7"}, {"kind": "photo"})
    model_scene.model.log.mark()
    model_scene.restores.carry_out(plan)
    if current.parts == 0:  # else only the journal knows that it is a copy: the ETag is another
        model_scene.restores.carry_out(model_scene.restores.plan(moment))
    assert model_scene.model.log.writes() == []


def test_an_archived_version_is_planned_as_thaw_and_none_of_its_bytes_is_asked_for(
    model_scene: Scene,
) -> None:
    """[scenario 17]"""
    app, key = model_scene.app, model_scene.key("cold")
    app.put(key, b"cold", storage_class="DEEP_ARCHIVE")
    tiered = app.put(model_scene.key("tiered"), b"tiered", storage_class="INTELLIGENT_TIERING")
    tiered.archive_status = "ARCHIVE_ACCESS"
    moment = model_scene.moment()
    for name in (key, model_scene.key("tiered")):
        app.delete(name)
    model_scene.model.log.mark()
    plan = model_scene.restores.plan(moment)
    assert {action.kind for action in actions_in(plan).values()} == {Kind.THAW}
    thawed = plan.tally().kinds[Kind.THAW]
    assert (thawed.keys, thawed.bytes) == (2, 10)
    report = model_scene.restores.carry_out(plan)
    assert report.left == {Kind.THAW: 2}
    assert model_scene.model.log.body_reads() == []
    assert model_scene.model.log.writes() == []


def test_nothing_is_ever_removed_and_every_write_carries_a_condition(model_scene: Scene) -> None:
    """What must never happen, seen on the wire of a restore with every kind of action."""
    for name in ("changed", "deleted", "hidden"):
        model_scene.evidence.put(name, b"1")
    moment = model_scene.moment()
    model_scene.evidence.put("changed", b"22")
    model_scene.evidence.delete("deleted")
    model_scene.evidence.delete("hidden")
    model_scene.evidence.put("hidden", b"3")
    model_scene.evidence.put("later", b"1")
    plan = model_scene.restores.plan(moment, delete_newer=True)
    before = _everything(model_scene)
    model_scene.model.log.mark()
    model_scene.restores.carry_out(plan)
    for one in model_scene.model.log.writes():
        assert one.version_id is None
        assert one.operation in ("CopyObject", "DeleteObject")
        assert {"if-match", "if-none-match"} & one.call.headers.keys(), one
    assert not before.keys() - _everything(model_scene).keys()


def test_a_writer_in_between_wins_and_the_other_keys_are_restored(model_scene: Scene) -> None:
    """Their version is never covered without being listed first."""
    for name in ("a", "b"):
        model_scene.evidence.put(name, b"old")
    moment = model_scene.moment()
    for name in ("a", "b"):
        model_scene.evidence.put(name, b"new")
    plan = model_scene.restores.plan(moment)
    app, key = model_scene.app, model_scene.key("a")
    model_scene.model.faults.script(
        faults.Meanwhile(lambda: app.put(key, b"theirs")), operation="CopyObject", key=key
    )
    report = model_scene.restores.carry_out(plan)
    assert report.outcomes == {Outcome.DONE: 2}
    contents = [entry.body.content() for entry in app.history(key)]
    assert contents == [b"old", b"theirs", b"new", b"old"]
    kinds = [entry.kind for entry in model_scene.evidence.listed("b")]
    assert kinds == [EntryKind.VERSION] * 3
