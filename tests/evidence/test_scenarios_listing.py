"""Scenarios: listings that must be whole, and servers whose listings are not."""

from __future__ import annotations

import pytest

from tests.kit.evidencescene import Scene
from tests.kit.models3 import faults
from walarchiver.bucketports import KeyRange
from walarchiver.errors import BucketIndexStale, ListingIncomplete, StoreMisbehaves, WalarchiverError


def _entries(scene: Scene, page: int) -> list[tuple[str, str]]:
    key = scene.key("k")
    pages = scene.bucket.list_entries(KeyRange(key, key), page_entries=page)
    return [(entry.key, entry.version_id) for found in pages for entry in found]


def test_2500_entries_of_one_key_are_one_sequence_whatever_the_page(model_scene: Scene) -> None:
    """[scenario 4]"""
    app, key = model_scene.app, model_scene.key("k")
    written = []
    for number in range(2500):
        entry = app.delete(key) if number % 5 == 4 else app.put(key)
        assert entry is not None
        written.append((key, entry.version_id))
    assert _entries(model_scene, 1000) == _entries(model_scene, 7) == written[::-1]
    for page in (1000, 97):
        scanned = model_scene.scan(page_entries=page, part_entries=500)
        assert (scanned.entries, scanned.gone, scanned.revived) == (2500, 0, 0)
    history = model_scene.side.index.history(key)
    assert [(row.entry.key, row.entry.version_id) for row in history] == written[::-1]


def test_many_entries_of_one_key_are_one_sequence_on_every_server(scene: Scene) -> None:
    """[scenario 4] Fewer, as real servers take their time."""
    written = [scene.evidence.put("k") if number % 5 else scene.evidence.delete("k") for number in range(120)]
    expected = [(scene.key("k"), version_id) for version_id in written[::-1]]
    assert _entries(scene, 1000) == _entries(scene, 7) == expected
    assert scene.scan(page_entries=7).entries == 120
    assert [row.entry.version_id for row in scene.side.index.history(scene.key("k"))] == written[::-1]


@pytest.fixture
def filled(model_scene: Scene) -> Scene:
    """Forty keys, indexed once; every fourth is deleted, of which current listings say nothing."""
    for number in range(40):
        model_scene.app.put(model_scene.key(f"{number:02}"), b"%d" % number)
        if number % 4 == 0:
            model_scene.app.delete(model_scene.key(f"{number:02}"))
    model_scene.moment()
    model_scene.scan()
    return model_scene


def _gone(scene: Scene) -> int:
    rows = (row for number in range(40) for row in scene.side.index.history(scene.key(f"{number:02}")))
    return sum(row.is_gone for row in rows)


def test_a_lost_page_never_makes_anything_count_as_removed(filled: Scene) -> None:
    """[scenario 5] The page behind comes in place of the one asked for, with plausible markers."""
    for after in range(4):
        filled.model.faults.script(faults.LosePage(), operation="ListObjectVersions", after=after)
        scanned = filled.scan(page_entries=10)
        filled.model.faults.heal()
        assert (scanned.gone, scanned.keys, _gone(filled)) == (0, 40, 0)
    assert filled.scan(page_entries=10).keys == 40


def test_a_listing_that_ends_too_early_never_makes_anything_count_as_removed(filled: Scene) -> None:
    """[scenario 5]"""
    for after in range(4):
        filled.model.faults.script(faults.EndEarly(), operation="ListObjectVersions", after=after)
        scanned = filled.scan(page_entries=10)
        filled.model.faults.heal()
        assert (scanned.gone, scanned.keys, _gone(filled)) == (0, 40, 0)


def test_a_repeated_page_ends_the_scan_and_the_next_one_is_whole(filled: Scene) -> None:
    """[scenario 5]"""
    filled.model.faults.script(faults.RepeatPage(), operation="ListObjectVersions", after=2)
    with pytest.raises(StoreMisbehaves):
        filled.scan(page_entries=10)
    assert filled.scan(page_entries=10).keys == 40
    assert _gone(filled) == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("07", id="a current key"),
        pytest.param("08", id="a deleted key"),
    ],
)
def test_a_key_that_is_lost_at_a_boundary_is_found_again(filled: Scene, name: str) -> None:
    """[scenario 5] As SeaweedFS loses keys between two pages; the other listing shows current ones only."""
    filled.model.faults.script(faults.DropKeys.of(filled.key(name)), operation="ListObjectVersions")
    scanned = filled.scan()
    assert (scanned.gone, _gone(filled)) == (0, 0)
    assert filled.side.index.history(filled.key(name)) != ()


def test_listings_that_go_on_disagreeing_are_incomplete_and_nothing_is_concluded(filled: Scene) -> None:
    """[scenario 5]"""
    before = filled.side.index.observations()
    filled.model.faults.script(
        faults.DropKeys.of(filled.key("07")), operation="ListObjectVersions", times=None
    )
    with pytest.raises(ListingIncomplete):
        filled.scan()
    assert _gone(filled) == 0
    scans = [seen for seen in filled.side.index.observations() if seen.kind == "scan"]
    assert scans == [seen for seen in before if seen.kind == "scan"]


def test_no_restore_begins_on_a_listing_that_was_not_finished(model_scene: Scene) -> None:
    """[scenario 5]"""
    model_scene.evidence.put("07", b"1")
    moment = model_scene.moment()
    model_scene.evidence.delete("07")
    model_scene.evidence.put("08", b"1")
    drop = faults.DropKeys.of(model_scene.key("08"))
    model_scene.model.faults.script(drop, operation="ListObjectVersions", times=None)
    model_scene.model.log.mark()
    with pytest.raises((ListingIncomplete, BucketIndexStale)):
        model_scene.restores.plan(moment)
    assert model_scene.model.log.writes() == []


def test_a_refused_or_broken_listing_is_no_empty_bucket(filled: Scene) -> None:
    """[scenario 5] Neither 403 nor an outage is taken for absence."""
    for fault in (faults.Refuse("AccessDenied"), faults.Refuse("NoSuchBucket")):
        for operation in ("ListObjectVersions", "ListObjectsV2"):
            filled.model.faults.script(fault, operation=operation, times=None)
            with pytest.raises(WalarchiverError):
                filled.scan()
            filled.model.faults.heal()
    assert _gone(filled) == 0


def test_the_neighbours_that_seaweed_loses_are_all_indexed(scene: Scene) -> None:
    """[scenario 5] `stem/` beside `stem` and a sign below `/`, at page boundaries of any size."""
    names = [f"case-{number}{tail}" for number in range(12) for tail in ("", ".json", "-sig", "/a", "/b/c")]
    for name in names:
        scene.evidence.put(name)
    scene.evidence.delete("case-3/a")
    scene.moment()
    for page in (7, 3, 10):
        scanned = scene.scan(page_entries=page, part_entries=20)
        assert (scanned.keys, scanned.gone) == (len(names), 0)
    assert {row.entry.key for name in names for row in scene.side.index.history(scene.key(name))} == {
        scene.key(name) for name in names
    }
