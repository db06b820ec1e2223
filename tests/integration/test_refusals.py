"""What must never enter the archive, offered through the real hook: refused, said why, nothing stored."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable

import pytest

from tests.integration.scene import PATIENCE_S, Scene, Scenes, Told
from tests.kit.postgres import PostgresFactory, as_server_user
from walarchiver.core.segment import Segment
from walarchiver.embedded.postgres import MIB

OTHER = 65533


def offer(scene: Scene, path: str, *, as_user: int | None = None) -> Told:
    """Run archive_command by hand, where and as whom PostgreSQL runs it."""
    run_as = scene.cluster.run_as
    done = subprocess.run(
        [str(scene.stage.hook), "--socket", str(scene.stage.socket), "push", path],
        capture_output=True,
        text=True,
        cwd=scene.cluster.data_dir if as_user is None else "/",
        timeout=PATIENCE_S,
        check=False,
        user=as_user if as_user is not None else (run_as.uid if run_as else None),
    )
    return Told(done.returncode, done.stdout, done.stderr)


def stored(scene: Scene) -> set[str]:
    """Everything in the repository's folder."""
    root = scene.stage.folder / "repository"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def future(scene: Scene, ahead: int = 50) -> tuple[str, Segment]:
    """A segment that PostgreSQL will not reach in this test."""
    newest = scene.open().catalog.newest_segment(scene.open().segment_size)
    assert newest is not None
    segment = Segment(newest.timeline, newest.number + ahead)
    return segment.name(scene.open().segment_size), segment


def segment_of(scene: Scene, name: str) -> bytes:
    return (scene.cluster.data_dir / "pg_wal" / name).read_bytes()


