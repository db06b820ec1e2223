"""What can go wrong on a throwaway instance, and with the rows taken from it."""

from __future__ import annotations

from walarchiver.errors.asking import UsageError
from walarchiver.errors.refusing import Refused


class UnknownTable(UsageError):
    """The cluster, as it was at the asked moment, has no such table, or several of that name."""

    code = "WA-TABLE"
    hint = (
        "Was it made later, or dropped before? Look with `walarchiver peek --at WHEN -c '\\dt *.*'`; --table "
        "takes SQL's own spelling: SCHEMA.NAME, with capitals in double quotes."
    )


class SchemaTaken(Refused):
    """The schema to load rescued tables into exists already; nothing was changed in the database."""

    code = "WA-SCHEMA-TAKEN"
    exit_status = 2
    hint = "Name another one with --into-schema, or drop it if it is an earlier rescue's."


class RescueFailed(Refused):
    """The rows could not be taken out whole, or not be loaded whole; no file and no schema was left."""

    code = "WA-RESCUE"
    hint = "Correct what the message names and give the command again; production was not changed."


class ThrowawayFailed(Refused):
    """A throwaway instance could not be made or could not be removed."""

    code = "WA-THROWAWAY"
    hint = "`walarchiver peek --clean` removes what is left of throwaway instances."


class StatementFailed(Refused):
    """PostgreSQL refused a statement that was given with --command."""

    code = "WA-STATEMENT"
    hint = "Correct the statement; the throwaway instance takes no writes."
