"""The stand-alone reader, as the program that it is: all vectors, and a repository just written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import walarchiver.backup
from tests.simulation.test_archiver import HISTORY, LABEL
from tests.simulation.test_backup import MANIFEST, STREAMS, played, take
from tests.simulation.world import MASTER, SYSTEM, World, name_of, segment_bytes, wal_file
from walarchiver.format.codec import KNOWN_KINDS
from walarchiver.format.records import WalRecord
from walarchiver.storage.directory import DirectoryStore

ROOT = Path(__file__).resolve().parents[2]
READER = ROOT / "docs/reader"
LABEL_NAME = f"{name_of(1)}.00000028.backup"
NO_BLAKE3 = "import sys; sys.modules['blake3'] = None; import runpy; sys.argv = sys.argv[1:]; "


def run(*words: object, without_blake3: bool = False) -> subprocess.CompletedProcess[str]:
    """The reader in an interpreter of its own that finds nothing of this repository by itself."""
    start = ["-c", NO_BLAKE3 + "runpy.run_path(sys.argv[0], run_name='__main__')"] if without_blake3 else []
    texts = [str(word) for word in words]
    return subprocess.run(
        [sys.executable, "-IB", *start, *texts], capture_output=True, text=True, timeout=120, check=False
    )


@dataclass
class Scene:
    """A repository in a folder as two daemons after another left it, and its key files."""

    world: World
    folder: Path
    keys: Path
    backup: str

    def read(self, *words: object, key: str = "alice") -> subprocess.CompletedProcess[str]:
        return run(READER / "reader.py", self.folder, self.keys / f"{key}.key", *words)

    def files(self, pattern: str) -> list[Path]:
        found = sorted(self.folder.glob(f"v1/c/{SYSTEM}/{pattern}"))
        assert found
        return found

    def refused(self, *words: object, key: str = "alice") -> str:
        done = self.read(*words, key=key)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(walarchiver.backup, "stream_base_backup", played())
    monkeypatch.setattr(walarchiver.backup, "_PARTS_PER_RECORD", 3)
    folder, keys = tmp_path / "repository", tmp_path / "keys"
    folder.mkdir()
    keys.mkdir()
    plain = World()
    world = World(plain_store=DirectoryStore(folder, plain.clock, plain.random), master=True)
    first = world.began()
    first.archive(wal_file(tmp_path / "wal", name_of(1)), wal_file(tmp_path / "wal", LABEL_NAME, LABEL))
    second = world.began()
    backup = take(second).backup
    second.archive(
        wal_file(tmp_path / "wal", name_of(2)), wal_file(tmp_path / "wal", "00000002.history", HISTORY)
    )
    for name in ("alice", "bob"):
        (keys / f"{name}.key").write_text(world.new.key_files[f"custodian-{name}.key"])
    (keys / "writer.key").write_text(world.new.key_files["writer.key"])
    yield Scene(world, folder, keys, backup)
    world.store.close()


def test_every_vector_is_read_as_it_says_by_a_program_that_knows_only_the_text() -> None:
    done = run(Path(__file__).with_name("by_reader.py"), READER, Path(__file__).parent)
    count = sum(len(json.loads(file.read_text())["cases"]) for file in Path(__file__).parent.glob("*.json"))
    assert done.stdout == f"{count} vectors, 0 not as they say, helped by []\n", done.stderr
    assert done.returncode == 0


def test_a_case_that_says_otherwise_is_reported(tmp_path: Path) -> None:
    for file in Path(__file__).parent.glob("*.json"):
        content = json.loads(file.read_text())
        for case in content["cases"]:
            if case["name"] in ("1 bytes", "void: role"):
                case["expect"] = "ObjectDamaged"
        (tmp_path / file.name).write_text(json.dumps(content))
    done = run(Path(__file__).with_name("by_reader.py"), READER, tmp_path)
    assert done.returncode == 1
    assert "sealed: 1 bytes: expected ObjectDamaged, read as good" in done.stdout
    assert "2 not as they say" in done.stdout


@pytest.mark.parametrize("key", ["alice", "bob"])
def test_each_custodian_alone_lists_and_gets_everything(scene: Scene, tmp_path: Path, key: str) -> None:
    assert len(scene.files("keys/*.json")) > 1
    listed = scene.read(key=key)
    assert listed.returncode == 0, listed.stderr
    for shown in (
        f"wal name={name_of(1)} len=1048576",
        "cluster name=main major=15",
        f"label name={LABEL_NAME}",
    ):
        assert shown in listed.stdout
    assert f"backup backup={scene.backup}" in listed.stdout
    assert "ALARM" not in listed.stdout
    out = tmp_path / "out"
    names = [name_of(1), name_of(2), LABEL_NAME, "00000002.history", scene.backup]
    done = scene.read(out, *names, key=key)
    assert done.returncode == 0, done.stderr
    below = out / SYSTEM
    assert [(below / name).read_bytes() for name in names[:4]] == [
        segment_bytes(name_of(1)),
        segment_bytes(name_of(2)),
        LABEL,
        HISTORY,
    ]
    for stream, content in STREAMS.items():
        assert (below / scene.backup / f"{stream.number}.tar").read_bytes() == content
    assert (below / scene.backup / "backup_manifest").read_bytes() == MANIFEST
    assert (below / scene.backup / "config.tar").read_bytes() == b"conf"
    assert not list(out.rglob("unproven.*"))


def test_the_master_key_with_the_root_reads_as_a_custodian_does(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "master").write_text(bytes(range(32)).hex() + "\n")
    assert MASTER.recipient
    key = f"{tmp_path / 'master'}:{scene.world.new.root}"
    done = run(READER / "reader.py", scene.folder, key, tmp_path / "out", name_of(1))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / SYSTEM / name_of(1)).read_bytes() == segment_bytes(name_of(1))


def test_a_writer_lists_and_opens_nothing(scene: Scene, tmp_path: Path) -> None:
    assert scene.read(key="writer").returncode == 0
    assert "is wrapped to" in scene.refused(tmp_path / "out", name_of(1), key="writer")
    assert not (tmp_path / "out" / SYSTEM / name_of(1)).exists()


def test_without_blake3_a_note_says_what_was_not_compared(scene: Scene, tmp_path: Path) -> None:
    words = (READER / "reader.py", scene.folder, scene.keys / "alice.key", tmp_path / "out", name_of(1))
    done = run(*words, without_blake3=True)
    assert done.returncode == 0, done.stderr
    assert "note: without the package blake3" in done.stdout
    assert "note" not in scene.read().stdout


def test_what_is_there_already_is_not_overwritten(scene: Scene, tmp_path: Path) -> None:
    assert scene.read(tmp_path, name_of(1)).returncode == 0
    assert "is there" in scene.refused(tmp_path, name_of(1))


def test_a_name_without_a_record_is_refused(scene: Scene, tmp_path: Path) -> None:
    assert f"no valid record of {name_of(7)}" in scene.refused(tmp_path / "out", name_of(7))


def flip(path: Path, at: int = 40) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [40, -60])
def test_a_tampered_keyring_is_refused(scene: Scene, at: int) -> None:
    flip(scene.folder / "v1/keyring/0001.json", at)
    assert scene.refused().startswith("refused: ")


def test_another_root_is_refused(scene: Scene) -> None:
    stranger = World()
    (scene.keys / "other.key").write_text(stranger.new.key_files["custodian-alice.key"])
    assert "root" in scene.refused(key="other")


@pytest.mark.parametrize("at", [40, -3])
def test_a_tampered_entry_is_void_and_takes_those_behind_it_along(
    scene: Scene, tmp_path: Path, at: int
) -> None:
    entries = scene.files("ledger/*")
    flip(entries[1], at)
    listed = scene.read()
    assert listed.stdout.count("ALARM entry") == len(entries) - 1
    assert "1 entries verified" in listed.stdout
    assert "no valid record" in scene.refused(tmp_path / "out", name_of(2))


def test_a_missing_entry_breaks_the_chain(scene: Scene) -> None:
    scene.files("ledger/*")[1].unlink()
    assert "the chain is broken: entry 1 is missing before entry 2" in scene.refused()


def test_a_strangers_object_behind_the_head_is_reported(scene: Scene) -> None:
    far = scene.files("ledger/*")[0].with_name(f"{900:016x}.json")
    far.write_bytes(b"junk")
    listed = scene.read()
    assert listed.returncode == 0
    assert "ALARM object 900" in listed.stdout


@pytest.mark.parametrize("what", ["wal/*/*/*", "base/*/*"])
def test_a_tampered_object_is_refused_and_nothing_takes_its_name(
    scene: Scene, tmp_path: Path, what: str
) -> None:
    flip(scene.files(what)[0], -40)
    name = name_of(1) if what.startswith("wal") else scene.backup
    assert "is damaged" in scene.refused(tmp_path / "out", name)
    assert all(file.name.startswith("unproven.") for file in (tmp_path / "out").rglob("*") if file.is_file())


def test_a_recorded_object_that_is_gone_is_damage(scene: Scene, tmp_path: Path) -> None:
    scene.files("wal/*/*/*")[0].unlink()
    assert "recorded but not there" in scene.refused(tmp_path / "out", name_of(1))


def test_a_tampered_key_object_is_refused(scene: Scene, tmp_path: Path) -> None:
    for file in scene.files("keys/*"):
        flip(file)
    assert "refused" in scene.refused(tmp_path / "out", name_of(1))


def test_the_shapes_name_every_kind_of_record() -> None:
    lines = (READER / "shapes.txt").read_text("ascii").splitlines()
    assert {line.split()[0][1:] for line in lines if line.startswith(".")} == KNOWN_KINDS
    assert WalRecord.kind in KNOWN_KINDS
