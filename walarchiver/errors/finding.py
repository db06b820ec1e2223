"""What `find` may answer instead of transactions."""

from __future__ import annotations

from walarchiver.errors.asking import UsageError
from walarchiver.errors.base import WalarchiverError


class TableNotListed(UsageError):
    """No list of relations, saved with a base backup or of the running server, has exactly one such table."""

    code = "WA-TABLE-NOT-LISTED"
    hint = (
        "Write it as SCHEMA.TABLE, with --database where several have it. A table that was made and dropped "
        "between two base backups is in no list: give its file with --relation TABLESPACE/DATABASE/FILE."
    )


class FindInGap(WalarchiverError):
    """WAL is missing or damaged inside the asked range; what was found before it was told."""

    code = "WA-FIND-GAP"
    exit_status = 14
    hint = "Ask again with --from behind the gap for the rest; `walarchiver timeline` shows where it ends."
