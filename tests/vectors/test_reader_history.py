"""The stand-alone reader on repositories with a past: replaced files, rotated keys, pruned entries."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.chance import SteppingClock
from tests.simulation.changes import chain_records
from tests.simulation.test_superseding import replace as supersede
from tests.simulation.world import SYSTEM, World, name_of, segment_bytes, wal_file
from tests.vectors.test_reader import READER, run
from walarchiver.clock import SystemRandom
from walarchiver.core.objectname import ROLL_ENTRIES, roll_key
from walarchiver.format.chain import ChainState, accept, build_entry
from walarchiver.format.epoch import Stanza, parse_epoch_object, sign_epoch_object
from walarchiver.format.keyring import verify_keyrings
from walarchiver.format.records import EpochRecord, GapRecord, WalRecord
from walarchiver.format.rollup import encode_rollup
from walarchiver.format.seal import plain_digest
from walarchiver.ledger import fact
from walarchiver.storage.directory import DirectoryStore

LINES_MAX = 183


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "repository").mkdir()
    world = World(plain_store=DirectoryStore(tmp_path / "repository", SteppingClock(), SystemRandom()))
    for who in ("alice", "bob"):
        (tmp_path / f"{who}.key").write_text(world.new.key_files[f"custodian-{who}.key"])
    return world


def opened(folder: Path, who: str = "alice") -> Path:
    """Where the reader wrote everything."""
    done = run(READER / "reader.py", folder / "repository", folder / f"{who}.key", folder / who)
    assert done.returncode == 0, done.stderr
    assert "ALARM" not in done.stdout
    return folder / who / SYSTEM


def test_a_replaced_segment_is_the_one_that_an_admin_put_in_force(world: World, tmp_path: Path) -> None:
    world.began().archive(wal_file(tmp_path / "old", name_of(1)))
    other = wal_file(tmp_path / "new", name_of(1), seed=7)
    process = world.process()
    process.ledger.refresh()
    supersede(process, other)
    assert other.read_bytes() != segment_bytes(name_of(1))
    assert (opened(tmp_path) / name_of(1)).read_bytes() == other.read_bytes()


def test_the_newest_recorded_revision_says_who_opens_a_segment(world: World, tmp_path: Path) -> None:
    world.began().archive(wal_file(tmp_path, name_of(1)))
    (key,) = world.keys("/keys/")
    raw = world.store.get(key, bytes_max=1 << 20)
    assert raw is not None
    first, admin = parse_epoch_object(raw), world.key("admin").signer()
    (bob,) = [s for s in first.stanzas if s.recipient == world.identity("bob").recipient]
    rotated = replace(first, revision=1, by=admin.id, stanzas=(Stanza(bob.recipient, bob.type, bob.body),))
    second = sign_epoch_object(rotated, admin)
    world.store.put_new(key.replace(".0000.", ".0001."), second)
    assert (opened(tmp_path) / name_of(1)).is_file(), "what no record names does not count"
    record = EpochRecord(first.epoch, hashlib.sha256(second).hexdigest(), 1)
    assert world.process(signer=admin).ledger.commit([fact("rotate", record)]) == [None]
    assert (opened(tmp_path, "bob") / name_of(1)).read_bytes() == segment_bytes(name_of(1))
    done = run(READER / "reader.py", tmp_path / "repository", tmp_path / "alice.key", tmp_path / "again")
    assert done.returncode == 1
    assert "is wrapped to" in done.stderr


def grown(world: World, entries: int) -> list[bytes]:
    """The chain of the repository, continued up to that many entries; nothing is stored."""
    ring = verify_keyrings(world.root, [world.new.keyring])
    state, raws = ChainState(world.new.repo, SYSTEM), []
    for key in sorted(world.keys("/ledger/")):
        raws.append(world.store.get(key, bytes_max=1 << 24) or b"")
        state = accept(state, len(raws) - 1, raws[-1], ring).state
    while len(raws) < entries:
        record = GapRecord(name_of(7), name_of(7), f"entry {len(raws)}")
        raw = build_entry(
            state, [record], time_us=1_800_000_000_000_000, boot="0" * 16, signer=world.key("writer").signer()
        )
        raws.append(raw)
        state = accept(state, len(raws) - 1, raw, ring).state
    return raws


def test_a_name_that_leads_elsewhere_is_refused(world: World, tmp_path: Path) -> None:
    process = world.began()
    process.archive(wal_file(tmp_path, name_of(1)))
    (good,) = [record for record in chain_records(world) if isinstance(record, WalRecord)]
    bad = replace(good, name="../escaped", objects=(), len=0, digest=plain_digest([]))
    assert world.process().ledger.commit([fact("bad", bad)]) == [None]
    done = run(READER / "reader.py", tmp_path / "repository", tmp_path / "alice.key", tmp_path / "out")
    assert "is no name" in done.stderr
    assert not list(tmp_path.rglob("escaped*"))


def test_the_reader_is_one_file_of_plain_lines() -> None:
    lines = (READER / "reader.py").read_text("ascii").splitlines()
    assert sorted(path.name for path in READER.iterdir() if path.is_file()) == ["reader.py", "shapes.txt"]
    assert max(map(len, lines)) <= 110
    code = [line.partition("  # ")[0] for line in lines[7:]]
    assert not [line for line in code if "; " in line or "exec(" in line]
    assert len(lines) <= LINES_MAX


@pytest.mark.parametrize("damage", ["", "one entry is another", "last is void"])
def test_pruned_entries_are_read_from_their_roll_up_or_nothing_is(
    world: World, tmp_path: Path, damage: str
) -> None:
    world.began().archive(wal_file(tmp_path, name_of(1)))
    raws = grown(world, ROLL_ENTRIES + 1)
    ledger = tmp_path / "repository/v1/c" / SYSTEM / "ledger"
    for path in ledger.iterdir():
        path.unlink()
    (ledger / f"{ROLL_ENTRIES:016x}.json").write_bytes(raws[-1])
    block = raws[:-1]
    if damage:
        block[9 if damage.startswith("one") else -1] = raws[9]
        block[9] = block[9] if damage.startswith("last") else raws[8]
    rolled = encode_rollup(block, repo=world.new.repo, system=SYSTEM, first=0)
    world.store.put_new(roll_key(SYSTEM, 0), rolled)
    if not damage:
        assert (opened(tmp_path) / name_of(1)).read_bytes() == segment_bytes(name_of(1))
        return
    done = run(READER / "reader.py", tmp_path / "repository", tmp_path / "alice.key", tmp_path / "out")
    assert done.returncode == 1
    assert "nothing vouches for the end of a roll-up" in done.stderr
    assert not (tmp_path / "out").exists()
