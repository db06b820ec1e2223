"""Scenarios: which moments the bucket is protected for, and which cause ends that."""

from __future__ import annotations

from tests.kit.evidencescene import Scene
from tests.kit.models3 import at
from tests.kit.models3.entries import LifecycleRule
from walarchiver.core.bucketwindow import DAY_MS, Alarm, Cause, Certainty, Window, window_of
from walarchiver.core.version import StoreMs


def _window(scene: Scene, retention_days: int | None = None) -> Window:
    return window_of(
        scene.side.index.observations(),
        now=scene.bucket.date(),
        prefix=scene.evidence.location.prefix,
        retention_ms=None if retention_days is None else retention_days * DAY_MS,
    )


def _certainty(scene: Scene, when: str) -> Certainty:
    return _window(scene).verdict(StoreMs(at(when))).certainty


def test_while_versioning_was_suspended_nothing_is_promised_and_the_cause_is_named(
    model_scene: Scene,
) -> None:
    """[scenario 3]"""
    app, key = model_scene.app, model_scene.key("k")
    app.server.clock.set("2026-03-02T10:00:00Z")
    model_scene.scan()
    app.put(key, b"kept", "2026-03-02T10:10:00Z")
    app.set_versioning("Suspended", "2026-03-02T10:20:00Z")
    model_scene.scan()
    app.put(key, b"destroyed by the next", "2026-03-02T10:30:00Z")
    app.put(key, b"null", "2026-03-02T10:40:00Z")
    assert [warned.alarm for warned in _window(model_scene).alarms] == [Alarm.NOT_VERSIONED]
    app.set_versioning("Enabled", "2026-03-02T10:50:00Z")
    model_scene.scan()
    app.put(key, b"newest", "2026-03-02T11:00:00Z")
    app.server.clock.set("2026-03-02T11:10:00Z")
    model_scene.scan()
    verdict = _window(model_scene).verdict(StoreMs(at("2026-03-02T10:35:00Z")))
    assert verdict.certainty is Certainty.NOT_VERSIONED
    assert "Suspended" in verdict.told
    assert _certainty(model_scene, "2026-03-02T11:05:00Z") is Certainty.COMPLETE
    (hole,) = _window(model_scene).excluded
    assert hole.cause is Cause.VERSIONING
    assert _window(model_scene).alarms == ()


def test_a_rule_that_leaves_less_than_the_retention_is_an_alarm_with_both_numbers(model_scene: Scene) -> None:
    """[scenario 18]"""
    app = model_scene.app
    app.set_lifecycle(
        LifecycleRule("keep-a-week", noncurrent_days=7),
        LifecycleRule("elsewhere", prefix="other/", noncurrent_days=1),
    )
    model_scene.moment()
    model_scene.scan()
    (warned,) = _window(model_scene, retention_days=30).alarms
    assert warned.alarm is Alarm.RETENTION
    for told in ("keep-a-week", "7 days", "30 days"):
        assert told in warned.told
    assert _window(model_scene, retention_days=7).alarms == ()


def test_what_a_rule_may_have_removed_is_not_promised_even_where_it_is_still_there(
    model_scene: Scene,
) -> None:
    """[scenario 18] Amazon removes later than it may; that is a bonus, not a promise."""
    app, key = model_scene.app, model_scene.key("k")
    app.server.clock.set("2026-03-01T00:00:00Z")
    app.set_lifecycle(LifecycleRule("keep-a-week", noncurrent_days=7))
    model_scene.scan()
    old = app.put(key, b"1", "2026-03-02T10:00:00Z")
    app.put(key, b"2", "2026-03-05T10:00:00Z")
    app.server.clock.set("2026-03-20T10:00:00Z")
    model_scene.scan()
    assert _certainty(model_scene, "2026-03-03T00:00:00Z") is Certainty.BEYOND_LIFECYCLE
    assert model_scene.ids_as_of(at("2026-03-03T00:00:00Z")) == {"k": old.version_id}
    assert _window(model_scene).start.cause is Cause.LIFECYCLE


def test_nothing_that_the_window_promises_is_ever_removed_by_the_rule(model_scene: Scene) -> None:
    """[scenario 18] Over three weeks of writes and nightly purges: every promised moment is complete."""
    app, key = model_scene.app, model_scene.key("k")
    app.server.clock.set("2026-03-01T06:00:00Z")
    app.set_lifecycle(LifecycleRule("three", noncurrent_days=3))
    model_scene.scan()
    written = {}
    for _ in range(20):
        app.server.clock.step(hours=13)
        entry = app.put(key, b"x")
        written[entry.version_id] = entry.modified_ms
        app.server.clock.step(hours=11)
        app.run_lifecycle()
        model_scene.scan()
        window = _window(model_scene)
        for since, until in window.reachable:
            for moment in range(since, until + 1, 3_600_000):
                for row in model_scene.as_of(moment).values():
                    assert not row.is_gone, f"{row.entry.version_id} was promised at {moment}"
    assert any(row.is_gone for row in model_scene.side.index.history(key))
