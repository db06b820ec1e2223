"""First numbers: what one machine's archiver, base backup and restore do, beside the limit of the same run.

Run by `./dev shell python benchmarks/baseline.py [--segments 64] [--scale 30]`. It plays on the demo's
stage (embedded PostgreSQL, embedded S3 over loopback http, `walarchiver serve` as a process), prints
Markdown, and leaves nothing behind. Absolute numbers belong to the machine and its neighbours; the
ratios to "limit" (read, compress, seal in memory on one thread) travel better. Peers come with `./dev bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from walarchiver.clock import SystemClock, SystemRandom
from walarchiver.demo.stage import Stage
from walarchiver.demo.story import end_server
from walarchiver.embedded.binaries import postgres_bin, weed_binary
from walarchiver.embedded.postgres import EmbeddedCluster
from walarchiver.embedded.seaweed import SeaweedServer
from walarchiver.format.header import Header
from walarchiver.format.seal import Digest, seal

MIB = 1 << 20
SEGMENT = 16 * MIB
WRAPPER = """#!/bin/sh
begin=$(date +%s%N)
"{hook}" --socket "{socket}" push "$1"
status=$?
end=$(date +%s%N)
echo "$((end - begin)) $status $1" >>"{log}"
exit $status
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--segments", type=int, default=64)
    arguments.add_argument("--scale", type=int, default=30)
    arguments.add_argument("--major", type=int, default=18)
    args = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="walarchiver-bench-"))
    folder.chmod(0o755)
    try:
        measure(folder, args.segments, args.scale, args.major)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(folder: Path, segments: int, scale: int, major: int) -> None:
    weed = SeaweedServer(weed_binary(), folder / "s3", SystemClock(), SystemRandom())
    with weed:
        weed.make_bucket("bench", versioned=True)
        stage = Stage(folder, "s3://bench/wa", endpoint=weed.endpoint, credentials_file=weed.credentials_file)
        stage.install_hook()
        calls = folder / "calls.log"
        calls.touch(mode=0o666)
        calls.chmod(0o666)
        wrapper = folder / "archive.sh"
        wrapper.write_text(WRAPPER.format(hook=stage.hook, socket=stage.socket, log=calls))
        wrapper.chmod(0o755)
        settings = {
            **stage.archive_settings(),
            "archive_command": "false",
            "max_wal_size": "64GB",
            "shared_buffers": "512MB",
            "checkpoint_timeout": "1h",
        }
        stage.cluster = EmbeddedCluster(major, folder / "pg", settings=settings, durable=False)
        try:
            play(stage, segments, scale, major, calls, wrapper)
        finally:
            stage.close()


