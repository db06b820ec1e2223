"""Every segment is scanned on its way into the archive, and plans rest on what was recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import pytest

from restore.walreader import WalReader
from tests.integration.scene import Scene, Scenes
from tests.kit.postgres import seldom
from walarchiver.core.history import TimelineHistory
from walarchiver.core.scan import SegmentScan
from walarchiver.core.skim import COMPILED
from walarchiver.format.scans import ScanRecord

pytestmark = pytest.mark.skipif(not COMPILED, reason="the compiled part is not built here")
SEGMENTS = 12


@contextlib.contextmanager
def reading(scene: Scene) -> Iterator[tuple[WalReader, WalReader]]:
    """The same archive twice: read with the scans of the ledger, and without."""
    archive = scene.open()
    readers = [
        WalReader(
            repository=archive.repository,
            system=archive.system,
            catalog=archive.catalog,
            segment_size=archive.segment_size,
        )
        for _ in range(2)
    ]
    try:
        with mock.patch.object(readers[1], "recorded", return_value=None):
            yield readers[0], readers[1]
    finally:
        for reader in readers:
            reader.close()


@pytest.mark.parametrize("major", [18, *seldom(15)])
def test_the_recorded_scans_are_what_opening_the_segments_tells(scenes: Scenes, major: int) -> None:
    scene = scenes.make(major, settings={"max_prepared_transactions": "5"})
    cluster = scene.cluster
    cluster.psql("CREATE TABLE noise (id serial, text text)")
    scene.json("backup")
    cluster.psql("BEGIN; INSERT INTO noise (text) VALUES ('two-phase'); PREPARE TRANSACTION 'left open'")
    cluster.psql("SELECT pg_create_restore_point('here')")
    for _ in range(SEGMENTS):
        cluster.psql(
            "INSERT INTO noise (text) SELECT repeat(md5(g::text), 20) FROM generate_series(1, 2500) g"
        )
    scene.archive_all()
    archive = scene.open()
    path = TimelineHistory(1)
    ((_, first, last),) = archive.catalog.runs()
    assert last - first >= SEGMENTS
    seen: list[SegmentScan] = []
    with reading(scene) as (recorded, opening):
        for number in range(first, last + 1):
            name = recorded.on_path(path, number).name(archive.segment_size)
            file = archive.catalog.file(name)
            assert file is not None
            found = archive.catalog.scan(name, file.digest)
            assert isinstance(found, ScanRecord), f"{name} has no scan"
            seen.append(recorded.scan(path, number))
            assert seen[-1] == opening.scan(path, number)
    crossing = [scan for scan in seen if scan.end > scan.segment.end(archive.segment_size)]
    assert crossing, "some record must have run over a segment's end for this to mean anything"
    assert [point.name for scan in seen for point in scan.restore_points] == ["here"]
    assert [event.gid for scan in seen for event in scan.prepared] == ["left open"]
    scene.prove_rebuild()


def test_catalog_scan_says_when_nothing_is_left_to_do(scenes: Scenes) -> None:
    scene = scenes.make(16)
    scene.archive_all()
    told = scene.call("catalog", "scan", "--dry-run")
    assert (told.exit_status, told.stdout) == (0, "0 archived segments have no scan\n")
