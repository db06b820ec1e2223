"""A version index in the repository: shipped in pieces, brought back whole, whatever happens in between."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.faultystore import Fault
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.bucketports import KeyRange, Observation, VersionIndex
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.errors import StoreUnavailable, WalarchiverError
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.shipping import Kept, Shipper, Watched, kept_index, load_index

NOON = 1_795_000_000_000
WATCHED = Watched("evidence", "files/")


def entry(key: str, version: str, second: int, *, kind: EntryKind = EntryKind.VERSION) -> Entry:
    size = 10 if kind is EntryKind.VERSION else 0
    etag = f"{zlib.crc32(version.encode()):032x}" if size else ""
    modified = StoreMs(NOON + second * 1000)
    return Entry(key, version, kind, modified, size, etag, "STANDARD" if size else "", is_latest=True)


def listed(*names: str) -> list[Entry]:
    return [entry(f"files/{name}", f"v-{name}", zlib.crc32(name.encode()) % 60) for name in sorted(names)]


def at(second: int) -> StoreMs:
    return StoreMs(NOON + second * 1000)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[VersionIndex]:
    one = open_index(tmp_path / "index.sqlite")
    yield one
    one.close()


def shipper(process: Process, index: VersionIndex, tmp_path: Path, **options: object) -> Shipper:
    return Shipper(
        index,
        WATCHED,
        depositor=process.depositor,
        ledger=process.ledger,
        writer=process.signer.id,
        random=process.world.random,
        folder=tmp_path,
        **options,  # type: ignore[arg-type]
    )


def scanned(index: VersionIndex, second: int, *names: str) -> None:
    index.ingest(KeyRange("files/"), listed(*names), asked=at(second))
    index.observe(Observation(at(second), "scan", "{}"))


def kept(process: Process) -> Kept:
    found = kept_index(process.catalog, WATCHED)
    assert found is not None
    return found


def brought_back(world: World, tmp_path: Path, name: str = "again") -> VersionIndex:
    """What another machine makes of the repository and one custodian's key."""
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    again = open_index(tmp_path / f"{name}.sqlite")
    load_index(reader.repository, SYSTEM, kept(reader), again, folder=tmp_path)
    return again


def rows(index: VersionIndex, *names: str) -> list[object]:
    return [index.history(f"files/{name}") for name in names]


def test_an_index_comes_back_from_the_repository_with_what_no_listing_shows(
    world: World, index: VersionIndex, tmp_path: Path
) -> None:
    process = world.began()
    scanned(index, 100, "a", "b", "ü c")
    scanned(index, 200, "a", "ü c")  # b was removed for ever
    shipped = shipper(process, index, tmp_path).ship()
    assert (shipped.keys, shipped.pieces) == (3, 2)
    again = brought_back(world, tmp_path)
    assert rows(again, "a", "b", "ü c") == rows(index, "a", "b", "ü c")
    (lost,) = again.history("files/b")
    assert (lost.gone_after, lost.gone_by) == (at(100), at(200))
    assert again.observations() == index.observations()
    again.close()


def test_later_pieces_take_the_place_of_what_earlier_ones_said(
    world: World, index: VersionIndex, tmp_path: Path
) -> None:
    process = world.began()
    scanned(index, 100, "a", "b")
    ship = shipper(process, index, tmp_path)
    ship.ship()
    scanned(index, 200, "b", "c")
    assert ship.ship().keys == 2  # a went, c came
    again = brought_back(world, tmp_path)
    assert rows(again, "a", "b", "c") == rows(index, "a", "b", "c")
    again.close()


def test_what_was_shipped_is_not_shipped_again(world: World, index: VersionIndex, tmp_path: Path) -> None:
    process = world.began()
    scanned(index, 100, "a")
    ship = shipper(process, index, tmp_path)
    assert ship.ship().pieces == 2
    assert ship.ship().pieces == 0
    scanned(index, 200, "a")
    assert ship.ship().pieces == 0
    scanned(index, 100 + 3600, "a")
    assert ship.ship().pieces == 1  # how far it reaches, once an hour
    assert kept(process).asked == (NOON + 3_700_000) * 1000


