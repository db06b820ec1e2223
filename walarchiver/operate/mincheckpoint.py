"""Checkpoints to hold a chain against: the second place's newest, and what `--min-checkpoint` can be.

`N:HASH`, a checkpoint's file, or a folder with such files.

Rules:
- A file counts only with a signature that the repository's keyrings vouch for; then it also says when.
- Of a folder the checkpoint of the highest entry counts; files that do not verify are named and passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from walarchiver.assembly import Host, second_place_of
from walarchiver.errors import LedgerBroken, MalformedObject, Untrusted, UsageError, WalarchiverError
from walarchiver.format.checkpoint import CHECKPOINT_BYTES_MAX
from walarchiver.operate.ledgeraudit import Audit, SeenEntry
from walarchiver.operate.ledgertold import Outside
from walarchiver.repository import Repository
from walarchiver.secondplace import verified

_TYPED = re.compile(r"([0-9]{1,19}):([0-9a-f]{64})")
_FILE = re.compile(r"[0-9a-f]{16}\.json")


def parse_typed(text: str) -> SeenEntry | None:
    """`41:9f86…`, as `ledger verify` prints it; None when it is something else."""
    match = _TYPED.fullmatch(text)
    return None if match is None else SeenEntry(int(match[1]), match[2])


def checked_path(text: str) -> Path:
    """The file or folder that is meant. Raises UsageError."""
    try:
        path = Path(unquote(urlsplit(text).path)) if text.startswith("file:///") else Path(text)
        if text and (path.is_file() or path.is_dir()):
            return path
    except (OSError, ValueError):
        pass
    raise UsageError(
        f"{text!r} is not a checkpoint",
        hint="Give N:HASH as `walarchiver ledger verify` printed it, or the file or folder of checkpoints "
        "that were kept elsewhere.",
    )


def seen_in(path: Path, repository: Repository, audit: Audit, warn: Callable[[str], None]) -> SeenEntry:
    """The checkpoint in a file, or the newest one in a folder. Raises Untrusted, LedgerBroken."""
    if path.is_file():
        return _seen(path, repository, audit)
    files = {file for file in path.rglob("*.json") if _FILE.fullmatch(file.name)}
    for file in sorted(files, key=lambda file: file.name, reverse=True):
        try:
            return _seen(file, repository, audit)
        except Untrusted as error:
            warn(f"{file} is not used: {error.message}")
    raise LedgerBroken(
        f"{path} has no checkpoint of system {audit.system} that verifies",
        hint="Does it belong to this repository and cluster?",
    )


def look_outside(host: Host, cluster: str, repository: Repository, audit: Audit) -> Outside | None:
    """The newest checkpoint in the configured second place; None when none is configured."""
    url = host.settings.cluster(cluster).checkpoints
    if url is None:
        return None
    try:
        place = second_place_of(host, cluster, repository, audit.system, audit.keyring_at)
        assert place is not None
        try:
            found = place.newest()
        finally:
            place.store.close()
    except WalarchiverError as error:
        return Outside(url, None, error)
    return Outside(place.url, None if found is None else SeenEntry(found.seq, found.sha256, found.time))


def _seen(file: Path, repository: Repository, audit: Audit) -> SeenEntry:
    try:
        with file.open("rb") as opened:
            raw = opened.read(CHECKPOINT_BYTES_MAX + 1)
    except OSError as error:
        raise MalformedObject(f"{file} cannot be read: {error.strerror}") from error
    seq = int(file.stem, 16) if _FILE.fullmatch(file.name) else None
    found = verified(
        raw, repository, repo=repository.repo, system=audit.system, in_force=audit.keyring_at, seq=seq
    )
    return SeenEntry(found.seq, found.sha256, found.time)
