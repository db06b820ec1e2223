"""Where our CPU goes in a drain and in a fetch, by part of the work.

Rules:
- `perf` tells which library and symbol ran: compression, sealing, digest and scan each live in a library of
  their own, so this needs no guess about our code. What runs in the interpreter is `Python`.
- py-spy, where it can be had, tells which Python functions that was. Both watch the server only.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.bench.clients import Walarchiver
from benchmarks.bench.driver import drive
from benchmarks.bench.fetching import fill
from benchmarks.bench.figures import Section, Table
from benchmarks.bench.peers import find_py_spy
from benchmarks.bench.run import Run, measured

PARTS: tuple[tuple[str, str, str], ...] = (
    ("compress or unpack (zstd)", r"backend_c|zstd", r""),
    ("digest (BLAKE3)", r"blake3", r""),
    ("scan, page checks (compiled)", r"_walskim", r""),
    ("SHA-256 of the stored body", r"", r"sha256"),
    ("seal or open (AES-GCM)", r"_rust", r""),
    ("TLS", r"libssl|libcrypto|_ssl", r""),
    ("ledger's database (SQLite)", r"sqlite", r""),
    ("checksums (zlib)", r"libz\.|zlib", r""),
    ("kernel: sockets", r"kernel", r"tcp|sock|skb|inet|net|ip_|send|recv|loopback|nf_"),
    (
        "kernel: files and memory",
        r"kernel",
        r"copy|filemap|page|clear|fault|ext4|xfs|read|write|rep_movs|memset",
    ),
    ("kernel: other", r"kernel", r""),
    ("memory copies (libc)", r"libc[.-]|ld-", r"mem|Mem"),
    ("libc: other", r"libc[.-]|ld-|libpthread|libm[.-]", r""),
    ("Python", r"python", r""),
)
"""Part, pattern of the library, pattern of the symbol; the first that fits counts."""


def profile(run: Run) -> list[Section]:
    """Two sections."""
    names = run.segments(len(run.corpus.names), quick=8)
    return [_drain(run, names), _fetch(run, names)]


def _drain(run: Run, names: list[str]) -> Section:
    section = Section("profile-drain", "Where our CPU goes: drain")
    for watcher in _watchers(section):
        data = run.corpus.data_directory(run.place.work("data") / "d", names, ready=False)
        with Walarchiver().session(run.target(data)) as session:
            run.warm(session, data, names[0])
            for name in names[1:]:
                (data / "pg_wal" / "archive_status" / f"{name}.ready").touch()
            with watcher(run, session.watched[0], section):
                outcome = drive(run.job(session, "archive", session.archive, data))
    one = measured("server", 0, (len(names) - 1) * run.corpus.segment_bytes, outcome)
    _shares(section, one.cpu_per_gb, outcome.children_cpu_s / outcome.cpu_s)
    return section


def _fetch(run: Run, names: list[str]) -> Section:
    section = Section("profile-fetch", "Where our CPU goes: fetch")
    with ExitStack() as stack:
        filled = fill(run, Walarchiver(), stack, names)
        for watcher in _watchers(section):
            with watcher(run, filled.session.watched[0], section):
                job = run.job(filled.session, "fetch", filled.session.fetch, filled.data, names=names)
                outcome = drive(job)
    one = measured("server", 0, len(names) * run.corpus.segment_bytes, outcome)
    _shares(section, one.cpu_per_gb, outcome.children_cpu_s / outcome.cpu_s)
    return section


Watcher = Callable[[Run, int, Section], AbstractContextManager[None]]


def _watchers(section: Section) -> list[Watcher]:
    """The last one's run gives the CPU that the section tells: nobody watches it."""
    found: list[Watcher] = []
    if find_py_spy(fetch=True) is not None:
        found.append(_py_spy)
    if shutil.which("perf"):
        found.append(_perf)
    else:
        section.notes.append("perf is not installed: shares by library are missing.")
    return [*found, _nobody]


