"""The stand-alone reader, as the program that it is: all vectors, and a repository just written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import walarchiver.backup
import walarchiver.backupparts
from tests.simulation.test_archiver import HISTORY, LABEL
from tests.simulation.test_backup import MANIFEST, STREAMS, played, take
from tests.simulation.world import SYSTEM, World, name_of, segment_bytes, wal_file
from walarchiver.bucketports import Observation
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.pinning import PinnedVersion
from walarchiver.core.version import StoreMs
from walarchiver.evidence.journalsink import Keeping, RepositorySink
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.parquetrows import read_table
from walarchiver.evidence.pins import Pinned, write_pin
from walarchiver.evidence.shipping import Shipper, Watched
from walarchiver.format.codec import KNOWN_KINDS
from walarchiver.format.records import WalRecord
from walarchiver.storage.directory import DirectoryStore

ROOT = Path(__file__).resolve().parents[2]
READER = ROOT / "docs/reader"
LABEL_NAME = f"{name_of(1)}.00000028.backup"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """The reader in an interpreter of its own that finds nothing of this repository by itself."""
    texts = [str(word) for word in words]
    return subprocess.run(
        [sys.executable, "-IB", *texts], capture_output=True, text=True, timeout=120, check=False
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
    monkeypatch.setattr(walarchiver.backupparts, "PARTS_PER_RECORD", 3)
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


def joined(folder: Path, pattern: str) -> bytes:
    """The parts of one stream of a backup, in the order of their names."""
    return b"".join(file.read_bytes() for file in sorted(folder.glob(pattern)))


@pytest.mark.parametrize("key", ["alice", "bob"])
def test_each_custodian_alone_lists_and_gets_everything(scene: Scene, tmp_path: Path, key: str) -> None:
    assert len(scene.files("keys/*.json")) > 1
    listed = scene.read(key=key)
    assert listed.returncode == 0, listed.stderr
    for shown in (name_of(1), '"kind":"cluster"', LABEL_NAME, f'"backup":"{scene.backup}"'):
        assert shown in listed.stdout
    assert "ALARM" not in listed.stdout
    out = tmp_path / "out"
    done = scene.read(out, key=key)
    assert done.returncode == 0, done.stderr
    below = out / SYSTEM
    assert [(below / n).read_bytes() for n in (name_of(1), name_of(2), LABEL_NAME, "00000002.history")] == [
        segment_bytes(name_of(1)),
        segment_bytes(name_of(2)),
        LABEL,
        HISTORY,
    ]
    for stream, content in STREAMS.items():
        assert joined(below / scene.backup, f"{stream.number}.tar.*") == content
    assert joined(below / scene.backup, "*.manifest.*") == MANIFEST
    assert joined(below / scene.backup, "*.config.*") == b"conf"


def test_a_name_opens_only_what_begins_with_it(scene: Scene, tmp_path: Path) -> None:
    assert scene.read(tmp_path / "out", name_of(2)).returncode == 0
    assert [path.name for path in (tmp_path / "out" / SYSTEM).iterdir()] == [name_of(2)]


def test_what_is_kept_of_the_bucket_is_opened_too(scene: Scene, tmp_path: Path) -> None:
    process = scene.world.began()
    keeping = Keeping(process.depositor, process.ledger)
    restore, pin = "20261122T143206Z-1f2e3d4c", "20261122T143207Z-1f2e3d4c"
    RepositorySink(lambda: keeping, bucket="evidence.1", restore=restore).put("plan", 0, b'{"result":0}\n')
    pinned = Pinned(
        pin=pin,
        backup=scene.backup,
        timeline=1,
        lsn=Lsn(0x3000148),
        time=CommitTime(1_795_357_926_000_000),
        cutoff=StoreMs(1_795_357_926_000),
        kept_in="",
        reason="a test",
    )
    versions = [PinnedVersion(f"key {n}", f"v{n}", n, "", StoreMs(n), "STANDARD") for n in range(3)]
    watched = Watched("evidence.1", "")
    write_pin(
        pinned,
        watched,
        iter(versions),
        depositor=process.depositor,
        ledger=process.ledger,
        folder=tmp_path,
        part_rows=2,
    )
    with closing(open_index(tmp_path / "index.sqlite")) as index:
        index.observe(Observation(StoreMs(5000), "scan", "{}"))
        Shipper(
            index,
            watched,
            depositor=process.depositor,
            ledger=process.ledger,
            writer=process.signer.id,
            random=scene.world.random,
            folder=tmp_path,
        ).ship()
        (generation,) = [seen.value for seen in index.observations() if seen.kind == "generation"]
    done = scene.read(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    below = tmp_path / "out" / SYSTEM
    assert (below / restore / "0").read_bytes() == b'{"result":0}\n'
    rows = [row for n in (0, 1) for row in read_table(("key", "size"), below / pin / str(n))]
    assert rows == [("key 0", 0), ("key 1", 1), ("key 2", 2)]
    assert b'"kind":"scan"' in (below / generation / "0").read_bytes()


def test_a_writer_lists_and_opens_nothing(scene: Scene, tmp_path: Path) -> None:
    assert scene.read(key="writer").returncode == 0
    assert "is wrapped to" in scene.refused(tmp_path / "out", name_of(1), key="writer")
    assert not (tmp_path / "out" / SYSTEM / name_of(1)).exists()


def test_what_is_there_already_is_not_overwritten(scene: Scene, tmp_path: Path) -> None:
    assert scene.read(tmp_path, name_of(1)).returncode == 0
    assert "FileExistsError" in scene.refused(tmp_path, name_of(1))


def flip(path: Path, at: int = 40) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [40, -60])
def test_a_tampered_keyring_is_refused(scene: Scene, at: int) -> None:
    flip(scene.folder / "v1/keyring/0001.json", at)
    assert scene.refused().startswith("refused: ")


def test_a_tampered_label_in_the_mark_is_refused(scene: Scene) -> None:
    mark = scene.folder / "v1/REPO"
    mark.write_bytes(mark.read_bytes().replace(b'"name":"repo"', b'"name":"rapo"'))
    assert "another home" in scene.refused()


def test_another_root_is_refused(scene: Scene) -> None:
    stranger = World()
    (scene.keys / "other.key").write_text(stranger.new.key_files["custodian-alice.key"])
    assert "signed by the root" in scene.refused(key="other")


@pytest.mark.parametrize("at", [40, -3])
def test_a_tampered_entry_is_void_and_takes_those_behind_it_along(
    scene: Scene, tmp_path: Path, at: int
) -> None:
    entries = scene.files("ledger/*")
    flip(entries[1], at)
    listed = scene.read()
    assert listed.stdout.count("ALARM entry") == len(entries) - 1
    assert "1 valid entries" in listed.stdout
    scene.read(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_entry_is_an_alarm_and_nothing_behind_it_counts(scene: Scene) -> None:
    scene.files("ledger/*")[1].unlink()
    listed = scene.read()
    assert "ALARM entry 1 is missing" in listed.stdout
    assert "1 valid entries" in listed.stdout


def test_a_strangers_object_behind_the_head_is_reported(scene: Scene) -> None:
    far = scene.files("ledger/*")[0].with_name(f"{900:016x}.json")
    far.write_bytes(b"junk")
    assert f"ALARM entry {len(scene.files('ledger/*')) - 1} is missing" in scene.read().stdout


@pytest.mark.parametrize("what", ["wal/*/*/*", "base/*/*"])
def test_a_tampered_object_is_refused_and_nothing_takes_its_name(
    scene: Scene, tmp_path: Path, what: str
) -> None:
    flip(scene.files(what)[0], -40)
    name = name_of(1) if what.startswith("wal") else scene.backup
    assert "damaged" in scene.refused(tmp_path / "out", name)
    opened = sum(path.is_file() for path in (tmp_path / "out").rglob("*"))
    assert opened < len(scene.files(what))


def test_a_recorded_object_that_is_gone_is_damage(scene: Scene, tmp_path: Path) -> None:
    scene.files("wal/*/*/*")[0].unlink()
    assert "FileNotFoundError" in scene.refused(tmp_path / "out", name_of(1))


def test_a_tampered_key_object_is_refused(scene: Scene, tmp_path: Path) -> None:
    for file in scene.files("keys/*"):
        flip(file)
    assert "refused" in scene.refused(tmp_path / "out", name_of(1))


def test_the_shapes_name_every_kind_of_record() -> None:
    lines = (READER / "shapes.txt").read_text("ascii").splitlines()
    named = {line.split()[0].removeprefix("record.") for line in lines if line.startswith("record.")}
    assert named - {"other"} == KNOWN_KINDS
    assert WalRecord.kind in KNOWN_KINDS