def play(stage: Stage, segments: int, scale: int, major: int, calls: Path, wrapper: Path) -> None:
    cluster = stage.cluster
    assert cluster is not None
    cluster.create(segment_bytes=SEGMENT)
    stage.make_repository()
    cluster.start()
    print(f"# Baseline, PostgreSQL {major}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    fill(cluster, segments, scale)
    ready = sorted((cluster.data_dir / "pg_wal/archive_status").glob("*.ready"))
    names = [path.stem for path in ready]
    limit = measure_limit(cluster.data_dir / "pg_wal", names)
    hook_start(stage)
    stage.serve()
    began = time.monotonic()
    cluster.configure({"archive_command": f'"{wrapper}" %p'})
    cluster.reload()
    cluster.psql("select pg_switch_wal()")
    drained = drain(cluster)
    took = drained - began
    durations = sorted(int(line.split()[0]) / 1e6 for line in calls.read_text().splitlines())
    assert all(line.split()[1] == "0" for line in calls.read_text().splitlines()), "a push failed"
    assert stage.server is not None
    rate = len(names) * 16 / took
    print(
        f"| drain of {len(names)} segments | {took:.1f} s, {rate:.0f} MiB/s raw, "
        f"{rate / limit:.2f} of limit |"
    )
    print(
        f"| push call of one 16 MiB segment, hook included | p50 {statistics.median(durations):.0f} ms, "
        f"p99 {durations[min(len(durations) - 1, int(len(durations) * 0.99))]:.0f} ms, n={len(durations)} |"
    )
    print(f"| peak RSS of the server | {peak_rss(stage.server.pid):.0f} MiB |")
    backup_and_restore(stage, major)


def fill(cluster: EmbeddedCluster, segments: int, scale: int) -> None:
    """WAL of pgbench: initialisation, then TPC-B until there is enough."""
    cluster.program(
        "pgbench",
        "-i",
        "-q",
        "-s",
        str(scale),
        "-h",
        str(cluster.socket_dir),
        "-U",
        "postgres",
        "postgres",
        timeout_s=600,
    )
    status = cluster.data_dir / "pg_wal/archive_status"
    while len(list(status.glob("*.ready"))) < segments:
        cluster.program(
            "pgbench",
            "-c",
            "8",
            "-T",
            "5",
            "-n",
            "-h",
            str(cluster.socket_dir),
            "-U",
            "postgres",
            "postgres",
            timeout_s=120,
        )
    cluster.psql("select pg_switch_wal()")


def measure_limit(folder: Path, names: list[str]) -> float:
    """Read, digest, compress and seal in memory, on one thread: MiB/s of raw WAL."""
    sample = names[:: max(1, len(names) // 12)]
    began, stored = time.monotonic(), 0
    for name in sample:
        header = Header(
            kind="wal",
            repo="0" * 32,
            system="1",
            tli=1,
            name=name,
            part=0,
            parts=1,
            raw=SEGMENT,
            epoch="0" * 16,
            writer="0" * 16,
        )
        digest = Digest()
        with (folder / name).open("rb") as file:
            stored += len(seal(b"k" * 32, header, pieces(file, digest)).body)
    rate = len(sample) * 16 / (time.monotonic() - began)
    print("| what | measured |\n|---|---|")
    print(
        f"| limit: read + BLAKE3 + zstd + seal, one thread | {rate:.0f} MiB/s, "
        f"ratio {len(sample) * SEGMENT / stored:.2f} |"
    )
    return rate


def pieces(file, digest):  # type: ignore[no-untyped-def]
    while chunk := file.read(MIB):
        digest.update(chunk)
        yield chunk


def hook_start(stage: Stage) -> None:
    """The hook's whole refused call (no server yet) beside a bare isolated interpreter, interleaved."""

    def timed(words: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return (time.perf_counter() - began) * 1e3

    python = sys.executable
    hook = stage.hook.parent.parent / "lib/python3/site-packages/walarchiver"
    inner = [
        python,
        "-I",
        "-S",
        "-c",
        "import sys; sys.path.append(sys.argv.pop(1)); import hook; hook.main()",
        str(hook),
    ]
    bare, ours = [], []
    for _ in range(40):
        bare.append(timed([python, "-I", "-S", "-c", "pass"]))
        ours.append(timed([*inner, "--socket", "/nonexistent/wa.sock", "push", "pg_wal/0"]))
    print(
        f"| hook process beyond its sh, beside `python -I -S -c pass` | {statistics.median(ours):.1f} ms / "
        f"{statistics.median(bare):.1f} ms = {statistics.median(ours) / statistics.median(bare):.2f}x |"
    )


def drain(cluster: EmbeddedCluster) -> float:
    status = cluster.data_dir / "pg_wal/archive_status"
    rest = threading.Event()
    while list(status.glob("*.ready")):
        rest.wait(0.05)
    return time.monotonic()


def peak_rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def backup_and_restore(stage: Stage, major: int) -> None:
    cluster = stage.cluster
    assert cluster is not None
    began = time.monotonic()
    done = json.loads(stage.run("backup", "--output", "json").stdout)["backups"][0]
    took = time.monotonic() - began
    print(
        f"| base backup, {done['bytes'] / MIB:.0f} MiB raw, {done['stored_bytes'] / MIB:.0f} stored | "
        f"{took:.1f} s, "
        f"{done['bytes'] / MIB / took:.0f} MiB/s, start of the program included |"
    )
    cluster.psql("select pg_switch_wal()")
    drain(cluster)
    config = stage.write_reader_config(stage.folder / "reader.toml", state=stage.folder / "reader-state")
    target = stage.folder / "restored"
    words = ["restore", "--at", "latest", "--into", str(target), "--start", "--output", "json"]
    words += ["--hook", str(stage.hook), "--bin-dir", str(postgres_bin(major))]
    words += ["--owner", "nobody"] if os.geteuid() == 0 else []
    told = json.loads(stage.run(*words, config=config).stdout)
    files = told["seconds"]["files"]
    print(
        f"| restore, files unpacked and verified (plan included) | {files:.1f} s, "
        f"{done['bytes'] / MIB / files:.0f} MiB/s |"
    )
    print(f"| restore to `latest`, running and judged | {told['seconds']['total']:.1f} s |")
    end_server(told["pid"], target, threading.Event())


if __name__ == "__main__":
    sys.exit(main())
