"""Calls the hook as PostgreSQL would: the configured archive_command, as the server's user, in its folder.

Rules:
- It is called with a file name that no WAL file has, so the daemon must refuse it (WA-NAME): this
  very refusal proves launcher, interpreter, socket and permission, and nothing is archived.
- Only a command that is nothing but a call of walarchiver-hook is run: never a shell program of
  somebody else's, and never as anybody but the data directory's owner.
- PostgreSQL's own environment is not known here; the forced WAL switch of `check` is the whole proof.
- Which of the two hooks it is, compiled or Python, is seen from the file: only a script begins with `#!`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from walarchiver.errors import NotAWalFile, NotPermitted
from walarchiver.operate.findings import Finding, fail, ok, warn

TIMEOUT_S = 20
IMPOSSIBLE_NAME = "pg_wal/walarchiver-check"
_CALL = re.compile(r"walarchiver-hook[\"']?\s(?:.*\s)?push\s+[\"']?%p")
_SHELL = re.compile(r"[;&|<>`$()\n]")
_NAME = "hook"
_PROGRAM = "hook program"


def calls_hook(command: str) -> bool:
    """Whether an archive_command hands its file to our hook."""
    return _CALL.search(command) is not None


def try_hook(command: str, data_directory: Path) -> Finding:
    """Whether the server's user reaches the daemon through `command`."""
    if not calls_hook(command):
        return fail(
            _NAME,
            "archive_command does not call walarchiver-hook",
            "Set archive_command = 'walarchiver-hook push %p' and reload PostgreSQL.",
        )
    if _SHELL.search(command):
        return warn(
            _NAME,
            "archive_command is a shell program, so it was not tried here",
            "Let archive_command be the call of walarchiver-hook alone.",
        )
    try:
        owner = data_directory.stat().st_uid
    except OSError as error:
        return warn(
            _NAME,
            f"not tried: {data_directory} cannot be seen: {error.strerror}",
            "Run this on the database server's host, as root or as the server's user.",
        )
    if os.geteuid() not in (0, owner):
        return warn(
            _NAME,
            f"not tried: only root and {_user(owner)} can call the hook as the server does",
            f"Run this as root or as {_user(owner)}.",
        )
    return _judged(_called(command, data_directory, owner), _user(owner))


def hook_variant(command: str | None) -> Iterator[Finding]:
    """Whether the hook of `archive_command`, or the one beside this program, is compiled."""
    file = _hook_file(command or "")
    try:
        with file.open("rb") as opened:
            is_script = opened.read(2) == b"#!"
    except OSError:
        return  # that it cannot be called is told elsewhere
    if not is_script:
        yield ok(_PROGRAM, f"compiled: {file}")
        return
    yield warn(
        _PROGRAM,
        f"Python: {file} starts an interpreter for each WAL file, some 15 ms that the compiled hook saves",
        "Install a wheel of this platform, or where a C compiler is; PostgreSQL's settings stay as they are.",
    )


def _hook_file(command: str) -> Path:
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    named = next((word for word in words if Path(word).name.startswith("walarchiver-hook")), None)
    beside = Path(sys.executable).parent / "walarchiver-hook"
    return beside if named is None else Path(shutil.which(named) or named)


def _called(command: str, data_directory: Path, owner: int) -> tuple[int, str]:
    """Exit status and complaint of the call; -1 when it could not be made."""
    line = command.replace("%p", IMPOSSIBLE_NAME).replace("%f", Path(IMPOSSIBLE_NAME).name)
    group = data_directory.stat().st_gid
    groups = [group]
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(owner)
        group, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    as_root = os.geteuid() == 0
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", line.replace("%%", "%")],
            cwd=data_directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S + 5,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "WALARCHIVER_TIMEOUT": str(TIMEOUT_S)},
            user=owner if as_root else None,
            group=group if as_root else None,
            extra_groups=groups if as_root else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return -1, f"{type(error).__name__}: {error}"
    return done.returncode, " ".join(done.stderr.split())


def _judged(called: tuple[int, str], user: str) -> Finding:
    status, complaint = called
    if status == 1 and NotAWalFile.code in complaint:
        return ok(_NAME, f"{user} reaches the daemon through archive_command")
    if NotPermitted.code in complaint:
        return fail(
            _NAME,
            f"the daemon does not take calls from {user}",
            f'Add users = ["{user}"] to the [server] section and restart `walarchiver serve`.',
        )
    said = complaint[:400] or "nothing"
    return fail(
        _NAME,
        f"archive_command, called as {user}, exited {status} and said: {said}",
        "Can that user run the hook and reach the socket? Each folder on the way must be open to it.",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
