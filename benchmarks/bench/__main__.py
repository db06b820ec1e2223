"""`python -m benchmarks.bench [SECTION ...]`: build a corpus, measure, write the report."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bench import archiving, backups, corpus, fetching, place, profiling, scaling, small
from benchmarks.bench.figures import Section
from benchmarks.bench.peers import Peers, find_peers
from benchmarks.bench.progress import elapsed_s, say
from benchmarks.bench.report import document, markdown
from benchmarks.bench.run import Options, Run
from walarchiver.clock import SystemClock

RESULTS = Path(__file__).resolve().parents[1] / "results"
SECTIONS: dict[str, tuple[Callable[[Run], list[Section]], float]] = {
    "drain": (archiving.drain, 4.0),
    "single": (archiving.single, 1.5),
    "pipeline": (archiving.pipeline, 1.0),
    "fetch": (fetching.fetch, 2.5),
    "backup": (backups.backup, 2.5),
    "hook": (small.hook, 0.5),
    "scan": (small.scan, 0.5),
    "scaling": (scaling.scaling, 2.0),
    "profile": (profiling.profile, 1.0),
}
"""What does it, and its share of the time."""
QUICK = ("drain", "single", "pipeline", "fetch", "backup", "hook")


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is ended and removed
    peers = find_peers(fetch=options.fetch_peers)
    sections: list[Section] = []
    with ExitStack() as stack:
        where = stack.enter_context(place.opened(options.folder))
        made = _corpus(options, where)
        server = made.server()
        server.start()
        stack.callback(server.stop)
        run = Run(options, where, made, server, peers)
        say(f"{len(made.names)} segments; the sections may take until {options.seconds:.0f} s")
        try:
            _measure(run, sections)
        except KeyboardInterrupt:
            run.failed.append("stopped before all was measured")
        finally:
            if sections:
                _write(options, _facts(run), sections)
    for line in run.failed:
        say(f"FAILED: {line}")
    return 1 if run.failed else 0


def _measure(run: Run, sections: list[Section]) -> None:
    wanted = [name for name in SECTIONS if name in run.options.sections]
    for number, name in enumerate(wanted):
        measure, share = SECTIONS[name]
        shares = sum(SECTIONS[each][1] for each in wanted[number:])
        began_s = elapsed_s()
        run.ends_s = began_s + max(0.0, run.options.seconds - began_s) * share / shares
        found = measure(run)
        for section in found:
            section.took_s = elapsed_s() - began_s
        sections += found
        say(f"{name} took {elapsed_s() - began_s:.0f} s")


def _corpus(options: Options, where: place.Place) -> corpus.Corpus:
    folder = options.corpus or where.folder / "corpus"
    if (folder / "corpus.json").exists():
        say(f"the corpus in {folder} is used again")
        return corpus.load(folder)
    wanted = corpus.TINY if options.quick else corpus.FULL if options.full else corpus.SMALL
    say(f"making WAL in {folder}")
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.chmod(0o755)
    return corpus.build(folder, wanted)


def _options() -> Options:
    arguments = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    arguments.add_argument(
        "sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS) + "; default: all"
    )
    arguments.add_argument("--quick", action="store_true", help="few segments, one round, about 3 minutes")
    arguments.add_argument("--full", action="store_true", help="about 90 segments instead of 30")
    arguments.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    arguments.add_argument("--seconds", type=float, help="no new round after; default: 1200, --quick 180")
    arguments.add_argument("--corpus", type=Path, help="keep the corpus there, and use it again")
    arguments.add_argument("--folder", type=Path, help="work below this folder instead of the temporary one")
    arguments.add_argument("--out", type=Path, default=RESULTS, help="folder for the report")
    arguments.add_argument("--no-fetch", action="store_true", help="compare only with what is installed")
    args = arguments.parse_args()
    if unknown := [name for name in args.sections if name not in SECTIONS]:
        arguments.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return Options(
        sections=tuple(args.sections) or (QUICK if args.quick else tuple(SECTIONS)),
        rounds=args.rounds or (1 if args.quick else 3),
        seconds=args.seconds or (180.0 if args.quick else 1200.0),
        quick=args.quick,
        full=args.full,
        fetch_peers=not args.no_fetch,
        corpus=None if args.corpus is None else args.corpus.absolute(),
        out=args.out,
        folder=args.folder,
    )


def _facts(run: Run) -> dict[str, str]:
    kinds = list(run.corpus.kinds.values())
    made = ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
    return {
        "date": _today().isoformat(),
        "version": f"walarchiver {importlib.metadata.version('walarchiver')}, commit {_commit()}",
        "command": " ".join(["./dev bench", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {_processor()}, Linux {platform.release()}, "
        f"load at the end {os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "corpus": f"PostgreSQL {corpus.MAJOR}, {len(kinds)} segments of "
        f"{run.corpus.segment_bytes >> 20} MiB: {made}",
        "peers": _peers(run.peers),
        "S3": "SeaweedFS over TLS on loopback, on the same cores",
        "took": f"{elapsed_s():.0f} s",
    }


def _peers(peers: Peers) -> str:
    found = [f"pgBackRest {peers.pgbackrest.version}"] if peers.pgbackrest else []
    found += [f"barman-cloud {peers.barman.version}"] if peers.barman else []
    return "; ".join([*found, *(f"MISSING {line}" for line in peers.missing)]) or "none"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=RESULTS
    )
    return done.stdout.strip() or "unknown"


def _today() -> datetime.date:
    return datetime.datetime.fromtimestamp(SystemClock().now_us() / 1e6, tz=datetime.UTC).date()


def _write(options: Options, facts: dict[str, str], sections: list[Section]) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    quick = "-quick" if options.quick else ""
    path = options.out / f"{_today():%Y%m%d}-{importlib.metadata.version('walarchiver')}{quick}.md"
    path.write_text(markdown(facts, sections))
    path.with_suffix(".json").write_text(document(facts, sections))
    say(f"written: {path} and .json")


if __name__ == "__main__":
    sys.exit(main())
