"""`ledger verify`: a chain that holds, and one that was cut off, changed, or carries void entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.simulation.world import SYSTEM, World, name_of, wal_file
from walarchiver.checkpoints import Checkpointer
from walarchiver.cli.main import main
from walarchiver.core.objectname import ledger_key
from walarchiver.errors import LedgerBroken
from walarchiver.format.checkpoint import Checkpoint, sign_checkpoint
from walarchiver.ledger import Ledger
from walarchiver.operate import ledgeraudit
from walarchiver.rollups import RollupWriter
from walarchiver.secondplace import SecondPlace
from walarchiver.storage.directory import DirectoryStore

Captured = pytest.CaptureFixture[str]
HEAD = 6


@dataclass
class Stage:
    """A repository in a folder whose ledger has entries 0 to 6, and a configuration that reads it."""

    world: World
    folder: Path
    config: Path
    out: Captured

    def verify(self, *words: str) -> int:
        self.out.readouterr()
        return main(["--config", str(self.config), "ledger", "verify", *words])

    def said(self, *words: str) -> tuple[int, dict[str, object]]:
        status = self.verify("--output", "json", *words)
        return status, json.loads(self.out.readouterr().out)

    def entry(self, seq: int) -> Path:
        return self.folder / ledger_key(SYSTEM, seq)

    def head(self) -> str:
        _, said = self.said()
        head = said["head"]
        assert isinstance(head, dict)
        return f"{head['seq']}:{head['sha256']}"


@pytest.fixture
def stage(tmp_path: Path, capsys: Captured) -> Iterator[Stage]:
    folder = tmp_path / "repository"
    folder.mkdir()
    plain = World()
    world = World(plain_store=DirectoryStore(folder, plain.clock, plain.random))
    process = world.began()
    for number in range(1, HEAD + 1):
        process.archive(wal_file(tmp_path / "wal", name_of(number)))
    config = tmp_path / "walarchiver.toml"
    config.write_text(
        f'[server]\nstate = "{tmp_path}/state"\n[repository.main]\nurl = "file://{folder}"\n'
        f'root = "{world.new.root}"\n[cluster.main]\n'
    )
    yield Stage(world, folder, config, capsys)
    world.store.close()


def test_a_whole_chain_says_where_its_head_is_and_what_that_bounds(stage: Stage) -> None:
    assert stage.verify() == 0
    text = stage.out.readouterr().out
    assert f"{HEAD + 1} entries verified" in text
    assert f"{HEAD} wal" in text
    assert "keyring  1: in force from entry 0" in text
    head = stage.head()
    assert f"head     {head} written 2026-" in text
    assert f"Keep {head} elsewhere" in text
    status, said = stage.said("--min-checkpoint", head, "--entries")
    assert status == 0
    assert said["void"] == said["strays"] == []
    assert isinstance(entries := said["entry"], list)
    assert [entry["seq"] for entry in entries] == list(range(HEAD + 1))
    assert not (stage.config.parent / "state").exists(), "the local catalog has no part in this"


def test_entries_cut_off_the_end_show_only_against_a_checkpoint(stage: Stage) -> None:
    seen = stage.head()
    stage.entry(HEAD).unlink()
    status, said = stage.said()
    assert (status, said["entries"]) == (0, HEAD)
    older = stage.head()
    assert stage.verify("--min-checkpoint", seen) == 15
    failure = stage.out.readouterr().err
    assert "WA-LEDGER" in failure
    assert f"entry {HEAD} was seen in it before" in failure
    assert stage.verify("--min-checkpoint", older) == 0


def test_a_whole_ledger_that_is_gone_is_no_empty_one(stage: Stage) -> None:
    seen = stage.head()
    for seq in range(HEAD + 1):
        stage.entry(seq).unlink()
    for words in ((), ("--min-checkpoint", seen)):
        assert stage.verify(*words) == 15
        assert "WA-LEDGER" in stage.out.readouterr().err


def test_another_hash_than_the_checkpoints_is_refused(stage: Stage) -> None:
    assert stage.verify("--min-checkpoint", f"2:{'a' * 64}") == 15
    assert f"not {'a' * 64}" in stage.out.readouterr().err


@pytest.mark.parametrize("text", ["", "4", "4:", "4:abc", f"-1:{'a' * 64}", f"4:{'A' * 64}"])
def test_what_is_no_checkpoint_is_a_wrong_command_line(stage: Stage, text: str) -> None:
    assert stage.verify(f"--min-checkpoint={text}") == 2


def test_a_hole_inside_breaks_the_chain(stage: Stage) -> None:
    stage.entry(3).unlink()
    assert stage.verify() == 15
    assert "entry 3 of system" in stage.out.readouterr().err


@pytest.mark.parametrize("at", [50, -20])
def test_a_changed_entry_takes_all_behind_it_along_and_is_told_from_a_strangers(
    stage: Stage, at: int
) -> None:
    seen = stage.head()
    content = bytearray(stage.entry(3).read_bytes())
    content[at] ^= 1
    stage.entry(3).write_bytes(content)
    status, said = stage.said()
    assert status == 15
    assert isinstance(voids := said["void"], list)
    assert [(void["seq"], void["settled"]) for void in voids] == [(n, False) for n in range(3, HEAD + 1)]
    assert (said["signed_void"], said["code"]) == (4, "WA-LEDGER")
    assert stage.verify("--min-checkpoint", seen) == 15
    assert f"entry {HEAD} of system {SYSTEM} is void" in stage.out.readouterr().err


def test_a_void_entry_at_the_head_is_an_alarm_until_the_next_one_settles_it(
    stage: Stage, tmp_path: Path
) -> None:
    seen = stage.head()
    stage.entry(HEAD + 1).write_bytes(b"a stranger's")
    assert stage.verify() == 3
    text = stage.out.readouterr().out
    assert f"void     {HEAD + 1}:" in text
    assert "no later entry settles it" in text
    stage.world.process().archive(wal_file(tmp_path / "wal", name_of(HEAD + 1)))
    status, said = stage.said("--min-checkpoint", seen)
    assert status == 0
    assert isinstance(voids := said["void"], list)
    assert [(void["seq"], void["settled"]) for void in voids] == [(HEAD + 1, True)]
    assert said["entries"] == HEAD + 2


def test_a_void_number_is_no_checkpoint_even_with_its_hash(stage: Stage) -> None:
    stage.entry(HEAD + 1).write_bytes(b"a stranger's")
    _, said = stage.said()
    assert isinstance(voids := said["void"], list)
    assert stage.verify("--min-checkpoint", f"{HEAD + 1}:{voids[0]['sha256']}") == 15


def test_a_strangers_object_far_behind_the_head_is_reported(stage: Stage) -> None:
    stage.entry(500).write_bytes(b"junk")
    status, said = stage.said()
    assert (status, said["strays"]) == (3, [ledger_key(SYSTEM, 500)])


def test_progress_tells_how_far_it_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walarchiver.cli.ledger._PROGRESS_EVERY", 3)
    assert stage.verify() == 0
    assert stage.out.readouterr().err.splitlines() == [
        "ledger verify: 3 entries read",
        "ledger verify: 6 entries read",
    ]


def test_an_audit_of_another_root_is_refused(stage: Stage) -> None:
    stage.config.write_text(stage.config.read_text().replace(stage.world.new.root, World().new.root))
    assert stage.verify() == 15
    assert "root" in stage.out.readouterr().err


def test_a_checkpoint_is_looked_for_by_number_and_hash() -> None:
    line = ledgeraudit.AuditedEntry(0, "a" * 64, 0, "", (), void=False)
    audit = ledgeraudit.Audit(SYSTEM, "main", (line,), (), (), None)
    audit.require(ledgeraudit.SeenEntry(0, "a" * 64))
    for seq, sha256 in ((0, "b" * 64), (1, "a" * 64)):
        with pytest.raises(LedgerBroken):
            audit.require(ledgeraudit.SeenEntry(seq, sha256))


# --- checkpoints that were kept elsewhere ---------------------------------------------------------------


def keep_elsewhere(stage: Stage, place: Path, *, configured: bool = True) -> Path:
    """What the daemon does hourly; the file that it made."""
    place.mkdir(exist_ok=True)
    process = stage.world.process()
    process.ledger.refresh()
    store = DirectoryStore(place, stage.world.clock, stage.world.random)
    repository, in_force = process.repository, process.catalog.keyring_at
    kept = SecondPlace(store, repository, repo=repository.repo, system=SYSTEM, in_force=in_force)
    keeper = Checkpointer(
        process.ledger, process.signer, stage.world.clock, place_url=store.url, open_place=lambda: kept
    )
    before = set(place.rglob("*.json"))
    assert keeper.keep()
    if configured:
        stage.config.write_text(f'{stage.config.read_text()}checkpoints = "file://{place}"\n')
    (made,) = set(place.rglob("*.json")) - before
    return made


def cut(stage: Stage) -> None:
    stage.entry(HEAD).unlink()


def test_the_second_place_bounds_what_could_have_been_cut_off(stage: Stage, tmp_path: Path) -> None:
    assert stage.verify() == 0
    text = stage.out.readouterr().out
    assert "outside  nothing: no second place for checkpoints is configured" in text
    assert "bound    none" in text
    keep_elsewhere(stage, tmp_path / "elsewhere")
    assert stage.verify() == 0
    text = stage.out.readouterr().out
    assert f"bound    truncation would be seen back to entry {HEAD} (2026-11-22T12:00:00.000000Z)" in text
    _, said = stage.said()
    assert isinstance(bound := said["bound"], dict)
    assert f"{bound['seq']}:{bound['sha256']}" == stage.head()
    cut(stage)
    assert stage.verify() == 15
    assert f"entry {HEAD} was seen in it before" in stage.out.readouterr().err


@pytest.mark.parametrize("form", ["file", "folder", "url", "deep folder"])
def test_a_min_checkpoint_may_be_a_file_or_a_folder(stage: Stage, tmp_path: Path, form: str) -> None:
    place = tmp_path / "copied away"
    made = keep_elsewhere(stage, place, configured=False)
    words = {
        "file": str(made),
        "folder": str(place),
        "url": place.as_uri(),
        "deep folder": str(made.parent),
    }
    assert stage.verify("--min-checkpoint", words[form]) == 0
    assert f"contains {HEAD}:" in stage.out.readouterr().out
    cut(stage)
    assert stage.verify() == 0
    assert stage.verify("--min-checkpoint", words[form]) == 15
    assert "WA-LEDGER" in stage.out.readouterr().err


def test_of_a_folder_the_newest_checkpoint_that_verifies_counts(stage: Stage, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    made = keep_elsewhere(stage, place, configured=False)
    (made.parent / f"{99:016x}.json").write_bytes(made.read_bytes())
    (made.parent / f"{98:016x}.json").write_bytes(b"junk")
    (made.parent / "notes.json").write_bytes(b"{}")
    assert stage.verify("--min-checkpoint", str(place)) == 0
    said = stage.out.readouterr()
    assert f"contains {HEAD}:" in said.out
    assert said.err.count("is not used") == 2
    made.unlink()
    assert stage.verify("--min-checkpoint", str(place)) == 15
    assert "no checkpoint of system" in stage.out.readouterr().err


@pytest.mark.parametrize("content", [b"", b"junk", "flipped", "of another repository"])
def test_a_file_that_is_no_checkpoint_of_this_chain_is_not_believed(
    stage: Stage, tmp_path: Path, content: bytes | str
) -> None:
    made = keep_elsewhere(stage, tmp_path / "elsewhere", configured=False)
    raw = bytearray(made.read_bytes())
    raw[-10] = ord("0") if raw[-10] != ord("0") else ord("1")
    if content == "of another repository":
        other = World()
        raw = bytearray(
            sign_checkpoint(
                Checkpoint(other.new.repo, SYSTEM, HEAD, "0" * 64, 0, 1, other.key("writer").signer().id),
                other.key("writer").signer(),
            )
        )
    file = tmp_path / "checkpoint"
    file.write_bytes(content if isinstance(content, bytes) else bytes(raw))
    assert stage.verify("--min-checkpoint", str(file)) == 15


def test_a_second_place_that_is_away_is_said_and_degrades(stage: Stage, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    keep_elsewhere(stage, place)
    place.rename(tmp_path / "unmounted")
    status, said = stage.said()
    assert status == 3
    assert said["second_place"] == {"place": place.as_uri(), "newest": None, "failure": "WA-STORE-DENIED"}
    assert said["bound"] is None


# --- roll-ups -----------------------------------------------------------------------------------------------


def audited(stage: Stage, block: int) -> ledgeraudit.Audit:
    return ledgeraudit.audit_ledger(stage.world.repository(), SYSTEM, block=block)


def roll_up(stage: Stage, block: int) -> list[Path]:
    process = stage.world.process()
    ledger = Ledger(
        store=stage.world.store,
        repo=process.repository.repo,
        system=SYSTEM,
        catalog=process.catalog,
        keyrings=process.repository,
        block=block,
    )
    ledger.refresh()
    assert RollupWriter(ledger).write_missing() == (HEAD + 1) // block
    return sorted((stage.folder / f"v1/c/{SYSTEM}/roll").iterdir())


def test_an_audit_reads_roll_ups_and_the_names_that_are_left_beside_them(stage: Stage) -> None:
    before = audited(stage, 3)
    first, second = roll_up(stage, 3)
    after = audited(stage, 3)
    assert after.rolled_up == (0, 3)
    assert (after.entries, after.keyrings) == (before.entries, before.keyrings)
    stage.entry(0).unlink()
    assert audited(stage, 3).entries == before.entries
    stage.entry(1).write_bytes(b"junk")
    found = audited(stage, 3)
    assert (found.entries, found.differing) == (before.entries, (1,))
    first.write_bytes(b"junk")
    with pytest.raises(LedgerBroken, match="entry 0"):
        audited(stage, 3)
    second.unlink()


def test_a_roll_up_that_is_not_valid_degrades_an_audit(stage: Stage) -> None:
    before = audited(stage, 3)
    roll_up(stage, 3)[1].write_bytes(b"junk")
    found = audited(stage, 3)
    assert (found.entries, found.rolled_up, found.differing) == (before.entries, (0,), ())
    (refused,) = found.refused
    assert "/roll/0000000000000003-0000000000000005.zst: " in refused


@pytest.mark.parametrize(("differing", "refused", "status"), [((1,), (), 15), ((), ("roll: why",), 3)])
def test_what_an_audit_finds_at_roll_ups_is_told(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    differing: tuple[int, ...],
    refused: tuple[str, ...],
    status: int,
) -> None:
    found = replace(audited(stage, 3), differing=differing, refused=refused)
    monkeypatch.setattr("walarchiver.cli.ledger.audit_ledger", lambda *_args: found)
    assert stage.verify() == status
    text = stage.out.readouterr().out
    assert "next: " in text
    assert "differs  entry 1 is another one" in text or "refused  roll: why" in text
