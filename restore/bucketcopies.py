"""Which versions of a bucket are copies that earlier restores made, where nothing else could tell.

Rules:
- What a journal beside its plan says of a finished copy is believed. Only copies whose ETag differs from
  their source's are remembered: those made in parts, or encrypted by a key service. The others show it
  themselves.
- A journal that cannot be read is left out: then its copies may be made once more, which loses nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from restore.bucketjournal import Outcome, results_in
from restore.core.bucketlines import parse_header
from walarchiver.errors import MalformedObject

LINE_BYTES_MAX = 1024 * 1024


def copies_made(restores: Path, target: str, *, plan: str, journal: str) -> Callable[[str, str, str], bool]:
    """Whether a version of a key of `target` is a copy of another one: `(key, version, source's version)`.

    `restores`: a folder with a folder for each restore; `plan` and `journal`: the files' names there.
    """
    known: set[bytes] = set()
    for folder in sorted(restores.iterdir()) if restores.is_dir() else ():
        try:
            with open(folder / plan, "rb") as file:
                header = parse_header(file.readline(LINE_BYTES_MAX))
            if header.target == target:
                known.update(_copies(folder / journal))
        except (OSError, MalformedObject):
            continue
    return lambda key, version, source: _mark(key, version, source) in known


def _copies(journal: Path) -> Iterator[bytes]:
    for result in results_in(journal):
        if result.outcome is Outcome.DONE and result.source and result.etag != result.source_etag:
            yield _mark(result.to, result.version_id, result.source)


def _mark(key: str, version: str, source: str) -> bytes:
    return hashlib.blake2b("\0".join((key, version, source)).encode(), digest_size=16).digest()
