"""Scenarios: what the bucket held at a moment, from a listing of it now."""

from __future__ import annotations

import pytest

from tests.kit.evidencescene import Scene
from tests.kit.models3 import at as at_ms
from tests.kit.models3.bodies import Body
from walarchiver.bucketports import Doubt
from walarchiver.core.version import MultipartTime, StoreMs, Trait


def at(text: str) -> StoreMs:
    return StoreMs(at_ms(text))


def test_a_key_is_its_first_version_then_its_second_then_nothing(scene: Scene) -> None:
    """[scenario 1]"""
    before = scene.moment()
    first = scene.evidence.put("k", b"1")
    after_first = scene.moment()
    second = scene.evidence.put("k", b"2")
    after_second = scene.moment()
    scene.evidence.delete("k")
    after_all = scene.moment()
    scene.scan()
    assert scene.ids_as_of(before) == {}
    assert scene.ids_as_of(after_first) == {"k": first}
    assert scene.ids_as_of(after_second) == {"k": second}
    assert scene.ids_as_of(after_all) == {}
    assert scene.side.index.totals(after_second, prefix=scene.evidence.location.prefix).objects == 1


def test_an_object_from_before_versioning_is_found_under_its_null_version(model_scene: Scene) -> None:
    """[scenario 2] On the model: a server of yours cannot be put back to before it had versions."""
    app, key = model_scene.app, model_scene.key("k")
    app.server.state.bucket(app.bucket).versioning = "Off"
    app.put(key, b"old", "2026-03-02T10:00:00Z")
    app.set_versioning("Enabled", "2026-03-02T11:00:00Z")
    newer = app.put(key, b"new", "2026-03-02T12:00:00Z")
    model_scene.scan()
    assert model_scene.ids_as_of(at("2026-03-02T09:00:00Z")) == {}
    (row,) = model_scene.as_of(at("2026-03-02T11:59:59Z")).values()
    assert row.entry.version_id == "null"
    assert row.placed.traits & Trait.NULL
    assert model_scene.ids_as_of(at("2026-03-02T12:00:01Z")) == {"k": newer.version_id}


@pytest.mark.parametrize("evidence", ["seaweedfs"], indirect=True)
def test_a_null_version_of_seaweed_is_found_too(scene: Scene) -> None:
    """[scenario 2] Keys that end in `/` have the id `null` there, whatever versioning is."""
    scene.evidence.raw.put_object(Bucket=scene.evidence.location.bucket, Key=scene.key("folder/"), Body=b"")
    scene.evidence.put("folder/k", b"1")
    now = scene.moment()
    scene.scan()
    found = scene.as_of(now)
    assert found["folder/k"].entry.version_id != "null"
    if "folder/" in found:
        assert found["folder/"].entry.version_id == "null"


def test_of_two_puts_in_one_second_the_later_counts_and_the_second_is_flagged(model_scene: Scene) -> None:
    """[scenario 6]"""
    app, key = model_scene.app, model_scene.key("k")
    first = app.put(key, b"1", "2026-03-02T10:00:07.100Z")
    second = app.put(key, b"2", "2026-03-02T10:00:07.900Z")
    app.put(model_scene.key("quiet"), b"", "2026-03-02T10:00:01Z")
    app.server.clock.set("2026-03-02T11:00:00Z")
    model_scene.scan()
    moment = at("2026-03-02T10:00:07Z")
    assert model_scene.ids_as_of(moment)["k"] == second.version_id
    assert first.version_id not in model_scene.ids_as_of(moment - 1).values()
    (unsure,) = model_scene.side.index.uncertain(moment)
    assert (unsure.key, Doubt.BOUNDARY in unsure.doubts) == (key, True)
    assert list(model_scene.side.index.uncertain(at("2026-03-02T10:00:30Z"))) == []


def test_what_was_written_and_deleted_within_one_second_is_absent_and_in_the_order_of_the_server(
    scene: Scene,
) -> None:
    """[scenario 6] put, delete, put, put, delete: merging by time alone would call it present."""
    for act in (scene.evidence.put, scene.evidence.delete, scene.evidence.put):
        act("k")
    last = scene.evidence.put("k")
    scene.evidence.delete("k")
    scene.evidence.put("other")
    now = scene.moment()
    scene.scan()
    assert set(scene.ids_as_of(now)) == {"other"}
    history = scene.side.index.history(scene.key("k"))
    assert [row.entry.version_id for row in history] == [
        entry.version_id for entry in scene.evidence.listed("k")
    ]
    assert history[1].entry.version_id == last