def corrupt_page(whole: bytes) -> bytes:
    """The second page's address is another's."""
    return whole[: 8192 + 8] + bytes([whole[8192 + 8] ^ 0x40]) + whole[8192 + 9 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _whole: b"",
    "short": lambda whole: whole[: MIB // 2],
    "a byte short": lambda whole: whole[:-1],
    "oversized": lambda whole: whole + b"\0" * 8192,
    "all zero": lambda _whole: bytes(MIB),
    "garbage": lambda _whole: b"\xa5" * MIB,
    "zero first page": lambda whole: bytes(8192) + whole[8192:],
    "corrupt page": corrupt_page,
}


def test_damaged_and_foreign_files_never_enter(scenes: Scenes, postgres: PostgresFactory) -> None:
    scene = scenes.make(settings={"wal_keep_size": "1GB"})
    good = scene.archive_all()
    name, segment = future(scene)
    place = scene.cluster.data_dir / "pg_wal" / name
    before = stored(scene)

    def refused(content: bytes, *says: str) -> None:
        place.write_bytes(content)
        as_server_user(scene.cluster, place)
        told = offer(scene, f"pg_wal/{name}")
        assert told.exit_status == 1
        assert all(word in told.stderr for word in says), told.stderr
        assert stored(scene) == before
        assert scene.open().catalog.file(name) is None

    # A true image of that segment: the archived one, with every page's address moved.
    whole = moved(segment_of(scene, good), segment.start(scene.open().segment_size))
    for damage in DAMAGES.values():
        refused(damage(whole), "WA-SEGMENT-CORRUPT", name)
    refused(segment_of(scene, good), name)  # another segment of the same cluster

    foreign = postgres(fresh=True)
    theirs = foreign.psql("SELECT pg_walfile_name(pg_switch_wal() - 1)")
    content = (foreign.data_dir / "pg_wal" / theirs).read_bytes()
    refused(moved(content, segment.start(scene.open().segment_size)), "WA-WRONG-CLUSTER")
    place.unlink()
    assert offer(scene, f"pg_wal/{name}").exit_status == 1  # no such file at all

    scene.archive_all()
    assert scene.counted("failed_count") == 0
    scene.prove_archived()


def moved(whole: bytes, start: int) -> bytes:
    """The segment as if it began at another address."""
    pages = bytearray(whole)
    for offset in range(0, len(pages), 8192):
        if pages[offset : offset + 2] != b"\0\0":
            pages[offset + 8 : offset + 16] = (start + offset).to_bytes(8, "little")
    return bytes(pages)


def test_the_same_bytes_again_succeed_and_other_bytes_are_a_divergence(scenes: Scenes) -> None:
    scene = scenes.make(settings={"wal_keep_size": "1GB"})
    name = scene.archive_all()
    before = stored(scene)
    again = offer(scene, f"pg_wal/{name}")
    assert again.exit_status == 0
    assert stored(scene) == before

    path = scene.cluster.data_dir / "pg_wal" / name
    original = path.read_bytes()
    path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    told = offer(scene, f"pg_wal/{name}")
    assert told.exit_status == 1
    assert "WA-DIVERGENCE" in told.stderr
    path.write_bytes(original)
    scene.logged("WA-DIVERGENCE")
    scene.prove_archived()


def test_only_files_of_pg_wal_are_taken_and_every_refusal_has_its_code(scenes: Scenes) -> None:
    scene = scenes.make(settings={"wal_keep_size": "1GB"})
    name = scene.archive_all()
    before = stored(scene)
    pg_wal = scene.cluster.data_dir / "pg_wal"
    elsewhere = scene.stage.folder / name
    shutil.copyfile(pg_wal / name, elsewhere)
    segments = iter(future(scene, ahead)[0] for ahead in range(50, 60))
    link, folder, pipe, device = (pg_wal / next(segments) for _ in range(4))
    link.symlink_to(elsewhere)
    folder.mkdir()
    os.mkfifo(pipe)
    history = pg_wal / "00000002.history"
    history.write_bytes(b"1\t0/30")
    for path in (folder, pipe, history):
        as_server_user(scene.cluster, path)
    hostile = {
        str(elsewhere): "WA-NAME",
        "PG_VERSION": "WA-NAME",
        "pg_wal/../PG_VERSION": "WA-NAME",
        f"pg_wal/../../{scene.cluster.data_dir.name}/PG_VERSION": "WA-NAME",
        f"pg_wal/archive_status/{name}.done": "WA-NAME",
        f"pg_wal/{link.name}": "WA-NAME",
        "pg_wal/not-a-wal-file": "WA-NAME",
        "pg_wal/" + name.lower().replace("0", "a", 1): "WA-NAME",
        f"pg_wal/{name}\n": "WA-NAME",
        f"pg_wal/{name[:-1]}\n": "WA-NAME",
        "pg_wal/" + "n" * 300: "WA-NAME",
        "pg_wal/.": "WA-NAME",
        "/" + "n" * 5000: "WA-USAGE",
        os.fsdecode(b"pg_wal/\xff\xfe"): "WA-NAME",
        "--cluster=main": "WA-USAGE",
        "-x": "WA-USAGE",
        "": "WA-USAGE",
        f"pg_wal/{folder.name}": "WA-FILE-KIND",
        f"pg_wal/{pipe.name}": "WA-FILE-KIND",
        f"pg_wal/{history.name}": "WA-HISTORY-CORRUPT",
        f"pg_wal/{next(segments)}": "WA-FILE-MISSING",
    }
    if os.geteuid() == 0:
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
        hostile[f"pg_wal/{device.name}"] = "WA-FILE-KIND"
    entries = scene.open().ledger.state().next_seq
    for path, code in hostile.items():
        told = offer(scene, path)
        assert told.exit_status == 1, path
        assert code in told.stderr, (path, told.stderr)
    assert stored(scene) == before
    assert scene.open().ledger.state().next_seq == entries
    for planted in (link, pipe, device, history):
        planted.unlink(missing_ok=True)
    folder.rmdir()
    scene.archive_all()
    assert scene.counted("failed_count") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as another user")
def test_another_user_of_the_host_is_refused(scenes: Scenes) -> None:
    scene = scenes.make(settings={"wal_keep_size": "1GB"})
    name = scene.archive_all()
    path = str(scene.cluster.data_dir / "pg_wal" / name)
    told = offer(scene, path, as_user=OTHER)
    assert told.exit_status == 1
    assert "WA-PEER" in told.stderr, told.stderr
    assert offer(scene, path, as_user=0).exit_status == 0


def test_a_data_directory_of_another_cluster_than_the_dsn_is_refused(
    scenes: Scenes, postgres: PostgresFactory
) -> None:
    scene = scenes.make()
    scene.archive_all()
    scene.stage.stop_server()
    before = stored(scene)
    foreign = postgres(fresh=True)
    text = scene.stage.config.read_text()
    scene.stage.config.write_text(text.replace(str(scene.cluster.data_dir), str(foreign.data_dir)))
    server = scenes.run(scene.stage.command("serve"), scene.stage.log_path)
    scene.logged("WA-WRONG-CLUSTER")
    scene.serves()
    theirs = foreign.psql("SELECT pg_walfile_name(pg_switch_wal() - 1)")
    told = subprocess.run(
        [str(scene.stage.hook), "--socket", str(scene.stage.socket), "push", f"pg_wal/{theirs}"],
        capture_output=True,
        text=True,
        cwd=foreign.data_dir,
        check=False,
    )
    assert told.returncode == 1
    assert "WA-WRONG-CLUSTER" in told.stderr
    assert stored(scene) == before
    server.terminate()
    assert server.wait(PATIENCE_S) == 0


def test_a_bad_backup_label_never_blocks_the_wal_behind_it(scenes: Scenes) -> None:
    scene = scenes.make(settings={"wal_keep_size": "1GB"})
    name = scene.archive_all()
    label = f"{name}.00000028.backup"
    for place, content in (
        (scene.cluster.data_dir / "pg_wal" / label, b"not a backup label at all"),
        (scene.cluster.data_dir / "pg_wal" / "archive_status" / f"{label}.ready", b""),
    ):
        place.write_bytes(content)
        as_server_user(scene.cluster, place)
    scene.archive_all()
    assert scene.counted("failed_count") == 0
    assert scene.open().catalog.file(label) is not None
