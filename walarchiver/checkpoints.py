"""Checkpointer: says once an hour, in the chain and in the second place, where the chain ends.

Rules (docs/format.md, "Checkpoints"):
- Nothing is written when nothing but checkpoints came since the last one, whoever wrote that.
- The second place is opened when it is needed and may be away for as long as it likes: nobody waits
  for it, the next try follows, and status and alarms say so.
- A checkpoint there that the chain does not hold is an alarm: the chain was cut off or is another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from walarchiver.catalog import Catalog
from walarchiver.errors import LedgerBroken, WalarchiverError
from walarchiver.format.checkpoint import Checkpoint
from walarchiver.format.records import CheckpointRecord, Record
from walarchiver.format.signed import Signer
from walarchiver.ledger import Ledger, Proposal
from walarchiver.log import get_log
from walarchiver.ports import Clock
from walarchiver.secondplace import SecondPlace

log = get_log("checkpoints")

INTERVAL_US = 3600 * 1_000_000
STALE_US = 3 * INTERVAL_US
"""How much later than the newest checkpoint kept elsewhere an entry may be before that is a problem."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of the second place."""

    url: str
    newest: Checkpoint | None
    failure: WalarchiverError | None = None
    """Why it could not be asked or written to, or what it has against the chain."""

    def problem(self, catalog: Catalog) -> str | None:
        """What an operator should act on, told against the chain in `catalog`."""
        if self.failure is not None:
            return f"Checkpoints are not kept in {self.url}: {self.failure.message}."
        behind = self.newest.time if self.newest is not None else catalog.begun_us()
        head = catalog.head_time_us()
        if behind is None or head is None or head - behind <= STALE_US:
            return None
        what = "no checkpoint" if self.newest is None else f"none behind entry {self.newest.seq}"
        return (
            f"{self.url} has {what} although the ledger went on for {(head - behind) // INTERVAL_US} hours: "
            "is `walarchiver serve` running, and may it write there?"
        )


def contradiction(catalog: Catalog, checkpoint: Checkpoint) -> LedgerBroken | None:
    """Why a verified chain and a checkpoint kept elsewhere cannot both be right; None when they can."""
    found = catalog.entry_sha256(checkpoint.seq)
    if found == checkpoint.sha256 and catalog.entry_writer(checkpoint.seq) is not None:
        return None
    state = "is missing" if found is None else "is another one"
    return LedgerBroken(
        f"entry {checkpoint.seq} of system {checkpoint.system} {state}, but a checkpoint vouches for it",
        hint="Its newest entries were removed or changed: look for deleted versions and for copies.",
    )


def look_into(place: SecondPlace, catalog: Catalog) -> Kept:
    """Ask the second place, and hold the chain in `catalog` against it."""
    try:
        newest = place.newest()
    except WalarchiverError as error:
        return Kept(place.url, None, error)
    return Kept(place.url, newest, None if newest is None else contradiction(catalog, newest))


class Checkpointer:
    """Keeps one ledger's checkpoints. Blocking; one thread at a time."""

    def __init__(
        self,
        ledger: Ledger,
        signer: Signer,
        clock: Clock,
        *,
        place_url: str | None = None,
        open_place: Callable[[], SecondPlace] | None = None,
    ) -> None:
        """`open_place` opens the second place, whose name is `place_url`; None when none is configured."""
        self._ledger = ledger
        self._signer = signer
        self._clock = clock
        self._open_place = open_place
        self._place: SecondPlace | None = None
        self.kept = None if place_url is None else Kept(place_url, None)
        """What was last found in the second place; None when none is configured."""

    def proposal(self) -> Proposal | None:
        """What to append to the chain, when it is time."""
        return Proposal("checkpoint", self._decide) if self._decide(self._ledger.catalog) else None

    def _decide(self, catalog: Catalog) -> tuple[Record, ...]:
        head = catalog.newest_valid()
        last = catalog.newest_checkpoint()
        since_us = last[1] if last else catalog.begun_us()
        if head is None or since_us is None or self._clock.now_us() - since_us < INTERVAL_US:
            return ()
        if last is not None and last[0] == head[0]:
            return ()
        return (CheckpointRecord(seq=head[0], sha256=head[1]),)

    def keep(self) -> bool:
        """Write the head of the chain to the second place, when it is time; whether it was written.

        Raises what kept it from being written, once `kept` says so, too.
        """
        if self._open_place is None or self.kept is None:
            return False
        catalog = self._ledger.catalog
        try:
            if self._place is None:
                place = self._open_place()
                self.kept = Kept(self.kept.url, place.newest())
                self._place = place
            newest = self.kept.newest
            if newest is not None and (problem := contradiction(catalog, newest)):
                raise problem
            state = self._ledger.state()
            head = catalog.newest_valid()
            now_us = self._clock.now_us()
            if head is None or (newest and (newest.seq == head[0] or now_us - newest.time < INTERVAL_US)):
                self.kept = Kept(self.kept.url, newest)
                return False
            made = Checkpoint(
                repo=self._ledger.repo,
                system=self._ledger.system,
                seq=head[0],
                sha256=head[1],
                time=now_us,
                keyring=state.keyring_n,
                writer=self._signer.id,
            )
            self._place.put(made, self._signer)
        except WalarchiverError as error:
            self.kept = Kept(self.kept.url, self.kept.newest, error)
            raise
        self.kept = Kept(self.kept.url, made)
        log.info("checkpoint kept", place=self.kept.url, system=made.system, seq=made.seq)
        return True
