"""What a thief of an archiving host gets: its key, its state, the store. The past stays shut, and whole."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

from tests.simulation.world import SYSTEM, World, name_of, wal_file
from walarchiver.core.objectname import ledger_key
from walarchiver.format.entry import encode_and_sign, split_entry


def test_no_epoch_key_is_in_the_store_or_in_the_state_folder(tmp_path: Path) -> None:
    world = World()
    (tmp_path / "state").mkdir()
    process = world.process(catalog=tmp_path / "state" / "catalog.sqlite")
    process.begin()
    process.archive(wal_file(tmp_path / "pg_wal", name_of(1)), wal_file(tmp_path / "pg_wal", name_of(2)))
    epoch = process.depositor._epoch
    assert epoch is not None
    key = epoch.key
    assert len(key) == 32
    forms = {key, key.hex().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key)}
    bodies = [world.memory.get(one.key, bytes_max=1 << 30) for one in world.memory.list_versions("v1/")]
    state = [file.read_bytes() for file in (tmp_path / "state").iterdir()]
    assert len(bodies) > 6
    assert state
    for body in (*bodies, *state):
        assert body is not None
        assert not any(form.rstrip(b"=") in body for form in forms)


def test_an_entry_rewritten_with_a_stolen_writers_key_cuts_off_what_follows_and_is_an_alarm(
    tmp_path: Path,
) -> None:
    world = World()
    paths = [wal_file(tmp_path, name_of(number)) for number in range(1, 4)]
    world.began().archive(*paths)
    key = ledger_key(SYSTEM, 2)
    entry, _ = split_entry(world.memory.get(key, bytes_max=1 << 20) or b"")
    thief = world.key("writer").signer()
    world.replace(key, encode_and_sign(replace(entry, time=entry.time + 1, sha256=""), thief))

    reader = world.process(write=False, identities=[world.identity()])
    reader.ledger.refresh()
    assert reader.catalog.voids() == [3]
    assert reader.catalog.file(name_of(3)) is None, "what no longer hangs on the chain is not believed"
