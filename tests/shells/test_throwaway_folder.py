"""Folders of throwaway instances: what is removed, and above all what is not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from restore.throwawayfolder import DATA, MARKER, end_servers, remove_abandoned, throwaway_folder
from walarchiver.errors import UsageError


def abandoned(root: Path, name: str = "peek-0123abcd") -> Path:
    """What a maker that was killed leaves."""
    folder = root / name
    (folder / DATA / "base").mkdir(parents=True)
    (folder / DATA / "base" / "1").write_text("rows")
    (folder / MARKER).write_text(json.dumps({"pid": 1, "boot": "another", "at": "latest"}))
    return folder


def test_a_folder_is_private_marked_and_gone_afterwards(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with throwaway_folder(root, "peek", "0123abcd", None, {"at": "noon"}) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        marker = json.loads((folder / MARKER).read_text())
        assert (marker["pid"], marker["at"]) == (os.getpid(), "noon")
        assert marker["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (folder / DATA).mkdir()
        (folder / DATA / "file").touch()
        assert remove_abandoned(root) == ()  # its maker lives
        assert (folder / DATA / "file").exists()
    assert list(root.iterdir()) == []


def test_only_what_has_our_name_and_our_marker_is_removed(tmp_path: Path) -> None:
    dead = abandoned(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / MARKER).touch()
    (tmp_path / "peek-01234567").mkdir()
    (tmp_path / "peek-01234567" / "data").mkdir()
    (tmp_path / "rescue-00000000").mkdir()
    (tmp_path / "peek-76543210").symlink_to(tmp_path / "precious")
    (one,) = remove_abandoned(tmp_path)
    assert (one.folder, one.about["at"], one.ended) == (dead, "latest", ())
    assert "pid 1" in one.line
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"precious", "peek-01234567", "peek-76543210"}  # an empty folder of ours goes too
    assert (tmp_path / "precious" / MARKER).exists()
    assert remove_abandoned(tmp_path) == ()


def test_an_interrupted_removal_is_gone_on_with(tmp_path: Path) -> None:
    folder = abandoned(tmp_path)
    shutil.rmtree(folder / DATA)
    (folder / MARKER).write_text("")  # as a power cut leaves it
    (one,) = remove_abandoned(tmp_path)
    assert (one.folder, dict(one.about)) == (folder, {})
    assert list(tmp_path.iterdir()) == []


def test_a_link_inside_is_removed_but_not_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "kept").touch()
    folder = abandoned(root)
    (folder / "link").symlink_to(outside)
    (folder / DATA / "link").symlink_to(outside)
    remove_abandoned(root)
    assert (outside / "kept").exists()
    assert list(root.iterdir()) == []


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait(60)


def asleep(program: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([program, "60"], cwd=folder)


def test_a_process_is_ended_only_when_it_is_the_folders_own_server(
    tmp_path: Path, sleeper: list[subprocess.Popen[bytes]]
) -> None:
    folder = abandoned(tmp_path)
    sleep = shutil.which("sleep")
    assert sleep is not None
    server = tmp_path / "postgres"  # what /proc shows is the file's name
    shutil.copy(sleep, server)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stranger = asleep(sleep, folder / DATA)  # somebody's shell in there
    other = asleep(str(server), elsewhere)  # another cluster's server, though postmaster.pid names it
    ours = asleep(str(server), folder / DATA)
    sleeper += [stranger, other, ours]
    (folder / DATA / "postmaster.pid").write_text(f"{other.pid}\n{folder / DATA}\n")
    assert end_servers(folder / DATA) == (ours.pid,)
    assert ours.wait(60) == -signal.SIGKILL
    assert (stranger.poll(), other.poll()) == (None, None)


def test_a_place_that_cannot_be_made_is_a_plain_refusal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "x"
    with pytest.raises(UsageError) as told, throwaway_folder(place, "peek", "0123abcd", None, {}):
        pytest.fail("it was made")
    assert "--workdir" in told.value.next_step


@pytest.mark.skipif(sys.platform != "linux", reason="flock and /proc as Linux has them")
def test_the_lock_is_gone_with_its_maker(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from restore.throwawayfolder import throwaway_folder\n"
        "with throwaway_folder(Path(sys.argv[1]), 'rescue', '0123abcd', None, {}):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "rescue-0123abcd" / MARKER).exists()
    (one,) = remove_abandoned(tmp_path)
    assert one.folder.name == "rescue-0123abcd"