@contextmanager
def _nobody(_run: Run, _pid: int, _section: Section) -> Iterator[None]:
    yield


def _shares(section: Section, cpu_per_gb: float, hooks: float) -> None:
    section.notes.insert(
        0, f"{cpu_per_gb:.2f} CPU s/GB in all, {hooks:.0%} of it in hook processes; below the server alone."
    )


# --- perf --------------------------------------------------------------------------------------------


@contextmanager
def _perf(run: Run, pid: int, section: Section) -> Iterator[None]:
    record = run.place.work("perf") / "data"
    words = ["perf", "record", "-q", "-F", "499", "-o", str(record), "-p", str(pid)]
    with _beside(words):
        yield
    symbols = _symbols(record)
    total = sum(symbols.values()) or 1.0
    parts: Counter[str] = Counter()
    for (library, symbol), share in symbols.items():
        parts[part_of(library, symbol)] += share
    rows = tuple((name, f"{share / total:.1%}") for name, share in parts.most_common())
    section.tables.append(Table(("part", "share of the server's CPU"), rows, "By library, from perf:"))
    top = tuple(
        (library, symbol, f"{share / total:.1%}")
        for (library, symbol), share in symbols.most_common(20)
        if share / total >= 0.01
    )
    section.tables.append(Table(("library", "symbol", "share"), top, "Hottest symbols:"))


_WAITING = re.compile(
    r"_worker \(concurrent/futures/thread|select \(selectors|wait \(threading|accept \(socket"
    r"|_run_once \(asyncio"
)
"""Where threads wait: py-spy cannot always tell that from work."""


def part_of(library: str, symbol: str) -> str:
    """Which part of the work ran there."""
    for name, in_library, in_symbol in PARTS:
        if re.search(in_library, library) and re.search(in_symbol, symbol):
            return name
    return f"other ({library})"


def _symbols(record: Path) -> Counter[tuple[str, str]]:
    words = ["perf", "report", "-i", str(record), "--stdio", "-q", "--sort", "dso,symbol", "-t", ";"]
    told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120).stdout
    found: Counter[tuple[str, str]] = Counter()
    for line in told.splitlines():
        fields = [each.strip() for each in line.split(";")]
        if len(fields) >= 3 and fields[0].endswith("%"):
            found[fields[1], re.sub(r"^\[.\] ", "", fields[2])] += float(fields[0].rstrip("%"))  # type: ignore[assignment]
    return found


# --- py-spy ------------------------------------------------------------------------------------------


@contextmanager
def _py_spy(run: Run, pid: int, section: Section) -> Iterator[None]:
    program, raw = find_py_spy(fetch=False), run.place.work("spy") / "raw.txt"
    words = [str(program), "record", "-p", str(pid), "-r", "200", "-f", "raw", "-o", str(raw)]
    with _beside(words):
        yield
    if not raw.exists():
        section.notes.append("py-spy gave nothing (may it trace other processes?).")
        return
    own: Counter[str] = Counter()
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        last = stack.split(";")[-1]
        if not _WAITING.search(last):
            own[_place(last)] += int(count)
    total = sum(own.values()) or 1
    rows = tuple(
        (place, f"{count / total:.1%}") for place, count in own.most_common(25) if count / total >= 0.01
    )
    section.tables.append(
        Table(
            ("line that was running", "share of samples"),
            rows,
            "By line, from py-spy (C calls count as their line):",
        )
    )


def _place(frame: str) -> str:
    return frame.replace("walarchiver/", "").replace("|", "/")


@contextmanager
def _beside(words: list[str]) -> Iterator[None]:
    """A watcher that writes its result when it is interrupted."""
    watcher = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with suppress(subprocess.TimeoutExpired):
            watcher.wait(0.7)  # it needs a moment to attach
        yield
    finally:
        if watcher.poll() is None:
            watcher.send_signal(signal.SIGINT)
        try:
            watcher.wait(30)
        except subprocess.TimeoutExpired:
            watcher.kill()
            watcher.wait()
