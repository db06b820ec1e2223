"""A scan in parts: cut where it can be cut, checked, at once, ended early and gone on with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit.chance import RealClock
from tests.kit.evidence import Evidence
from tests.kit.evidencescene import Scene
from tests.kit.models3 import faults
from walarchiver.bucketports import KeyRange, VersionIndex
from walarchiver.clock import SystemRandom
from walarchiver.core.version import Entry
from walarchiver.errors import (
    BucketNotVersioned,
    IndexUnavailable,
    ListingIncomplete,
    StoreDenied,
    StoreMisbehaves,
)
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Progress, Scan, Scanned, ScanOptions
from walarchiver.evidence.scanplace import read_place
from walarchiver.storage import S3Location
from walarchiver.storage.evidence import S3EvidenceBucket


@pytest.fixture
def index(tmp_path: Path) -> Iterator[VersionIndex]:
    with closing(open_index(tmp_path / "scanned.sqlite")) as opened:
        yield opened


def truth(evidence: Evidence) -> dict[str, list[Entry]]:
    """Everything, from pages so long that nothing is lost between them."""
    found: dict[str, list[Entry]] = {}
    for page in evidence.open().list_entries(KeyRange()):
        for entry in page:
            found.setdefault(entry.key, []).append(entry)
    return found


def indexed(index: VersionIndex, keys: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    return {key: [row.placed.entry for row in index.history(key) if not row.is_gone] for key in keys}


@pytest.fixture
def treacherous(evidence: Evidence) -> dict[str, list[Entry]]:
    """Names on which SeaweedFS 4.48 loses keys between pages; some are deleted, some have odd characters."""
    for number in range(45):
        for tail in (".json", "-sig", "/x"):
            evidence.put(f"p/case-{number}{tail}", b"%d" % number)
        evidence.delete(f"p/case-{number}{('.json', '-sig', '/x')[number % 3]}")
    for name in ("a b+c/ü&%25?", "nl\nx", "ü/😀", "+", "a%2Fb", "k" * 900):
        evidence.put(f"o/{name}")
    _let_a_second_pass(evidence)
    return truth(evidence)


def _let_a_second_pass(evidence: Evidence) -> None:
    """What was written in the very second of a listing may have come after it, and is no loss."""
    if evidence.model is not None:
        evidence.model.clock.step(seconds=5)
        return
    bucket = evidence.open()
    until = bucket.date() + 2000
    while bucket.date() < until:
        pass


@pytest.mark.parametrize(("page", "part"), [(1000, 20_000), (100, 40), (7, 20_000), (7, 50)])
def test_the_index_is_whole_although_the_server_loses_keys_between_pages(
    evidence: Evidence, treacherous: dict[str, list[Entry]], index: VersionIndex, page: int, part: int
) -> None:
    scanned = Scan(
        evidence.open(), index, ScanOptions(page_entries=page, part_entries=part, listings=2)
    ).run()
    assert (scanned.entries, scanned.gone, scanned.revived) == (45 * 4 + 6, 0, 0)
    assert indexed(index, treacherous) == treacherous
    listed = {one.key for found in evidence.open().list_entries(KeyRange(), page_entries=7) for one in found}
    loses = listed != set(treacherous)
    if page == 7:
        assert scanned.carefully == loses
    told = [json.loads(seen.value) for seen in index.observations() if seen.kind == "scan"]
    assert [one.get("loses_keys", False) for one in told] == [scanned.carefully]


@pytest.fixture
def hundred(model_scene: Scene) -> Scene:
    """A hundred keys in four folders and beside them."""
    for number in range(100):
        model_scene.app.put(
            model_scene.key(f"{'abcd'[number % 4]}/{number:02}" if number % 5 else f"{number:02}")
        )
    model_scene.app.delete(model_scene.key("a/04"))
    return model_scene


def _options(scene: Scene, **changes: object) -> ScanOptions:
    settings: dict[str, object] = {"page_entries": 5, "part_entries": 10, "place": scene.folder / "place"}
    return ScanOptions(**(settings | changes))  # type: ignore[arg-type]


def _assert_whole(scene: Scene, index: VersionIndex, scanned: Scanned) -> None:
    everything = truth(scene.evidence)
    assert (scanned.keys, scanned.entries) == (100, 101)
    assert indexed(index, everything) == everything


@pytest.mark.parametrize("listings", [1, 4])
def test_parts_of_folders_listed_at_once_make_one_index(
    hundred: Scene, index: VersionIndex, listings: int
) -> None:
    scanned = Scan(hundred.bucket, index, _options(hundred, listings=listings)).run()
    _assert_whole(hundred, index, scanned)
    assert (scanned.added, scanned.gone, scanned.resumed, scanned.carefully) == (101, 0, False, False)
    assert not (hundred.folder / "place").exists()


def test_a_scan_that_failed_goes_on_where_it_had_come_to(hundred: Scene, index: VersionIndex) -> None:
    hundred.model.faults.script(
        faults.Refuse("AccessDenied"), operation="ListObjectVersions", after=20, times=None
    )
    began = hundred.model.clock.now_ms
    with pytest.raises(StoreDenied):
        Scan(hundred.bucket, index, _options(hundred, listings=2)).run()
    place = read_place(hundred.folder / "place", bucket=hundred.bucket.url, prefix=hundred.bucket.prefix)
    assert place is not None
    assert 0 < place.keys < 100
    assert not [seen for seen in index.observations() if seen.kind == "scan"]
    hundred.model.faults.heal()
    hundred.moment()
    hundred.model.log.mark()
    scanned = Scan(hundred.bucket, index, _options(hundred, listings=2)).run()
    _assert_whole(hundred, index, scanned)
    assert scanned.resumed
    assert scanned.added == 101 - place.entries
    assert scanned.asked == began // 1000 * 1000, "what was listed first, was asked for then"


def test_whoever_waits_can_end_it_and_it_goes_on_later(hundred: Scene, index: VersionIndex) -> None:
    told: list[Progress] = []

    def interrupt(now: Progress) -> None:
        told.append(now)
        if now.keys:
            raise KeyboardInterrupt

    held = threading.Event()
    hundred.model.faults.script(faults.Hold(held), operation="ListObjectVersions", after=10, times=None)
    try:
        with pytest.raises(KeyboardInterrupt):
            Scan(hundred.bucket, index, _options(hundred), interrupt).run()
        assert 0 < told[-1].keys < 100
    finally:
        hundred.model.faults.heal()
        held.set()
    scanned = Scan(hundred.bucket, index, _options(hundred)).run()
    _assert_whole(hundred, index, scanned)
    assert scanned.resumed


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema":2}', '{"schema":1,"shards":5}', "\x00"])
def test_a_place_that_says_nothing_is_as_none(hundred: Scene, index: VersionIndex, content: str) -> None:
    (hundred.folder / "place").write_text(content)
    scanned = Scan(hundred.bucket, index, _options(hundred)).run()
    _assert_whole(hundred, index, scanned)
    assert not scanned.resumed


def test_a_scan_that_was_begun_long_ago_is_not_gone_on_with(hundred: Scene, index: VersionIndex) -> None:
    """It would vouch for a time long past."""
    hundred.model.faults.script(
        faults.Refuse("AccessDenied"), operation="ListObjectVersions", after=20, times=None
    )
    with pytest.raises(StoreDenied):
        Scan(hundred.bucket, index, _options(hundred)).run()
    hundred.model.faults.heal()
    begun = hundred.model.clock.step(days=8)
    scanned = Scan(hundred.bucket, index, _options(hundred)).run()
    _assert_whole(hundred, index, scanned)
    assert not scanned.resumed
    assert begun // 1000 * 1000 <= scanned.asked <= hundred.model.clock.now_ms


def test_a_place_that_cannot_be_written_ends_the_scan_and_nothing_is_vouched_for(
    hundred: Scene, index: VersionIndex
) -> None:
    (hundred.folder / "a file").write_text("")
    with pytest.raises(IndexUnavailable):
        Scan(hundred.bucket, index, _options(hundred, place=hundred.folder / "a file" / "place")).run()
    assert not [seen for seen in index.observations() if seen.kind == "scan"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_breaks_down_leaves_no_complete_scan(hundred: Scene, index: VersionIndex) -> None:
    class Breaking(type(index)):  # type: ignore[misc]  # whichever engine it is
        def ingest(self, keys: KeyRange, *_: object, **__: object) -> None:
            raise ZeroDivisionError(keys.first)

    index.__class__ = Breaking
    with pytest.raises(ListingIncomplete, match="not listed to its end"):
        Scan(hundred.bucket, index, _options(hundred)).run()
    assert not [seen for seen in index.observations() if seen.kind == "scan"]


def test_a_part_ends_at_no_key_behind_which_a_walk_by_folders_would_lose_others(
    evidence: Evidence, index: VersionIndex
) -> None:
    """SeaweedFS shows nothing of `case/` in either listing of what is behind `case-07`."""
    for name in (*(f"case-{number:02}" for number in range(30)), "case/x", "case/y", "case0"):
        evidence.put(f"in/{name}")
    evidence.put("out/z")
    if evidence.model is not None:
        evidence.model.log.mark()
    Scan(evidence.open(), index, ScanOptions(page_entries=5, part_entries=10)).run()
    everything = truth(evidence)
    assert indexed(index, everything) == everything
    if evidence.model is not None:
        asked = [logged.call.query for logged in evidence.model.log.of("ListObjectVersions")]
        own = [one["key-marker"] for one in asked if one.get("key-marker") and "version-id-marker" not in one]
        assert not [marker for marker in own if marker.startswith(evidence.key("in/case-"))]


def test_a_bucket_that_was_never_versioned_is_refused(modelled: Evidence, index: VersionIndex) -> None:
    assert modelled.model is not None
    modelled.model.app("plain", versioned=False)
    plain = S3EvidenceBucket(S3Location("plain", ""), modelled.options, RealClock(), SystemRandom())
    with closing(plain), pytest.raises(BucketNotVersioned):
        Scan(plain, index).run()
    assert [seen.value for seen in index.observations() if seen.kind == "versioning"] == ["Off"]


def test_a_prefix_is_listed_alone(hundred: Scene, index: VersionIndex) -> None:
    scanned = Scan(hundred.bucket, index, _options(hundred)).run(hundred.key("a/"))
    everything = {
        key: own for key, own in truth(hundred.evidence).items() if key.startswith(hundred.key("a/"))
    }
    assert scanned.keys == len(everything)
    assert indexed(index, everything) == everything
    assert json.loads(index.observations()[-1].value)["prefix"] == hundred.key("a/")


def test_a_listing_that_turns_back_ends_the_scan_and_changes_nothing(
    hundred: Scene, index: VersionIndex
) -> None:
    Scan(hundred.bucket, index, _options(hundred)).run()
    before = index.changes
    hundred.model.faults.script(faults.RepeatPage(), operation="ListObjectVersions", after=1, times=None)
    with pytest.raises((StoreMisbehaves, ListingIncomplete)):
        Scan(hundred.bucket, index, _options(hundred, part_entries=1000)).run()
    assert index.changes == before


def test_many_keys_that_are_gone_at_once_are_seen_by_a_second_listing_not_one_by_one(
    hundred: Scene, index: VersionIndex
) -> None:
    Scan(hundred.bucket, index, _options(hundred, part_entries=1000)).run()
    for key, own in truth(hundred.evidence).items():
        for entry in own:
            hundred.app.purge_version(key, entry.version_id)
    hundred.moment()
    hundred.model.log.mark()
    scanned = Scan(hundred.bucket, index, _options(hundred, part_entries=1000)).run()
    assert (scanned.entries, scanned.gone, scanned.alone) == (0, 101, 0)
    assert hundred.model.log.count("ListObjectVersions") < 10