def test_a_big_index_travels_in_many_pieces(world: World, index: VersionIndex, tmp_path: Path) -> None:
    process = world.began()
    names = [f"{number:03}" for number in range(25)]
    scanned(index, 100, *names)
    assert shipper(process, index, tmp_path, keys_max=10).ship().pieces == 4
    again = brought_back(world, tmp_path)
    assert rows(again, *names) == rows(index, *names)
    again.close()


def test_an_unfinished_shipment_is_not_taken_for_the_whole_and_goes_on_later(
    world: World, index: VersionIndex, tmp_path: Path
) -> None:
    process = world.began()
    names = [f"{number:03}" for number in range(25)]
    scanned(index, 100, *names)
    ship = shipper(process, index, tmp_path, keys_max=10)
    world.store.fail(Fault("put_new", "v1/b/evidence/index/", skip=1))  # the second piece
    with pytest.raises(StoreUnavailable):
        ship.ship()
    assert kept_index(process.catalog, WATCHED) is None
    ship.ship()
    again = brought_back(world, tmp_path)
    assert rows(again, *names) == rows(index, *names)
    again.close()


def test_another_writer_begins_a_generation_of_its_own_with_everything(
    world: World, index: VersionIndex, tmp_path: Path
) -> None:
    scanned(index, 100, "a", "b")
    process = world.began()
    shipper(process, index, tmp_path).ship()
    first = kept(process).generation
    other = Shipper(
        index,
        WATCHED,
        depositor=process.depositor,
        ledger=process.ledger,
        writer="0123456789abcdef",
        random=world.random,
        folder=tmp_path,
    )
    assert other.ship().keys == 2
    assert kept(process).generation != first


def test_a_piece_with_other_bytes_is_refused(world: World, index: VersionIndex, tmp_path: Path) -> None:
    process = world.began()
    scanned(index, 100, "a")
    shipper(process, index, tmp_path).ship()
    (key, *_) = world.keys("/index/")
    body = bytearray(world.memory.get(key, bytes_max=1 << 20) or b"")
    body[-20] ^= 1
    world.replace(key, bytes(body))
    with pytest.raises(WalarchiverError, match="bytes"):
        brought_back(world, tmp_path)


def test_an_index_of_another_prefix_is_not_brought_back(
    world: World, index: VersionIndex, tmp_path: Path
) -> None:
    process = world.began()
    scanned(index, 100, "a")
    shipper(process, index, tmp_path).ship()
    assert kept_index(process.catalog, Watched("evidence", "other/")) is None
    assert kept_index(process.catalog, Watched("elsewhere", "files/")) is None


def test_another_repository_gets_all_of_an_index_that_was_shipped_before(
    index: VersionIndex, tmp_path: Path
) -> None:
    """Two clusters that watch one bucket, or a cluster whose repository is a new one."""
    here, there = World(), World()
    scanned(index, 100, "a", "b")
    scanned(index, 200, "a")  # b was removed for ever
    ships = [shipper(world.began(), index, tmp_path) for world in (here, there)]
    assert [ship.ship().keys for ship in ships] == [2, 2]
    scanned(index, 300, "a", "c")
    for ship in ships:
        ship.ship()
    for number, world in enumerate((here, there)):
        again = brought_back(world, tmp_path, f"again{number}")
        assert rows(again, "a", "b", "c") == rows(index, "a", "b", "c")
        again.close()


def test_who_finds_that_another_began_to_ship_the_index_stops(index: VersionIndex, tmp_path: Path) -> None:
    here, there = World(), World()
    names = [f"{number:03}" for number in range(25)]
    scanned(index, 100, *names)
    other = shipper(there.began(), index, tmp_path, keys_max=10)
    ship = shipper(here.began(), index, tmp_path, keys_max=10)
    began: list[object] = []

    def between(_shipped: object) -> None:
        if not began:
            began.append(other.ship())

    with pytest.raises(WalarchiverError, match="elsewhere"):
        ship.ship(between)
    again = brought_back(there, tmp_path)
    assert rows(again, *names) == rows(index, *names)
    again.close()


def test_a_listing_of_some_keys_does_not_count_as_how_far_the_index_reaches(
    world: World, index: VersionIndex, tmp_path: Path
) -> None:
    process = world.began()
    scanned(index, 100, "a")
    index.observe(Observation(at(200), "scan", '{"prefix":"files/a"}'))
    shipper(process, index, tmp_path).ship()
    assert kept(process).asked == at(100) * 1000
