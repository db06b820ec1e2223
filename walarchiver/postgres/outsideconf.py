"""The `config` part of a backup: configuration files that lie outside the data directory.

Debian-style clusters keep postgresql.conf and pg_hba.conf elsewhere, so BASE_BACKUP lacks them.

Rules:
- Read through the server (pg_read_file: superuser or pg_read_server_files), else from this host's
  own disk when the path is there and readable; what neither gives is listed as missing.
- No file goes in cut off: one beyond FILE_BYTES_MAX, or beyond TOTAL_BYTES_MAX with those before it, is
  left out whole and listed as too large.
- The tar is the same for the same contents: no times, no owners.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import psycopg

from walarchiver.postgres.connection import connected
from walarchiver.postgres.probe import Connection, outside_config_files

FILE_BYTES_MAX = 16 << 20
TOTAL_BYTES_MAX = 48 << 20
"""The tar is one part of a backup, which has at most 64 MiB."""


@dataclass(frozen=True, slots=True)
class OutsideConfiguration:
    archive: bytes
    """A tar whose names are the paths without the first slash; empty when no file was read."""
    files: tuple[str, ...]
    missing: tuple[str, ...]
    """Files that exist by the server's word but could not be read."""
    too_large: tuple[str, ...] = ()
    """Files that are no configuration by their size."""


def read_outside_configuration(dsn: str) -> OutsideConfiguration:
    """Raises DatabaseUnavailable when the server cannot be asked at all."""
    contents: dict[str, bytes] = {}
    missing: list[str] = []
    too_large: list[str] = []
    with connected(dsn) as connection:
        for path in _all_files(connection):
            content = _read(connection, path)
            left = TOTAL_BYTES_MAX - sum(map(len, contents.values()))
            if content is None:
                missing.append(path)
            elif len(content) > min(FILE_BYTES_MAX, left):
                too_large.append(path)
            else:
                contents[path] = content
    return OutsideConfiguration(_tar(contents), tuple(contents), tuple(missing), tuple(too_large))


def _all_files(connection: Connection) -> tuple[str, ...]:
    """Also files that only pg_hba.conf or pg_ident.conf include (16 and later)."""
    found = set(outside_config_files(connection))
    rows = connection.execute("SELECT setting FROM pg_settings WHERE name = 'data_directory'").fetchall()
    inside = tuple(f"{row[0]}/" for row in rows)
    for view in ("pg_hba_file_rules", "pg_ident_file_mappings"):
        try:
            included = connection.execute(f"SELECT DISTINCT file_name FROM {view}")  # noqa: S608 (constants)
        except psycopg.Error:
            continue  # an older release without that column, or a role that may not look
        found |= {str(path) for (path,) in included if path and inside and not str(path).startswith(inside)}
    return tuple(sorted(found))


def _read(connection: Connection, path: str) -> bytes | None:
    """The content; of a file that is too large one byte more than may be. None when it cannot be read."""
    asked = FILE_BYTES_MAX + 1
    try:
        row = connection.execute("SELECT pg_read_binary_file(%s, 0, %s)", (path, asked)).fetchone()
        if row is not None:
            return bytes(row[0])
    except psycopg.errors.InsufficientPrivilege:
        pass
    except psycopg.errors.UndefinedFile:
        return None
    try:
        with Path(path).open("rb") as handle:
            return handle.read(asked)
    except OSError:
        return None


def _tar(contents: dict[str, bytes]) -> bytes:
    if not contents:
        return b""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in contents.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size = len(content)
            entry.mode = 0o600
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
