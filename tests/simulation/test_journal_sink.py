"""The journal of a bucket restore in the repository: kept once, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from restore.bucketjournal import Journal, Outcome, Result
from restore.core.bucketactions import Kind
from tests.kit.faultystore import Fault
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.bucketjournals import restore_id
from walarchiver.errors import LedgerBroken, StoreUnavailable
from walarchiver.evidence.journalsink import Keeping, RepositorySink
from walarchiver.format.header import Expected

RESTORE = restore_id("1f2e3d4c5b6a7988", 1_795_357_926_000_000)


def sink_of(process: Process) -> RepositorySink:
    keeping = Keeping(process.depositor, process.ledger)
    return RepositorySink(lambda: keeping, bucket="evidence", restore=RESTORE)


def kept(world: World) -> dict[int, bytes]:
    """What another machine reads with the repository and one custodian's key."""
    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    found = {}
    for one in reader.catalog.bucket_journals(RESTORE):
        expect = Expected(
            kind="bjournal",
            repo=reader.repository.repo,
            system=SYSTEM,
            name=f"evidence/{RESTORE}",
            part=one.n,
            raw=one.len,
        )
        assert one.n not in found
        found[one.n] = b"".join(reader.repository.plain(one.object, expect))
    return found


def test_a_restores_id_is_its_plans_spelled_as_backup_ids() -> None:
    assert RESTORE == "20261122T143206Z-1f2e3d4c"


def test_pieces_come_back_as_they_were_and_are_kept_once() -> None:
    world = World()
    sink = sink_of(world.began())
    sink.put("plan", 0, b'{"result":0}\n')
    sink.put("plan", 1, b'{"result":1}\n')
    sink.put("plan", 0, b'{"result":0}\n')
    again = sink_of(world.began())  # another process goes on
    again.put("plan", 1, b'{"result":1}\n')
    assert kept(world) == {0: b'{"result":0}\n', 1: b'{"result":1}\n'}


def test_another_piece_under_the_same_number_is_refused() -> None:
    world = World()
    sink = sink_of(world.began())
    sink.put("plan", 0, b"one\n")
    with pytest.raises(LedgerBroken):
        sink.put("plan", 0, b"two\n")
    assert kept(world) == {0: b"one\n"}


@pytest.mark.parametrize("place", ["v1/b/evidence/journal/", f"v1/c/{SYSTEM}/ledger/"])
def test_a_repository_that_fails_for_a_while_gets_the_whole_journal_at_the_end(
    tmp_path: Path, place: str
) -> None:
    world = World()
    process = world.began()
    world.store.fail(Fault("put_new", place))
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, name="plan", plan_sha256="ab" * 32, actions=3, sink=sink_of(process))
    for line in range(3):
        journal.note(Result(line=line, to=f"key {line}", kind=Kind.COPY, outcome=Outcome.DONE))
        journal.flush()
    assert isinstance(journal.sink_failure, StoreUnavailable)
    assert kept(world) == {}
    journal.send_rest()
    journal.close()
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.startswith(b'{"result"')]
    assert b"".join(kept(world)[n] for n in range(3)) == b"".join(lines)
