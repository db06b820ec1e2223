"""Scenarios: versions that were removed for ever are remembered, with when and why."""

from __future__ import annotations

import pytest

from restore.core.bucketactions import Kind
from tests.kit.bucketscene import actions_in
from tests.kit.evidencescene import Scene
from tests.kit.models3 import at
from tests.kit.models3.entries import LifecycleRule


def test_a_purge_between_two_listings_is_remembered_with_the_range_of_its_time(scene: Scene) -> None:
    """[scenario 7]"""
    lost = scene.evidence.put("k", b"1")
    moment = scene.moment()
    scene.evidence.put("k", b"2")
    first = scene.scan()
    scene.moment()
    scene.evidence.purge("k", lost)
    scene.moment()
    second = scene.scan()
    assert second.gone == 1
    (row,) = scene.as_of(moment).values()
    assert (row.entry.version_id, row.is_gone) == (lost, True)
    assert row.gone_after is not None and row.gone_by is not None
    assert first.asked <= row.gone_after < row.gone_by <= second.asked + 1000
    totals = scene.side.index.totals(moment, prefix=scene.evidence.location.prefix)
    assert (totals.objects, totals.gone) == (1, 1)
    third = scene.scan()
    assert (third.gone, third.revived) == (0, 0)
    assert scene.as_of(moment)["k"].gone_by == row.gone_by


def test_a_restore_tells_what_is_lost_since_when_and_brings_back_the_rest(scene: Scene) -> None:
    """[scenario 7]"""
    lost = scene.evidence.put("lost", b"1")
    scene.evidence.put("there", b"1")
    moment = scene.moment()
    for name in ("lost", "there"):
        scene.evidence.delete(name)
    scene.scan()
    scene.moment()
    scene.evidence.purge("lost", lost)
    plan = scene.restores.plan(moment)
    action = actions_in(plan)[scene.key("lost")]
    assert action.kind is Kind.LOST
    assert action.loss is not None
    assert action.loss.version_id == lost
    assert action.loss.existed_from <= moment < action.loss.existed_until
    assert action.loss.purged_after is not None and action.loss.purged_by is not None
    report = scene.restores.carry_out(plan)
    assert report.left == {Kind.LOST: 1}
    assert (scene.content("there"), scene.content("lost")) == (b"1", None)


@pytest.mark.parametrize(("day", "gone"), [("2026-03-09T23:59:59Z", 0), ("2026-03-10T00:00:00Z", 1)])
def test_a_lifecycle_rule_takes_versions_and_is_named_as_the_cause(
    model_scene: Scene, day: str, gone: int
) -> None:
    """[scenario 7] User Guide, "Lifecycle configuration elements": from the successor's day on."""
    app, key = model_scene.app, model_scene.key("k")
    app.set_lifecycle(LifecycleRule("week", noncurrent_days=7))
    app.put(key, b"1", "2026-03-01T10:00:00Z")
    app.put(key, b"2", "2026-03-02T10:00:00Z")
    model_scene.scan()
    assert len(app.run_lifecycle(day)) == gone
    assert model_scene.scan().gone == gone
    plan = model_scene.restores.plan(at("2026-03-01T12:00:00Z"))
    action = actions_in(plan)[key]
    assert (action.kind is Kind.LOST) is bool(gone)
    if action.loss is not None:
        assert model_scene.as_of(at("2026-03-01T12:00:00Z"))["k"].is_gone


def test_an_expiration_only_hides_and_the_object_comes_back(model_scene: Scene) -> None:
    """User Guide, "Expiring objects": a delete marker is added, the version stays."""
    app, key = model_scene.app, model_scene.key("k")
    app.set_lifecycle(LifecycleRule("hide", expire_days=1))
    app.put(key, b"1", "2026-03-01T10:00:00Z")
    app.run_lifecycle("2026-03-05T00:00:00Z")
    app.server.clock.set("2026-03-05T12:00:00Z")
    assert model_scene.content("k") is None
    model_scene.restores.carry_out(model_scene.restores.plan(at("2026-03-02T00:00:00Z")))
    assert model_scene.content("k") == b"1"


def test_a_marker_that_was_removed_is_remembered_too(scene: Scene) -> None:
    """[scenario 7] Else the time in which the key was deleted would look as if it had been there."""
    kept = scene.evidence.put("k", b"1")
    before = scene.moment()
    marker = scene.evidence.delete("k")
    deleted = scene.moment()
    scene.scan()
    scene.moment()
    scene.evidence.purge("k", marker)
    scene.moment()
    assert scene.scan().gone == 1
    now = scene.moment()
    assert scene.ids_as_of(before) == {"k": kept}
    assert scene.ids_as_of(deleted) == {}
    assert scene.ids_as_of(now) == {"k": kept}
