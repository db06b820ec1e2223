"""`restore --delta` and `--max-rate`: the options, and what is said of an earlier copy."""

from __future__ import annotations

import argparse
import threading
from dataclasses import asdict

from restore.layout import MARKER
from restore.pacing import Pace
from restore.placing import DeltaReport
from restore.workplace import Workplace
from walarchiver.errors import Interrupted, Locked, TargetDirectoryInUse, WalarchiverError
from walarchiver.ports import Clock
from walarchiver.settings_kinds import SIZE


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--delta` and `--max-rate`."""
    parser.add_argument(
        "--delta",
        action="store_true",
        help="DIR holds an earlier copy of the cluster, stopped: keep what is right, write the rest, remove "
        "what does not belong",
    )
    parser.add_argument(
        "--max-rate", type=_rate, metavar="SIZE", help="unpack no more than so much a second, such as 50MiB"
    )


def _rate(text: str) -> int:
    try:
        return SIZE.read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def pace_of(args: argparse.Namespace, clock: Clock) -> Pace | None:
    """The pace that was asked for."""
    return None if args.max_rate is None else Pace(args.max_rate, clock, threading.Event().wait)


def report_text(report: DeltaReport) -> str:
    """One line for people."""
    return (
        f"kept {_mb(report.kept_bytes)} ({report.kept_files} files as they are), to write "
        f"{_mb(report.written_bytes)} in {report.written_files} files (fetching {_mb(report.fetched_bytes)} "
        f"of {report.fetched_parts} parts), to remove {_mb(report.removed_bytes)} in "
        f"{report.removed_files} files"
    )


def report_members(report: DeltaReport) -> dict[str, int]:
    """The same as JSON members."""
    return asdict(report)


def interrupted_delta(place: Workplace) -> Interrupted:
    """Ctrl-C while an earlier copy was compared or changed."""
    target = place.target
    if not (target / MARKER).exists():
        return Interrupted(f"interrupted before anything in {target} was changed")
    return Interrupted(
        f"interrupted while {target} was changed: it is unfinished, PostgreSQL does not start on it",
        hint="Give the same restore again with --delta: it keeps what is right already.",
    )


def unfinished(place: Workplace, error: WalarchiverError) -> None:
    """Let an error say how to go on, where it left a directory that PostgreSQL does not start on."""
    in_use = isinstance(error, TargetDirectoryInUse | Locked)
    if not in_use and "--delta" not in error.next_step and (place.target / MARKER).exists():
        error.next_step += (
            f"\n{place.target} is unfinished, and PostgreSQL does not start on it. Give the same restore "
            "again with --delta: it keeps what is right already."
        )


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
