"""Waits until a segment is durable and recorded, in one repository after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from walarchiver.assembly import Archive, Host, open_archive
from walarchiver.catalog import FileRecord
from walarchiver.ports import Clock

PAUSE_S = 0.25
TELL_S = 5.0


@dataclass(frozen=True, slots=True)
class Durable:
    """A WAL file that the ledger records, and how long that took."""

    record: FileRecord
    seconds: float


def open_part(host: Host, cluster: str, repository: str, system: int | None) -> Archive:
    """The cluster's part of one of its repositories; `system` None: the newest. Raises as open_archive."""
    chosen = None if system is None else str(system)
    return open_archive(host, cluster, system=chosen, repository_name=repository)


def wait_durable(
    archive: Archive, name: str, *, clock: Clock, until_s: float, waiting: Callable[[float], None]
) -> Durable | None:
    """The record of WAL file `name`, or None when the ledger does not have it at `until_s`.

    `until_s` is on the monotonic clock; `waiting` is told every few seconds how long it has been.
    Looks at least once. Raises LedgerBroken, StoreUnavailable.
    """
    began_s = told_s = clock.monotonic_s()
    rest = threading.Event()
    while True:
        archive.ledger.refresh()
        record = archive.catalog.file(name)
        now_s = clock.monotonic_s()
        if record is not None:
            return Durable(record, now_s - began_s)
        if now_s >= until_s:
            return None
        if now_s - told_s >= TELL_S:
            told_s = now_s
            waiting(now_s - began_s)
        rest.wait(min(PAUSE_S, until_s - now_s))
