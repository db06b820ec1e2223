"""The demo's proof: every row, and every file's SHA-256, against what the workload recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from walarchiver.core.moment import CommitTime
from walarchiver.demo.workload import Committed, State, expected_state
from walarchiver.postgres.demo_sql import Transfer

SAME_MOMENT_US = 50_000


@dataclass(frozen=True, slots=True)
class Files:
    """What became of the bucket."""

    digests: Mapping[str, str]
    """SHA-256 of what a reader gets now, by key."""
    dangling: int
    """References that a restore of the database alone left without their file."""
    destroyed: int
    """Versions that were there before the restore and are not now."""
    verdict: str
    """Of the joint restore: CONSISTENT or INCONSISTENT."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The comparison of what was restored with what must be there."""

    accounts: int
    transfers: int
    receipts: int
    differences: tuple[str, ...]
    lost_to_the_accident: int
    """Rows that the accident had deleted and the restore brought back."""
    rescued: int
    """Rows of the one table that `rescue` brought back alone."""
    files: Files

    @property
    def holds(self) -> bool:
        return (
            not self.differences
            and self.lost_to_the_accident > 0
            and self.rescued > 0
            and self.receipts > 0
            and self.files.dangling > 0  # else the control shows nothing
            and self.files.destroyed == 0
            and self.files.verdict == "CONSISTENT"
        )

    def members(self) -> dict[str, object]:
        """For --output json."""
        return {
            "holds": self.holds,
            "accounts": self.accounts,
            "transfers": self.transfers,
            "receipts": self.receipts,
            "rows_brought_back": self.lost_to_the_accident,
            "rows_rescued": self.rescued,
            "dangling_without_the_bucket": self.files.dangling,
            "versions_destroyed": self.files.destroyed,
            "verdict": self.files.verdict,
            "differences": list(self.differences[:20]),
        }


def prove(
    recorded: list[Committed],
    times: dict[int, CommitTime],
    asked: CommitTime,
    found: State,
    accident: CommitTime,
    rescued: dict[int, Transfer],
    files: Files,
) -> Proof:
    """Compare every row, and every file, with what the workload recorded."""
    wanted = expected_state(recorded, times, asked)
    differences = [
        *_different("account", wanted.balances, found.balances),
        *_different("transfer", wanted.transfers, found.transfers),
        *_different("receipt", wanted.receipts, found.receipts),
        *_wrong_files(wanted.receipts, files.digests),
        *_wrongly_rescued(recorded, times, accident, rescued),
    ]
    before = {transfer.id for one in recorded if times[one.xid] < accident for transfer in one.transfers}
    return Proof(
        accounts=len(wanted.balances),
        transfers=len(wanted.transfers),
        receipts=len(wanted.receipts),
        differences=tuple(differences),
        lost_to_the_accident=len(before & found.transfers.keys()),
        rescued=len(rescued),
        files=files,
    )


_Name = TypeVar("_Name", int, str)


def _different(what: str, wanted: Mapping[_Name, object], found: Mapping[_Name, object]) -> Iterator[str]:
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            yield f"{what} {name}: {found.get(name)} instead of {wanted.get(name)}"


def _wrong_files(wanted: Mapping[str, str], digests: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(wanted):
        if digests.get(key) != wanted[key]:
            yield f"file {key}: {digests.get(key, 'not there')} instead of {wanted[key]}"


def _wrongly_rescued(
    recorded: list[Committed],
    times: dict[int, CommitTime],
    accident: CommitTime,
    rescued: dict[int, Transfer],
) -> Iterator[str]:
    """What differs from the rows just before the accident.

    Transactions that committed within a few milliseconds of it may stand on either side of it in the WAL,
    whose order their times need not have.
    """
    until = {transfer.id: (times[one.xid], transfer) for one in recorded for transfer in one.transfers}
    for number, (time, transfer) in until.items():
        if time < accident - SAME_MOMENT_US and number not in rescued:
            yield f"transfer {number} is not among the rescued"
        if number in rescued and (rescued[number] != transfer or time > accident + SAME_MOMENT_US):
            yield f"rescued transfer {number}: {rescued[number]} instead of {transfer}"
    yield from (f"rescued transfer {number} was never made" for number in rescued.keys() - until.keys())
