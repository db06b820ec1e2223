"""What may pass: the outcome is open, or asking again later is right."""

from __future__ import annotations

from walarchiver.errors.base import WalarchiverError


class Transient(WalarchiverError):
    """The outcome is open or may change by itself; asking again later is right."""

    code = "WA-TRANSIENT"
    hint = "Try again; if it stays, look at the storage and the network."


class StoreUnavailable(Transient):
    """Object storage did not answer, or answered with an error that may pass."""

    code = "WA-STORE-UNAVAILABLE"
    hint = "Is the endpoint reachable from this host? Run `walarchiver s3 probe`."


class DeadlineExceeded(Transient):
    """The work did not end inside its deadline; nothing was acknowledged."""

    code = "WA-DEADLINE"
    hint = "PostgreSQL offers the file again by itself. Is the storage slow?"


class ServerUnreachable(Transient):
    """The walarchiver server did not answer on its socket."""

    code = "WA-SERVER"
    hint = "Is `walarchiver serve` running, and is the socket path the same on both sides?"


class SocketUnusable(ServerUnreachable):
    """What stands at the socket's path is no socket, or this user may not use it."""

    code = "WA-SOCKET"
    hint = "Correct the path, or let this user through: see `socket` and `users` in the [server] section."


class SegmentChanged(Transient):
    """The file changed or was removed while it was read; nothing was acknowledged."""

    code = "WA-SEGMENT-CHANGED"
    hint = "PostgreSQL never changes a file that it offers. Who else writes to pg_wal?"


class ShuttingDown(Transient):
    """The server is draining and takes no new work; nothing was acknowledged."""

    code = "WA-DRAINING"
    hint = "PostgreSQL offers the file again by itself once the server is back."


class TooManyCallers(Transient):
    """As many callers as are allowed are connected to the server; this one was turned away."""

    code = "WA-BUSY"
    hint = "PostgreSQL asks again by itself; raise `connections` in [server] if this is no accident."


class Interrupted(Transient):
    """The command was ended by Ctrl-C before it was done."""

    code = "WA-INTERRUPTED"
    exit_status = 130
    hint = "Give the command again; every command can be repeated."


class CallerGone(Transient):
    """The caller closed its connection before the answer; the work for it was stopped."""

    code = "WA-CALLER-GONE"
    hint = "Nothing to do: whoever still needs the file asks again."


class LedgerContended(Transient):
    """Other writers kept winning the next place in the ledger."""

    code = "WA-LEDGER-BUSY"
    hint = "Are several hosts archiving the same cluster? See the alarm log."


class EpochOutdated(Transient):
    """The keyring changed while this was sealed; it has to be sealed anew, to the new custodians."""

    code = "WA-EPOCH"
    hint = "Nothing to do for a WAL file: PostgreSQL offers it again. Begin an interrupted backup anew."


class DatabaseUnavailable(Transient):
    """PostgreSQL could not be asked."""

    code = "WA-DATABASE"
    hint = "Is the server up, and does `dsn` in the configuration reach it as a role with REPLICATION?"


class CatalogUnavailable(Transient):
    """The catalog, a cache of the ledger in the state folder, could not be read or written."""

    code = "WA-CATALOG"
    hint = "Is the state folder full or read-only? The catalog may be removed; it is made again."
