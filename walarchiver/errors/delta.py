"""Why an existing directory is not made what was asked for: nothing in it was changed."""

from __future__ import annotations

from walarchiver.errors.asking import TargetDirectoryInUse
from walarchiver.errors.refusing import Locked


class DeltaForeign(TargetDirectoryInUse):
    """The directory does not hold an earlier copy of this cluster; nothing was changed."""

    code = "WA-DELTA-FOREIGN"
    hint = "Name the directory of an earlier copy of this cluster, or a new one without --delta."


class DeltaDoubtful(TargetDirectoryInUse):
    """The directory holds what a delta restore may neither keep nor remove; nothing was changed."""

    code = "WA-DELTA-DOUBT"
    hint = "Take it away, or restore into a new directory without --delta."


class DeltaWalUnarchived(TargetDirectoryInUse):
    """The directory has WAL that the archive lacks, and a restore would remove it; nothing was changed."""

    code = "WA-DELTA-WAL"
    hint = (
        "Archive it first: start the server, or save pg_wal elsewhere. If it is not wanted, remove the files "
        "*.ready in pg_wal/archive_status."
    )


class TargetLocked(Locked):
    """Another restore works in the directory right now."""

    code = "WA-TARGET-LOCKED"
    hint = "Wait for it to end, or stop it."
