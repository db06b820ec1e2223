"""WAL segments of 16 MB, 64 MB and 1 GB: archived whole, restored exactly, in bounded memory."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.scene import Json, Scene, Scenes, end
from tests.matrix.hosts import rows, say
from walarchiver.demo.stage import environment
from walarchiver.embedded.postgres import MIB

GIB = 1024 * MIB
RSS_MAX = 400 * MIB


def memory_peak(pid: int) -> int:
    """The most memory a process ever had resident (proc(5), VmHWM), in bytes; 0 once it has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found is not None else 0


def run_measured(scene: Scene, *words: str, config: Path) -> tuple[Json, int]:
    """Run one command to its end: its JSON, and the most memory that very process had resident.

    Not from getrusage(2): RUSAGE_CHILDREN is the largest child that this test process ever had,
    whichever test it belonged to, with all that the children waited for.
    """
    told, peak = scene.stage.folder / "told.json", 0
    with (
        told.open("w") as out,
        subprocess.Popen(
            scene.stage.command(*words, config=config), stdout=out, env=environment()
        ) as process,
    ):
        while process.poll() is None:
            peak = max(peak, memory_peak(process.pid))
            time.sleep(0.02)
    assert process.returncode == 0
    return json.loads(told.read_text()), peak


@pytest.mark.parametrize(("major", "size_mb", "count"), [(15, 16, 12), (16, 64, 5)])
def test_other_segment_sizes_are_archived_and_restored(
    scenes: Scenes, major: int, size_mb: int, count: int
) -> None:
    scene = scenes.make(major, segment_bytes=size_mb * MIB, settings={"wal_keep_size": "2GB"})
    scene.cluster.psql("CREATE TABLE said (text text)")
    scene.json("backup")
    for number in range(count):
        say(scene, str(number))
        scene.archive_all()
    assert scene.prove_archived() > count
    ((_, first, last),) = scene.open().catalog.runs()
    assert last - first >= count
    found, _ = rows(scene, "latest", config=scene.reader())
    assert found == [str(number) for number in range(count)]


def test_segments_of_a_gigabyte_need_no_gigabyte_of_memory(scenes: Scenes) -> None:
    scene = scenes.make(
        17,
        segment_bytes=GIB,
        fresh=True,
        settings={"max_wal_size": "4GB", "min_wal_size": "2GB"},
        server={"push_deadline": '"120s"', "fetch_deadline": '"120s"'},
        plain=True,
    )
    scene.cluster.psql("CREATE TABLE said (text text)")
    scene.json("backup")
    scene.cluster.psql(
        "CREATE TABLE noise AS SELECT string_agg(sha512(n::text::bytea), '') AS block, n / 100 AS id "
        "FROM generate_series(1, 400000) AS n GROUP BY n / 100"
    )
    say(scene, "at the end of it")
    scene.archive_all()
    server = scene.stage.server
    assert server is not None
    assert memory_peak(server.pid) < RSS_MAX
    unscanned = scene.json("catalog", "scan", "--dry-run")
    assert unscanned["unscanned"] == 0, "they are not scanned while they are archived"
    into = scene.stage.folder / "r"
    words = scene.restore_words("latest", into, "--start")
    told, peak = run_measured(scene, *words, config=scene.reader(fetch_deadline='"120s"'))
    end(told["pid"], into)
    assert MIB < peak < RSS_MAX