def test_an_upload_that_ended_after_the_moment_is_doubted_and_settled_by_its_event(
    model_scene: Scene,
) -> None:
    """User Guide, "Working with object metadata": listed under the time of its initiation."""
    app, key = model_scene.app, model_scene.key("film")
    upload = app.start_upload(key, "2026-03-02T10:00:00Z")
    made = app.finish_upload(upload, b"body", when="2026-03-02T10:30:00Z")
    app.server.clock.set("2026-03-02T12:00:00Z")
    model_scene.scan(multipart_time=MultipartTime.INITIATION)
    during = at("2026-03-02T10:10:00Z")
    (unsure,) = model_scene.side.index.uncertain(during)
    assert unsure.doubts == (Doubt.MULTIPART,)
    model_scene.side.index.complete_upload(key, made.version_id, made_at := at("2026-03-02T10:30:00Z"))
    assert model_scene.ids_as_of(during) == {}
    assert list(model_scene.side.index.uncertain(during)) == []
    assert model_scene.ids_as_of(made_at) == {"film": made.version_id}


def test_an_upload_overtaken_by_a_delete_was_never_there(model_scene: Scene) -> None:
    """As reported in boto/boto3#4476: begun before a delete, ended after it, never readable."""
    app, key = model_scene.app, model_scene.key("film")
    app.put(key, b"old", "2026-03-02T09:00:00Z")
    upload = app.start_upload(key, "2026-03-02T10:00:00Z")
    app.delete(key, "2026-03-02T10:10:00Z")
    made = app.finish_upload(upload, b"body", when="2026-03-02T10:30:00Z")
    app.server.clock.set("2026-03-02T12:00:00Z")
    model_scene.scan(multipart_time=MultipartTime.INITIATION)
    model_scene.side.index.complete_upload(key, made.version_id, at("2026-03-02T10:30:00Z"))
    for when in ("2026-03-02T10:20:00Z", "2026-03-02T10:40:00Z"):
        assert model_scene.ids_as_of(at(when)) == {}
    assert set(model_scene.ids_as_of(at("2026-03-02T10:05:00Z")).values()) != {made.version_id}


def test_a_replica_shows_what_its_source_held_not_what_had_arrived(model_scene: Scene) -> None:
    """User Guide, "What does Amazon S3 replicate?": a replica's time is its source's."""
    app = model_scene.app
    app.server.state.make_bucket("source", versioned=True)
    app.server.clock.set("2026-03-02T10:00:00Z")
    state, key = app.server.state, model_scene.key("k")
    made = state.put("source", key, Body.of(b"1"))
    app.server.clock.set("2026-03-02T15:00:00Z")
    state.replicate(("source", key, made.version_id), app.bucket)
    model_scene.scan()
    assert model_scene.ids_as_of(at("2026-03-02T10:00:01Z")) == {"k": made.version_id}
    (row,) = model_scene.side.index.history(key)
    assert row.first_seen >= at("2026-03-02T15:00:00Z")


def _clock_set_back(model_scene: Scene) -> None:
    """Two writes, the later one with the earlier time: a server's clock was set back, or hosts differ."""
    app, key = model_scene.app, model_scene.key("k")
    earlier = app.put(key, b"first", "2026-03-02T10:00:10Z")
    later = app.put(key, b"second", "2026-03-02T10:00:05Z")
    assert app.history(key) == [later, earlier]
    app.server.clock.set("2026-03-02T10:00:20Z")


def test_where_the_servers_order_contradicts_its_times_the_key_is_doubted(model_scene: Scene) -> None:
    _clock_set_back(model_scene)
    model_scene.scan()
    history = model_scene.side.index.history(model_scene.key("k"))
    assert len(history) == 2
    assert all(row.placed.traits & Trait.ORDER_CONFLICT for row in history)
    (unsure,) = model_scene.side.index.uncertain(at("2026-03-02T10:00:15Z"))
    assert Doubt.ORDER in unsure.doubts


def test_such_a_key_stays_doubted_when_something_newer_lies_on_top(model_scene: Scene) -> None:
    _clock_set_back(model_scene)
    model_scene.app.delete(model_scene.key("k"), "2026-03-02T11:00:00Z")
    model_scene.app.server.clock.set("2026-03-02T11:00:10Z")
    model_scene.scan()
    assert list(model_scene.side.index.uncertain(at("2026-03-02T10:00:15Z"))) != []


@pytest.mark.parametrize("modelled", [{"whole_seconds": False}], indirect=True)
def test_a_server_that_gives_fractions_of_seconds_is_believed_to_the_millisecond(model_scene: Scene) -> None:
    """[scenario 6] Not Amazon's; some other servers do."""
    app, key = model_scene.app, model_scene.key("k")
    first = app.put(key, b"1", "2026-03-02T10:00:07.100Z")
    second = app.put(key, b"2", "2026-03-02T10:00:07.900Z")
    app.server.clock.set("2026-03-02T10:00:20Z")
    model_scene.scan()
    for when, version_id in (("07.099", None), ("07.100", first.version_id), ("07.899", first.version_id)):
        assert model_scene.ids_as_of(at(f"2026-03-02T10:00:{when}Z")).get("k") == version_id
    assert model_scene.ids_as_of(at("2026-03-02T10:00:07.900Z")) == {"k": second.version_id}
