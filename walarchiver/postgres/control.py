"""The two files that tell which cluster a data directory belongs to, readable without a server.

Source: PostgreSQL src/include/catalog/pg_control.h (ControlFileData begins with the 64-bit system
identifier, then the 32-bit pg_control version; the server's state is at byte 16; its checkPointCopy
begins at byte 40 with the redo position, then the timeline, in 14 to 18); PG_VERSION holds the major
version as text.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from walarchiver.errors import DatabaseUnavailable

_CONTROL_VERSIONS = range(1300, 2000)
"""PostgreSQL 14 to 18 use 1300, 1700 and 1800; a wrong byte order would not fall in here."""
_CONTROL = struct.Struct("<QI36xI")
_STATE = struct.Struct("<16xI")
_PRODUCTION = (1, 3, 6)
"""DB_SHUTDOWNED, DB_SHUTDOWNING, DB_IN_PRODUCTION (enum DBState)."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The identity of a data directory."""

    system: int
    major: int
    timeline: int
    """Of the last checkpoint."""


def read_data_directory(path: Path) -> DataDirectory:
    """System identifier and major version of the cluster in `path`.

    Raises DatabaseUnavailable when there is no readable PostgreSQL data directory.
    """
    try:
        control = (path / "global" / "pg_control").read_bytes()[: _CONTROL.size]
        major = int((path / "PG_VERSION").read_text("ascii").strip())
        system, version, timeline = _CONTROL.unpack(control)
    except (OSError, ValueError, struct.error) as error:
        raise DatabaseUnavailable(
            f"{path} cannot be read as a PostgreSQL data directory: {error}",
            hint="Is `data_directory` right, and may this user read global/pg_control in it?",
        ) from error
    if system == 0 or version not in _CONTROL_VERSIONS:
        raise DatabaseUnavailable(f"{path}/global/pg_control is of no supported kind (version {version})")
    return DataDirectory(system, major, timeline)


def in_production(path: Path) -> bool:
    """Whether the cluster in `path` takes writes, or did when it was shut down: no recovery is under way.

    Of the copy in a base backup this says what its original was doing. Raises DatabaseUnavailable.
    """
    read_data_directory(path)
    try:
        (state,) = _STATE.unpack((path / "global" / "pg_control").read_bytes()[: _STATE.size])
    except (OSError, struct.error) as error:
        raise DatabaseUnavailable(f"{path}/global/pg_control cannot be read: {error}") from error
    return state in _PRODUCTION
