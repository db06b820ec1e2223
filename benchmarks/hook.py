"""What one call of the hook costs PostgreSQL: `sh -c` alone, compiled, Python, and pgBackRest's own no-op.

Run by `./dev shell python benchmarks/hook.py [--rounds 100]`. A server in this process answers every push at
once, so only the call is measured. Each round calls every variant once, in turn; printed as Markdown: wall
clock and CPU (user and system, of the shell and what it started) in ms, median and quartiles, and the
ratio of the medians to `sh -c true`. pgBackRest, where it is installed or was fetched by `./dev bench`, finds
its asynchronous push done already: its cheapest call.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "000000010000000000000001"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nWalarchiver-Exit: 0\r\n\r\n{}"


@dataclass
class Variant:
    """One way to be called by PostgreSQL, and what its calls took."""

    name: str
    command: str
    environment: dict[str, str] = field(default_factory=dict)
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def call(self, folder: Path) -> None:
        """Run it once, as PostgreSQL does. RuntimeError unless it exits 0."""
        environment = {"PATH": "/usr/bin:/bin", "WALARCHIVER_SOCKET": str(folder / "s"), **self.environment}
        began = time.perf_counter()
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", self.command], environment)
        _pid, status, used = os.wait4(pid, 0)
        self.wall_ms.append((time.perf_counter() - began) * 1e3)
        self.cpu_ms.append((used.ru_utime + used.ru_stime) * 1e3)
        if status != 0:
            raise RuntimeError(f"{self.name}: exit {os.waitstatus_to_exitcode(status)}: {self.command}")


def answer_all(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(ANSWER)


def variants(folder: Path) -> list[Variant]:
    """What this machine has."""
    found = [Variant("`sh -c true`", "true")]
    compiled = folder / "compiled" / "walarchiver-hook"
    compiled.parent.mkdir()
    if subprocess.run([ROOT / "bin" / "build-hook", compiled], check=False).returncode == 0:
        found.append(Variant("compiled hook", f"{compiled} push pg_wal/{NAME}"))
    package = folder / "python" / "lib" / "python3" / "site-packages" / "walarchiver"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "walarchiver" / "hook.py", package)
    launcher = folder / "python" / "bin" / "walarchiver-hook"
    launcher.parent.mkdir()
    shutil.copy(ROOT / "bin" / "walarchiver-hook", launcher)
    (launcher.parent / "python3").symlink_to(sys.executable)
    found.append(Variant("bare `python3 -I -S -c pass`", f"{sys.executable} -I -S -c pass"))
    found.append(Variant("Python hook", f"{launcher} push pg_wal/{NAME}"))
    if peer := pgbackrest(folder):
        found.append(peer)
    return found


def pgbackrest(folder: Path) -> Variant | None:
    """archive-push of a segment that its asynchronous process has pushed: nothing is left to do."""
    from benchmarks.bench.peers import find_peers

    peer = find_peers(fetch=False).pgbackrest
    if peer is None:
        return None
    wal, done = folder / "data" / "pg_wal", folder / "spool" / "archive" / "main" / "out"
    wal.mkdir(parents=True)
    done.mkdir(parents=True)
    (wal / NAME).write_bytes(bytes(16 << 20))
    (done / f"{NAME}.ok").touch()
    options = [
        f"--pg1-path={wal.parent}",
        f"--spool-path={folder / 'spool'}",
        f"--lock-path={folder / 'lock'}",
    ]
    options += ["--stanza=main", "--archive-async", f"--repo1-path={folder / 'repository'}", "--no-config"]
    options += ["--log-level-file=off", "--log-level-console=off"]
    command = shlex.join([str(peer.path), *options, "archive-push", str(wal / NAME)])
    return Variant(f"{peer.version}, async, done", command, peer.environment)


def row(variant: Variant, floor: Variant) -> str:
    def told(values: list[float]) -> str:
        low, middle, high = statistics.quantiles(values, n=4)
        return f"{middle:.2f} [{low:.2f}-{high:.2f}]"

    ratio = statistics.median(variant.cpu_ms) / statistics.median(floor.cpu_ms)
    return f"| {variant.name} | {told(variant.wall_ms)} | {told(variant.cpu_ms)} | {ratio:.1f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listening:
        folder = Path(name)
        listening.bind(str(folder / "s"))
        listening.listen()
        threading.Thread(target=answer_all, args=(listening,), daemon=True).start()
        measured = []
        for variant in variants(folder):
            try:
                variant.call(folder)
            except RuntimeError as error:
                print(f"left out: {error}", file=sys.stderr)
            else:
                measured.append(Variant(variant.name, variant.command, variant.environment))
        for _ in range(given.rounds):
            for variant in measured:
                variant.call(folder)
    print("| one push, through `sh -c` | wall ms | CPU ms | CPU / sh |\n| --- | --- | --- | --- |")
    print("\n".join(row(variant, measured[0]) for variant in measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
