"""Scenarios: notifications as hints, on the model, which tells of every change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from tests.kit.chance import RealClock
from tests.kit.evidencescene import Scene
from tests.kit.models3.feed import key_of
from walarchiver.bucketports import EventFeed, VersionIndex
from walarchiver.clock import SystemRandom
from walarchiver.core.bucketwindow import Certainty, Window, window_of
from walarchiver.core.version import MultipartTime, Row, StoreMs, Trait
from walarchiver.evidence.events import Followed, Follower
from walarchiver.evidence.openfeed import open_feed
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Scan, ScanOptions

NAMES = ("a", "b c+d", "e/ü", "e/f", "g")


def _queue(scene: Scene) -> EventFeed:
    return open_feed(
        scene.model.queue_url,
        scene.evidence.options,
        RealClock(),
        SystemRandom(),
        aside=scene.folder / "aside.jsonl",
    )


def _folder(scene: Scene) -> EventFeed:
    """The messages of the feed, exported into a folder, and gone from the queue."""
    place = scene.folder / "messages"
    place.mkdir(exist_ok=True)
    number = len(list(place.rglob("*.jsonl")))
    lines = "".join(json.dumps(message) + "\n" for message in scene.model.feed.take(1_000_000))
    (place / f"{number:04}.jsonl").write_text(lines)
    return open_feed(
        place.as_uri(), scene.evidence.options, RealClock(), SystemRandom(), aside=scene.folder / "aside"
    )


def _follow(scene: Scene, feed: EventFeed, *, place: Path | None = None) -> Followed:
    with closing(feed):
        return Follower(scene.bucket, scene.side.index, feed, place=place).drain()


def _freshly_listed(scene: Scene) -> Iterator[VersionIndex]:
    index = open_index(scene.folder / "fresh.sqlite")
    with closing(index):
        Scan(scene.bucket, index, ScanOptions(multipart_time=MultipartTime.INITIATION)).run()
        yield index


def _there(index: VersionIndex, scene: Scene, name: str) -> list[tuple[str, int]]:
    rows: tuple[Row, ...] = index.history(scene.key(name))
    return [
        (row.entry.version_id, row.entry.modified)
        for row in rows
        if not row.is_gone and not row.placed.traits & Trait.REINSTATED
    ]


def _live(scene: Scene, chance: Random, steps: int) -> None:
    """What an application may do."""
    app = scene.app
    for _ in range(steps):
        name = scene.key(chance.choice(NAMES))
        history = app.history(name)
        app.server.clock.step(seconds=chance.choice((0, 0.3, 2)))
        match chance.randrange(5):
            case 0 | 1:
                app.put(name, b"%d" % chance.randrange(9))
            case 2:
                app.delete(name)
            case 3 if history:
                app.purge_version(name, chance.choice(history).version_id)
            case _:
                upload = app.start_upload(name)
                app.server.clock.step(seconds=3)
                app.finish_upload(upload, b"part")


@pytest.mark.parametrize("open_it", [_queue, _folder], ids=["sqs", "folder"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_repeated_and_reordered_events_leave_the_index_as_a_fresh_listing_has_it(
    model_scene: Scene, seed: int, open_it: object
) -> None:
    """[scenario 8]"""
    assert callable(open_it)
    chance = Random(seed)
    model_scene.scan(multipart_time=MultipartTime.INITIATION)
    for round_number in range(3):
        _live(model_scene, chance, 25)
        model_scene.model.feed.repeat()
        model_scene.model.feed.shuffle(seed + round_number)
        followed = _follow(model_scene, open_it(model_scene))
        assert followed.aside == 0
        assert model_scene.model.feed.messages == []
    for fresh in _freshly_listed(model_scene):
        for name in NAMES:
            assert _there(model_scene.side.index, model_scene, name) == _there(fresh, model_scene, name)


def test_the_end_of_an_upload_comes_from_its_event_and_the_state_is_certain(model_scene: Scene) -> None:
    """[scenario 8] The listing shows the time of its start."""
    app, key = model_scene.app, model_scene.key("film")
    model_scene.scan(multipart_time=MultipartTime.INITIATION)
    upload = app.start_upload(key, "2026-03-02T12:00:00Z")
    made = app.finish_upload(upload, b"body", when="2026-03-02T12:30:00Z")
    _follow(model_scene, _queue(model_scene))
    app.server.clock.set("2026-03-02T13:00:00Z")
    (row,) = model_scene.side.index.history(key)
    minutes = (row.placed.begin - made.modified_ms) / 60_000
    assert 30 <= minutes < 31
    during = StoreMs(row.placed.begin - 600_000)
    assert list(model_scene.side.index.uncertain(during)) == []
    assert model_scene.ids_as_of(during) == {}


def test_a_message_that_is_no_event_is_put_aside_and_the_others_count(model_scene: Scene) -> None:
    """[scenario 8]"""
    model_scene.scan()
    made = model_scene.evidence.put("k", b"1")
    feed = model_scene.model.feed
    feed.messages.insert(0, {**feed.messages[0], "Body": "{}", "ReceiptHandle": "strange"})
    feed.messages.insert(
        0, {**feed.messages[1], "Body": '{"Event": "s3:TestEvent"}', "ReceiptHandle": "test"}
    )
    followed = _follow(model_scene, _queue(model_scene))
    assert (followed.messages, followed.aside) == (3, 1)
    assert feed.messages == []
    assert [row.entry.version_id for row in model_scene.side.index.history(model_scene.key("k"))] == [made]


def test_events_tell_of_a_purge_at_once(model_scene: Scene) -> None:
    """[scenario 7] The time of a removal is then known to the span between two drains."""
    made = model_scene.evidence.put("k", b"1")
    model_scene.moment()
    model_scene.scan()
    model_scene.model.feed.drop()
    model_scene.evidence.purge("k", made)
    model_scene.moment()
    assert _follow(model_scene, _queue(model_scene)).gone == 1
    (row,) = model_scene.side.index.history(model_scene.key("k"))
    assert row.is_gone


def _window(scene: Scene) -> Window:
    observations = scene.side.index.observations()
    return window_of(observations, now=scene.bucket.date(), prefix=scene.evidence.location.prefix)


def test_after_an_hour_without_events_the_gap_is_named_until_the_bucket_is_listed(model_scene: Scene) -> None:
    """[scenario 9]"""
    place = model_scene.folder / "drained.json"
    model_scene.scan()
    model_scene.model.queue.kept_s = 1800
    _follow(model_scene, _queue(model_scene), place=place)
    assert _window(model_scene).excluded == ()
    model_scene.model.clock.step(seconds=1)
    lost = model_scene.evidence.put("k", b"1")
    model_scene.model.clock.step(hours=1)
    in_the_gap = StoreMs(model_scene.bucket.date() - 1_000_000)
    followed = _follow(model_scene, _queue(model_scene), place=place)
    assert followed.gap_since is not None
    assert model_scene.side.index.history(model_scene.key("k")) == ()
    model_scene.model.clock.step(seconds=5)
    verdict = _window(model_scene).verdict(in_the_gap)
    assert verdict.certainty is Certainty.COVERAGE_GAP
    model_scene.scan()
    assert _window(model_scene).verdict(in_the_gap).certainty is Certainty.COMPLETE
    assert model_scene.ids_as_of(in_the_gap) == {"k": lost}


def test_lost_events_are_made_good_by_the_next_listing(model_scene: Scene) -> None:
    """[scenario 9] Nobody knows of them: the index is as it was, and right again after a scan."""
    model_scene.scan()
    model_scene.evidence.put("known", b"1")
    model_scene.evidence.put("unknown", b"1")
    assert model_scene.model.feed.drop(model_scene.key("unknown")) == 1
    assert {key_of(one) for one in model_scene.model.feed.messages} == {model_scene.key("known")}
    _follow(model_scene, _queue(model_scene))
    now = model_scene.moment()
    assert set(model_scene.ids_as_of(now)) == {"known"}
    model_scene.scan()
    assert set(model_scene.ids_as_of(now)) == {"known", "unknown"}
