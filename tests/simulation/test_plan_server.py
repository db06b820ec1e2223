"""What serves a restored instance, and the reader that opens WAL for the planner."""

from __future__ import annotations

import asyncio
import shutil
import struct
from pathlib import Path
from typing import cast

import pytest

from restore.core.plan import Plan
from restore.core.planfile import plan_from_text
from restore.planserver import PlanHandlers, _recovered, recovery_over
from restore.walreader import WalReader
from restore.workplace import Workplace, find_plan, note_plan
from tests.kit.wal import WalWriter
from tests.kit.walmaker import MIB
from tests.simulation.test_fetcher import TO_2, Scene
from tests.simulation.world import SYSTEM, SYSTEM_ID, World, name_of, segment_bytes, wal_file
from walarchiver.assembly import Archive
from walarchiver.core.history import TimelineHistory
from walarchiver.core.scan import Ending
from walarchiver.core.segment import Segment
from walarchiver.errors import (
    ConfigError,
    FetchInDoubt,
    NotAWalFile,
    ObjectDamaged,
    ProvenAbsent,
    Refused,
    TargetDirectoryInUse,
    Transient,
    UsageError,
    WrongCluster,
)
from walarchiver.listening import Peer

NOBODY = cast(Peer, None)


def handlers(scene: Scene, place: Workplace, wanted: Plan | None = None) -> PlanHandlers:
    scene.process.ledger.refresh()
    archive = Archive(scene.process.catalog.clusters()[0], scene.process.repository, scene.process.ledger)
    from dataclasses import replace

    wanted = replace(TO_2, repository=scene.world.new.repo) if wanted is None else wanted
    return PlanHandlers(wanted, place, archive, scene.world.clock)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    found = Workplace.beside(tmp_path / "data")
    found.make(None)
    (found.target / "pg_wal").mkdir(parents=True)
    return found


def test_a_plan_is_served_into_pg_wal_of_its_instance_only(scene: Scene, place: Workplace) -> None:
    serving = handlers(scene, place)
    target = place.target / "pg_wal" / "RECOVERYXLOG"

    async def play() -> None:
        await serving.fetch(None, "p-1", name_of(2), str(target), NOBODY)
        assert target.read_bytes() == segment_bytes(name_of(2))
        with pytest.raises(FetchInDoubt, match="obeys plan p-1"):
            await serving.fetch(None, "p-2", name_of(2), str(target), NOBODY)
        with pytest.raises(FetchInDoubt):
            await serving.fetch(None, None, name_of(2), str(target), NOBODY)
        for path in (scene.destination, place.target / "x", target / ".." / ".." / "x"):
            with pytest.raises(NotAWalFile):
                await serving.fetch(None, "p-1", name_of(2), str(path), NOBODY)
            assert not path.exists()
        with pytest.raises(FetchInDoubt):
            await serving.fetch(None, "p-1", name_of(4), str(target), NOBODY)
        with pytest.raises(ProvenAbsent):
            await serving.fetch(None, "p-1", name_of(6, 2), str(target), NOBODY)
        with pytest.raises(Refused, match="archives nothing"):
            await serving.push(None, str(target), NOBODY)
        assert (await serving.status())["fetched"] == 1

    asyncio.run(play())


def test_a_plan_for_another_repository_or_cluster_is_refused(scene: Scene, place: Workplace) -> None:
    from dataclasses import replace

    for wrong in (TO_2, replace(TO_2, repository=scene.world.new.repo, system=SYSTEM_ID + 1)):
        with pytest.raises(WrongCluster):
            handlers(scene, place, wrong)


def test_a_workplace_that_an_earlier_restore_used_is_refused(place: Workplace) -> None:
    place.write_plan(TO_2)
    with pytest.raises(TargetDirectoryInUse):
        place.make(None)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="longer than"):
        Workplace.beside(tmp_path / ("d" * 110))


def test_a_plan_is_found_by_id_and_by_path(place: Workplace, tmp_path: Path) -> None:
    place.write_plan(TO_2)
    assert note_plan(TO_2, place, tmp_path / "state")
    for reference in ("p-1", str(place.plan_path)):
        assert find_plan(reference, tmp_path / "state") == (TO_2, place)
    with pytest.raises(ConfigError, match="no plan p-9"):
        find_plan("p-9", tmp_path / "state")
    assert plan_from_text(place.plan_path.read_text()) == TO_2


def test_the_restore_command_survives_the_shell_and_postgresql(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "my %data's")
    command = place.restore_command(Path("/opt/a b/walarchiver-hook"), "p-1")
    assert command.endswith(" fetch --plan p-1 %f %p")
    assert "my %%data" in command
    import shlex

    words = shlex.split(command.replace("%%", "%"))
    assert words[:3] == ["/opt/a b/walarchiver-hook", "--socket", str(place.socket)]


def control(place: Workplace, state: int) -> None:
    """A data directory that says of itself what pg_control's state means (enum DBState)."""
    (place.target / "global").mkdir(exist_ok=True)
    (place.target / "PG_VERSION").write_text("18\n")
    content = struct.pack("<QIII", SYSTEM_ID, 1800, 1, state).ljust(48, b"\0") + (1).to_bytes(4, "little")
    (place.target / "global" / "pg_control").write_bytes(content.ljust(512, b"\0"))


