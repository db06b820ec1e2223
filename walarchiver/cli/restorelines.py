"""The lines that `restore` prints to go on with: commands that work as they stand when pasted into a shell.

Rules:
- Programs are named by their full path where that is known: a shell's PATH may lack them.
- PostgreSQL refuses root, so as root its commands begin with `runuser` and the new cluster's owner.
- A cluster whose postgresql.conf lay elsewhere has none to start with: it starts privately, as by `--start`.
- An interrupted restore says in which state it left the directory, how to go on, and how to undo it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from restore.workplace import Workplace
from walarchiver.errors import Interrupted

START_TIMEOUT_S = 86400


@dataclass(frozen=True, slots=True)
class Commands:
    """What replays the WAL of a restored directory, in this order; the first one runs until it is ended."""

    serve: str
    start: str

    @property
    def indented(self) -> str:
        """As lines for people."""
        return f"  {self.serve} &\n  {self.start}"


def commands_of(
    place: Workplace,
    config: Path,
    *,
    owner: str | None,
    bin_dir: Path | None,
    settings: Mapping[str, str] | None = None,
) -> Commands:
    """`owner`: the new cluster's, for root only. `bin_dir`: PostgreSQL's programs, None for those on PATH.

    `settings` are given to the server on its command line.
    """
    beside = Path(sys.executable).parent / "walarchiver"
    program = str(beside) if beside.is_file() else "walarchiver"
    words = (program, "--config", str(config.absolute()), "serve", "--plan", str(place.plan_path))
    # A restored postgresql.conf may name the original's directory, which -D alone does not override.
    chosen = {"data_directory": str(place.target), **(settings or {})}
    given = shlex.join(word for name, value in chosen.items() for word in ("-c", f"{name}={value}"))
    options = (
        "-l",
        str(place.log),
        "-o",
        given,
        "-w",
        "-t",
        str(START_TIMEOUT_S),
        "start",
    )
    return Commands(shlex.join(words), pg_ctl_line(bin_dir, place, owner, *options))


def pg_ctl_line(bin_dir: Path | None, place: Workplace, owner: str | None, *words: str) -> str:
    """A call of pg_ctl on the restored directory."""
    program = "pg_ctl" if bin_dir is None else str(bin_dir / "pg_ctl")
    as_owner = () if owner is None else ("runuser", "-u", owner, "--")
    return shlex.join((*as_owner, program, "-D", str(place.target), *words))


def outside_lines(place: Workplace) -> list[str]:
    """Where the configuration is that the data directory never held."""
    folder = place.configuration
    return [f"configuration from outside the data directory: copies in {folder}"] if folder.exists() else []


def undo_line(place: Workplace) -> str:
    """The command that removes everything a restore made."""
    made = [one for one in (place.target, place.folder, place.tablespaces) if one.exists()]
    return shlex.join(("rm", "-r", "--", *(str(one) for one in made)))


def interrupted_placing(place: Workplace) -> Interrupted:
    """Ctrl-C while files were placed."""
    if not place.target.exists() and not place.folder.exists():
        return Interrupted("interrupted before anything was written")
    return Interrupted(
        f"interrupted while files were placed: {place.target} is unfinished, PostgreSQL does not start on it",
        hint="To go on: the same restore again, with --delta.\n"
        f"To undo it: {undo_line(place)} (and what --tablespace named). Then restore again.",
    )


def interrupted_recovery(place: Workplace, commands: Commands) -> Interrupted:
    """Ctrl-C while PostgreSQL replayed; it was stopped."""
    return Interrupted(
        f"interrupted: PostgreSQL was stopped; the files in {place.target} are whole and it can go on",
        hint=f"To go on:\n{commands.indented}\nTo undo it: {undo_line(place)} (and what --tablespace named).",
    )
