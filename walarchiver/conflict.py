"""What is said when another content is offered under a recorded name.

Rule (docs/format.md, `supersede`): the record in force decides; content that an administrator replaced is
refused like any other, and told apart.
"""

from __future__ import annotations

from walarchiver.catalog import Catalog, FileRecord
from walarchiver.errors import SegmentConflict
from walarchiver.format.records import SupersedeRecord


def refuse_other_content(
    name: str, recorded: FileRecord, digest: str, length: int, catalog: Catalog | None = None
) -> None:
    """Raise SegmentConflict unless the recorded content is this one; `catalog` knows what was replaced."""
    if (recorded.digest, recorded.len) == (digest, length):
        return
    for change in catalog.file_records(name) if catalog is not None else ():
        if isinstance(change, SupersedeRecord) and change.old == digest:
            raise SegmentConflict(
                f"{name} with digest {digest[:16]}… was replaced by an administrator ({change.reason}); "
                f"the archive keeps {recorded.digest[:16]}… ({recorded.len} bytes)",
                hint="Keep this host from offering the old file: put the replacement into its pg_wal, or let "
                "an administrator look at `walarchiver ledger supersede` again.",
            )
    raise SegmentConflict(
        f"{name} is archived with digest {recorded.digest[:16]}… ({recorded.len} bytes), "
        f"but the file offered has {digest[:16]}… ({length} bytes)"
    )