def test_recovery_is_over_only_when_the_new_timeline_is_in_production(place: Workplace) -> None:
    """After its signal file went PostgreSQL still asks for a timeline history: a server that had gone would
    make the promotion fail."""
    assert not recovery_over(place), "no pg_control yet"
    for state, over in ((1, True), (2, False), (3, True), (4, False), (5, False), (6, True)):
        control(place, state)
        assert recovery_over(place) is over
        for name in ("recovery.signal", "standby.signal"):
            (place.target / name).touch()
            assert not recovery_over(place)
            (place.target / name).unlink()


def test_a_plans_server_waits_until_it_has_seen_recovery_begin_and_end(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started before PostgreSQL is, or beside one that was promoted long ago, it stays."""
    monkeypatch.setattr("restore.planserver.LOOK_INTERVAL_S", 0.001)
    looks: list[bool] = []
    story = [lambda: control(place, 6), lambda: None, lambda: control(place, 5)]
    story += [lambda: None, lambda: shutil.rmtree(place.target)]

    def look(where: Workplace) -> bool:
        if story:
            story.pop(0)()
        looks.append(recovery_over(where))
        return looks[-1]

    monkeypatch.setattr("restore.planserver.recovery_over", look)

    async def play() -> None:
        async with asyncio.timeout(20):
            await _recovered(place)

    asyncio.run(play())
    assert looks == [True, True, False, False, True]


# --- the planner's reader ----------------------------------------------------------------------------


def archived_wal(folder: Path) -> tuple[World, WalReader, WalWriter]:
    """Three of five segments; the commit in each begins in its last 8 bytes and ends in the next."""
    world = World()
    writer = WalWriter(1, system=SYSTEM_ID)
    for xid in range(800, 804):
        writer.filler(200)
        writer.pad_to(8)
        writer.commit(1_795_348_800_000_000 + xid, xid=xid)
    process = world.began()
    paths = [
        wal_file(folder, name_of(number), content) for number, content in sorted(writer.segments().items())
    ]
    process.archive(*paths[:3])
    reading = world.process(write=False, identities=[world.identity()])
    reading.ledger.refresh()
    reader = WalReader(
        repository=reading.repository,
        system=SYSTEM,
        catalog=reading.catalog,
        segment_size=MIB,
        kept=2,
    )
    return world, reader, writer


def test_segments_are_opened_once_and_walked_on_a_path(tmp_path: Path) -> None:
    world, reader, writer = archived_wal(tmp_path)
    path = TimelineHistory(1)
    scan = reader.scan(path, 1)
    assert scan.commits == 1
    assert scan.ending is Ending.WHOLE
    (event,) = reader.events(path, 1)
    assert (event.xid, event.lsn % MIB) == (800, MIB - 8)
    world.store.events.clear()
    assert reader.scan(path, 1) == scan
    assert world.store.events == []
    assert reader.next_record(path, writer.placed[0].start) == writer.placed[0].start
    assert reader.last_record(path, 2) in {placed.start for placed in writer.placed}
    reader.close()


def test_a_segment_that_is_not_recorded_is_none_and_one_that_is_damaged_raises(tmp_path: Path) -> None:
    world, reader, _writer = archived_wal(tmp_path)
    assert reader.segment(Segment(1, 9)) is None
    assert reader.segment(Segment(2, 1)) is None
    (key,) = [key for key in world.keys("/wal/") if name_of(2) in key]
    world.replace(key, b"junk")
    with pytest.raises(ObjectDamaged):
        reader.segment(Segment(1, 2))
    reader.close()


def test_no_room_for_an_opened_segment_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    _world, reader, _writer = archived_wal(tmp_path)
    reader._spool = tmp_path / "none"
    with pytest.raises(
        Transient, match="cannot be laid out to be read: No such file or directory"
    ) as refused:
        reader.segment(Segment(1, 1))
    assert "TMPDIR" in refused.value.next_step
    reader.close()


def test_only_a_few_segments_stay_open_and_views_outlive_them(tmp_path: Path) -> None:
    _world, reader, writer = archived_wal(tmp_path)
    first = reader.segment(Segment(1, 1))
    assert first is not None
    for number in (2, 3, 2):
        reader.segment(Segment(1, number))
    assert len(reader._open) == 2
    assert first[:] == writer.segments()[1]
    reader.close()


def test_a_scan_goes_on_once_the_segment_behind_has_arrived(tmp_path: Path) -> None:
    world, reader, writer = archived_wal(tmp_path)
    path = TimelineHistory(1)
    assert reader.scan(path, 3).ending is Ending.OPEN
    assert (reader.scan(path, 3).commits, list(reader.events(path, 3))) == (0, [])
    process = world.began()
    process.archive(wal_file(tmp_path, name_of(4), writer.segments()[4]))
    reader._catalog.replace_with(process.catalog)
    assert reader.scan(path, 3).ending is Ending.WHOLE
    assert [event.xid for event in reader.events(path, 3)] == [802]
    reader.close()
