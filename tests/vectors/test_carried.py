"""What a repository carries along is what this tree has, and is enough to read the repository."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.simulation.world import World
from tests.vectors.carry import CARRIED, sources, vectors
from walarchiver.core.objectname import reader_key
from walarchiver.keys.carried import carried_files, write_carried_files
from walarchiver.storage.directory import DirectoryStore
from walarchiver.storage.memory import MemoryStore

AGAIN = "run `python -m tests.vectors.carry`"


def test_the_package_holds_what_docs_and_vectors_say() -> None:
    kept = {file.name: file.read_bytes() for file in CARRIED.iterdir()}
    with zipfile.ZipFile(io.BytesIO(kept.pop("vectors.zip"))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == vectors(), AGAIN
    assert kept == {name: source.read_bytes() for name, source in sources().items()}, AGAIN


def test_the_names_in_the_repository_are_those_of_the_programs() -> None:
    names = {"format.md", "reader.py", "shapes.txt", "vectors.zip"}
    assert set(carried_files()) == names


def test_what_is_there_stays() -> None:
    store = MemoryStore(World().clock)
    store.put_new(reader_key("format.md"), b"an older text")
    write_carried_files(store)
    write_carried_files(store)
    assert store.get("v1/reader/format.md", bytes_max=100) == b"an older text"
    assert store.get("v1/reader/reader.py", bytes_max=1 << 20) == carried_files()["reader.py"]


@pytest.mark.parametrize("name", ["", "../REPO", "a/b", ".hidden", "Ä"])
def test_a_name_that_leads_elsewhere_is_a_bug(name: str) -> None:
    with pytest.raises(ValueError, match="reader"):
        reader_key(name)


def test_a_copy_of_the_repository_reads_itself(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    plain = World()
    world = World(plain_store=DirectoryStore(folder, plain.clock, plain.random))
    write_carried_files(world.store)
    world.began()
    (tmp_path / "alice.key").write_text(world.new.key_files["custodian-alice.key"])
    (tmp_path / "vectors").mkdir()
    with zipfile.ZipFile(folder / "v1/reader/vectors.zip") as archive:
        archive.extractall(tmp_path / "vectors")
    reader = folder / "v1/reader"
    for words in (
        [reader / "reader.py", folder, tmp_path / "alice.key"],
        [tmp_path / "vectors/by_reader.py", reader, tmp_path / "vectors"],
    ):
        done = subprocess.run(
            [sys.executable, "-IB", *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
