"""Small things: what one hook call costs, and what scanning a segment costs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench.clients import shell
from benchmarks.bench.driver import ROOT, Job, drive
from benchmarks.bench.figures import Section, Spread, Table
from benchmarks.bench.progress import say
from benchmarks.bench.run import Run, measured

CALLS = 40


def hook(run: Run) -> list[Section]:
    """Calls through `sh -c`, with a server that answers at once: what PostgreSQL pays per file."""
    section = Section("hook", "One archive_command call through sh -c, nothing to do")
    section.notes.append(
        "The hooks ask a server that says yes at once. pgBackRest async finds the `.ok` of its helper. "
        "barman-cloud prints its version. That server is an interpreter: its share is in the "
        "milliseconds, not in the CPU."
    )
    data = run.corpus.data_directory(run.place.work("data") / "d", run.corpus.names[:1])
    rows: dict[str, list[tuple[float, float]]] = {}
    with (
        _answering(run.place.folder / "yes.sock") as path,
        _noop_pgbackrest(run, data) as (noop, environment),
    ):
        commands = {"sh -c true": "true", **_hooks(run, path)}
        if noop:
            commands["pgBackRest async, .ok is there"] = noop
        if run.peers.barman:
            commands["barman-cloud-wal-archive --version"] = f'"{run.peers.barman.path}" --version'
        for number in range(run.options.rounds):
            for label, command in commands.items():
                job = Job(
                    "run", command, str(data), environment, times=CALLS // (4 if "barman" in label else 1)
                )
                one = measured(label, number, 1, drive(job))
                calls = sorted(one.calls_s)
                rows.setdefault(label, []).append((calls[len(calls) // 2], one.cpu_s / len(calls)))
    section.tables = [
        Table(
            ("", "ms a call, median", "CPU ms a call", "x `sh -c true`"),
            tuple(
                (
                    label,
                    Spread.of(wall for wall, _ in each).text(2, 1e3),
                    Spread.of(cpu for _, cpu in each).text(2, 1e3),
                    Spread.of(w / t for (w, _), (t, _) in zip(each, rows["sh -c true"], strict=True)).text(1),
                )
                for label, each in rows.items()
            ),
        )
    ]
    for label, each in rows.items():
        say(f"hook: {label}: {Spread.of(wall for wall, _ in each).text(2, 1e3)} ms")
    return [section]


def _hooks(run: Run, path: Path) -> dict[str, str]:
    words = f' --socket "{path}" push %p'
    kind = "compiled" if run.place.hook.read_bytes()[:4] == b"\x7fELF" else "Python"
    found = {f"walarchiver-hook as installed ({kind})": f'"{run.place.hook}"{words}'}
    # The Python twin beside it, with the same folders around it.
    twin = run.place.hook.with_name("walarchiver-hook-python")
    if not twin.exists():
        shutil.copyfile(ROOT / "bin" / "walarchiver-hook", twin)
        twin.chmod(0o755)
    # The interpreter itself: what PATH has may be a script that looks for one.
    python = Path(os.path.realpath(sys.executable))
    beside = twin.with_name("python3")
    if not beside.exists():
        beside.symlink_to(python)
    found["walarchiver-hook, Python twin"] = f'"{twin}"{words}'
    found["python3 -I -S -c pass"] = shell(python, "-I", "-S", "-c", "pass")
    return {label: command.replace("%p", f"pg_wal/{run.corpus.names[0]}") for label, command in found.items()}


@contextmanager
def _answering(path: Path) -> Iterator[Path]:
    """A server that says done to everything; it runs here, the callers in the driver."""
    answer = b"HTTP/1.1 200 OK\r\nWalarchiver-Exit: 0\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                seen = b""
                while b"}" not in seen and (more := connection.recv(4096)):
                    seen += more
                connection.sendall(answer)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(8)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@contextmanager
def _noop_pgbackrest(run: Run, data: Path) -> Iterator[tuple[str, dict[str, str]]]:
    clients = run.pgbackrest()
    if not clients:
        yield "", {}
        return
    with clients[0].session(run.target(data)) as session:
        out = run.place.folder / session.prefix / "spool" / "archive" / "main" / "out"
        out.mkdir(parents=True)
        (out / f"{run.corpus.names[0]}.ok").touch()
        yield session.archive.replace("%p", f"pg_wal/{run.corpus.names[0]}"), session.environment


def scan(run: Run) -> list[Section]:
    """benchmarks/scan.py, which makes its own segments."""
    section = Section("scan", "Scanning a segment, beside pg_waldump")
    words = [
        sys.executable,
        str(ROOT / "benchmarks" / "scan.py"),
        "--rounds",
        str(max(2, run.options.rounds)),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    if done.returncode != 0:
        run.fail(section, f"scan failed: {done.stderr[-500:]}")
        return [section]
    # Its headings are one level too high for a part of this report.
    section.notes.append(done.stdout.strip().replace("## ", "### "))
    return [section]
