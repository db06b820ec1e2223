"""What `restore` and its like are told of their target: owner, hook, tablespaces; checked first."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from walarchiver.errors import UsageError
from walarchiver.postgres.process import RunAs

HOOK_TIMEOUT_S = 30


def owner_of(name: str | None) -> RunAs | None:
    """Who the files belong to; only root can choose. Raises UsageError."""
    if os.geteuid() != 0:
        if name is not None:
            raise UsageError("only root can give files to another user", hint="Leave --owner out.")
        return None
    return RunAs.named(name or "postgres")


def check_hook(hook: Path, owner: RunAs | None) -> None:
    """Whether the new cluster's owner can run the hook, asked before anything is downloaded.

    One in a folder that is closed to him would stop recovery at its first file. Raises UsageError.
    """
    user = None if owner is None else owner.uid
    group = None if owner is None else owner.gid
    try:
        done = subprocess.run(
            [hook, "fetch"],
            user=user,
            group=group,
            extra_groups=None if owner is None else [],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=HOOK_TIMEOUT_S,
            check=False,
        )
        said = done.stderr.decode("utf-8", "replace").strip()
    except subprocess.TimeoutExpired:
        said = f"it does not end within {HOOK_TIMEOUT_S} s"
    except OSError as error:
        said = error.strerror or str(error)
    if "usage: walarchiver-hook" not in said:
        who = "this user" if owner is None else f"user {owner.uid}, who gets the new cluster,"
        raise UsageError(
            f"{who} cannot run {hook}: {said.splitlines()[-1] if said else 'it says nothing'}",
            hint="Name one that the owner of the new cluster can read and run with --hook PATH.",
        )


def tablespaces_of(given: list[str]) -> dict[int, Path]:
    """The directories that --tablespace names, by OID. Raises UsageError."""
    found = {}
    for word in given:
        oid, equals, folder = word.partition("=")
        if not equals or not oid.isdecimal() or not Path(folder).is_absolute():
            raise UsageError(f"--tablespace {word!r} is not OID=/ABSOLUTE/DIR")
        found[int(oid)] = Path(folder)
    return found
