"""Fetch: what is served, what is proven absent, and that doubt is never the end of the archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from restore.core.model import Stop, Verdict
from restore.core.plan import Plan
from restore.fetcher import Fetcher
from tests.kit.faultystore import Fault
from tests.kit.walmaker import MIB
from tests.simulation.world import SYSTEM_ID, Process, World, name_of, segment_bytes, wal_file
from walarchiver.catalog import Catalog
from walarchiver.core.history import Fork, TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.errors import (
    FetchInDoubt,
    NotAWalFile,
    ObjectDamaged,
    ProvenAbsent,
    StoreDenied,
    StoreUnavailable,
    WalarchiverError,
)

HISTORY = b"1\t0/380000\tno recovery target specified\n"
"""Timeline 2 leaves 1 inside segment 3."""


class Scene:
    """Segments 1 to 4 of timeline 1, 6 of timeline 1, and 3 to 5 of timeline 2."""

    def __init__(self, folder: Path) -> None:
        self.world = World()
        names = [name_of(n) for n in (1, 2, 3, 4, 6)] + [name_of(n, 2) for n in (3, 4, 5)]
        paths = [wal_file(folder / "pg_wal", name) for name in names]
        paths.append(wal_file(folder / "pg_wal", "00000002.history", HISTORY))
        self.writer: Process = self.world.began()
        self.writer.archive(*paths)
        self.folder = folder / "restored"
        self.folder.mkdir()
        self.spool = folder / "spool"
        self.process = self.world.process(write=False, identities=[self.world.identity()])

    @property
    def destination(self) -> Path:
        return self.folder / "RECOVERYXLOG"

    def fetcher(self, plan: Plan | None = None, *, spool: Path | None = None) -> Fetcher:
        return Fetcher(
            repository=self.process.repository,
            ledger=self.process.ledger,
            segment_size=MIB,
            plan=plan,
            spool=spool or self.spool,
        )

    def fetch(self, name: str, plan: Plan | None = None) -> bytes:
        size = self.fetcher(plan).fetch(name, self.destination)
        content = self.destination.read_bytes()
        assert len(content) == size
        return content

    def leftovers(self) -> list[str]:
        return [path.name for folder in (self.folder, self.spool) for path in folder.glob(".*")]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def plan(path: TimelineHistory, first: int, last: int) -> Plan:
    return Plan(
        id="p-1",
        cluster="main",
        system=SYSTEM_ID,
        major=15,
        segment_size=MIB,
        repository="r",
        path=path,
        first=first,
        last=last,
        stop=Stop(Lsn(last * MIB + 0x100), True, path.timeline, None, None),
        backup="b",
        requested="latest",
        made_at=0,
        verdict=Verdict.REACHABLE,
        keys=(),
        settings=(),
        ledger=1,
    )


TO_2 = plan(TimelineHistory(2, (Fork(1, Lsn(0x380000)),)), 1, 4)


# --- served ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name_of(1), name_of(5, 2)])
def test_a_recorded_segment_is_served_whole(scene: Scene, name: str) -> None:
    assert scene.fetch(name) == segment_bytes(name)
    assert scene.destination.stat().st_mode & 0o777 == 0o600
    assert scene.leftovers() == []


def test_what_is_archived_meanwhile_counts_at_the_next_ask(scene: Scene) -> None:
    """Also a timeline whose segments come before its history: its number is not free."""
    fetcher = scene.fetcher()
    for name in (name_of(7), name_of(7, 3), "00000003.history"):
        with pytest.raises(ProvenAbsent):
            fetcher.fetch(name, scene.destination)
    scene.writer.archive(wal_file(scene.folder / "pg_wal", name_of(8, 3)))
    with pytest.raises(FetchInDoubt, match="its history is not"):
        fetcher.fetch("00000003.history", scene.destination)
    with pytest.raises(FetchInDoubt, match="a hole, not the end"):
        fetcher.fetch(name_of(7, 3), scene.destination)
    scene.writer.archive(wal_file(scene.folder / "pg_wal", name_of(9)))
    with pytest.raises(FetchInDoubt, match="a hole, not the end"):
        fetcher.fetch(name_of(7), scene.destination)


def test_a_history_is_served(scene: Scene) -> None:
    assert scene.fetch("00000002.history") == HISTORY


def test_what_was_archived_a_moment_ago_by_another_host_is_served(scene: Scene, tmp_path: Path) -> None:
    fetcher = scene.fetcher()
    with pytest.raises(ProvenAbsent):
        fetcher.fetch(name_of(6, 2), scene.destination)
    scene.writer.archive(wal_file(tmp_path, name_of(6, 2)))
    assert fetcher.fetch(name_of(6, 2), scene.destination) == MIB


def test_an_older_file_at_the_destination_is_replaced(scene: Scene) -> None:
    scene.destination.write_bytes(b"left by the last request")
    assert scene.fetch(name_of(2)) == segment_bytes(name_of(2))


def test_a_name_that_is_no_wal_file_is_refused(scene: Scene) -> None:
    with pytest.raises(NotAWalFile):
        scene.fetch("../passwd")
    assert not scene.destination.exists()


# --- absent or in doubt ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name_of(7), name_of(6, 2), "00000003.history", "00000001.history"])
def test_what_lies_behind_the_end_is_proven_absent(scene: Scene, name: str) -> None:
    with pytest.raises(ProvenAbsent):
        scene.fetch(name)
    assert not scene.destination.exists()


@pytest.mark.parametrize("name", [name_of(5), name_of(0)])
def test_a_hole_is_not_the_end(scene: Scene, name: str) -> None:
    with pytest.raises(FetchInDoubt, match="a hole, not the end"):
        scene.fetch(name)


@pytest.mark.parametrize("error", [StoreUnavailable, StoreDenied])
@pytest.mark.parametrize("operation", ["list_versions", "get"])
@pytest.mark.parametrize("name", [name_of(7), name_of(1), "00000003.history", "00000002.history"])
def test_a_store_that_does_not_answer_is_never_the_end(
    scene: Scene, operation: str, error: type[WalarchiverError], name: str
) -> None:
    fault = Fault(operation, "v1/c/", times=999, error=lambda: error("the store says no"))
    scene.world.store.fail(fault)
    with pytest.raises(error):
        scene.fetch(name)
    assert not scene.destination.exists()


def test_a_store_that_fails_after_the_chain_was_read_once_is_never_the_end(scene: Scene) -> None:
    fetcher = scene.fetcher()
    fetcher.fetch(name_of(1), scene.destination)
    scene.world.store.fail(Fault("list_versions", "v1/c/", times=999))
    for name in (name_of(7), "00000003.history"):
        with pytest.raises(StoreUnavailable):
            fetcher.fetch(name, scene.destination)


@pytest.mark.parametrize("seed", range(8))
def test_under_random_failures_absent_is_only_said_when_it_is_true(scene: Scene, seed: int) -> None:
    flaky = type(scene.world.store)(scene.world.memory, seed=seed, rate=0.0)
    process = scene.world.process(write=False, identities=[scene.world.identity()], store=flaky)
    fetcher = Fetcher(
        repository=process.repository, ledger=process.ledger, segment_size=MIB, plan=None, spool=scene.spool
    )
    flaky.rate = 0.25
    absent = {name_of(7), name_of(6, 2), "00000003.history"}
    there = {name_of(n) for n in (1, 2, 3, 4, 6)} | {"00000002.history"}
    said: list[str] = []
    for _ in range(6):
        for name in sorted(absent | there):
            try:
                fetcher.fetch(name, scene.destination)
                assert name in there
                if name in there - {"00000002.history"}:
                    assert scene.destination.read_bytes() == segment_bytes(name)
            except ProvenAbsent:
                said.append(name)
            except StoreUnavailable:
                continue
    assert set(said) <= absent
    assert said, "with this seed nothing ever got through"


def test_a_catalog_that_is_being_made_anew_proves_nothing(scene: Scene) -> None:
    """Another process clears the shared file between our reading of the chain and our look."""
    fetcher = scene.fetcher()
    refresh = scene.process.ledger.refresh

    def cleared() -> object:
        state = refresh()
        scene.process.catalog.replace_with(Catalog(None))
        return state

    scene.process.ledger.refresh = cleared  # type: ignore[method-assign, assignment]
    for name in (name_of(1), name_of(7), "00000002.history", "00000003.history"):
        with pytest.raises(FetchInDoubt, match="made anew"):
            fetcher.fetch(name, scene.destination)


# --- with a plan -------------------------------------------------------------------------------------


def test_a_plan_is_obeyed(scene: Scene) -> None:
    assert scene.fetch(name_of(2), TO_2) == segment_bytes(name_of(2))
    assert scene.fetch(name_of(3, 2), TO_2) == segment_bytes(name_of(3, 2))
    scene.destination.unlink()
    for name in (name_of(3), name_of(4), name_of(5, 3)):
        with pytest.raises(FetchInDoubt):
            scene.fetch(name, TO_2)
    for name in (name_of(6), name_of(6, 2)):
        with pytest.raises(ProvenAbsent):
            scene.fetch(name, TO_2)
    assert not scene.destination.exists()


def test_damage_behind_the_plans_end_is_damage_and_the_hint_says_how_to_do_without_it(scene: Scene) -> None:
    for name in (name_of(4), name_of(5, 2), name_of(3, 2)):
        (key,) = [key for key in scene.world.keys("/wal/") if name in key]
        scene.world.replace(key, b"x")
    for behind, name in ((False, name_of(3, 2)), (True, name_of(5, 2))):
        with pytest.raises(ObjectDamaged) as told:
            scene.fetch(name, TO_2)
        assert ("recovery_prefetch" in told.value.next_step) is behind
    assert not scene.destination.exists()
