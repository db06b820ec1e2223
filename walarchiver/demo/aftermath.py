"""The demo's second way out: who deleted the rows, and only those rows brought back.

Rule: it knows nothing but the archive and one custodian's key; the database that had the accident is gone.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

from walarchiver.core.moment import CommitTime, format_rfc3339
from walarchiver.demo.stage import Stage
from walarchiver.embedded.binaries import postgres_bin
from walarchiver.errors import RestoreFailed
from walarchiver.postgres.demo_sql import Transfer

SEARCHED_US = 5_000_000
"""Somebody knows about when it happened: so much on either side of it."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """What came back without restoring the database for good."""

    xid: int
    """The transaction that `find` names."""
    deleted: int
    """Rows that it deleted, by the WAL."""
    transfers: dict[int, Transfer]


def rescue(stage: Stage, config: Path, about: CommitTime, *, major: int) -> Rescued:
    """Find the transaction that deleted from `transfer` about then, and get the rows as they were before it.

    Raises RestoreFailed when it is not found alone, or a command fails.
    """
    first, last = (format_rfc3339(CommitTime(about + by)) for by in (-SEARCHED_US, SEARCHED_US))
    words = ["find", "--table", "transfer", "--kind", "delete", "--from", first, "--to", last]
    told = json.loads(stage.run(*words, "--output", "json", config=config).stdout)
    if len(told["transactions"]) != 1:
        raise RestoreFailed(f"find names {len(told['transactions'])} transactions that deleted transfers")
    (culprit,) = told["transactions"]
    out = stage.folder / "rescued.csv"
    words = ["rescue", "--at", f"before-xid:{culprit['xid']}", "--table", "transfer"]
    words += ["--out", str(out), "--format", "csv"]
    words += ["--hook", str(stage.hook), "--bin-dir", str(postgres_bin(major))]
    words += ["--owner", "nobody"] if os.geteuid() == 0 else []
    stage.run(*words, config=config)
    with out.open(newline="", encoding="utf-8") as file:
        rows = [
            Transfer(int(row["id"]), int(row["debit"]), int(row["credit"]), int(row["amount"]), row["note"])
            for row in csv.DictReader(file)
        ]
    return Rescued(culprit["xid"], culprit["deleted"], {row.id: row for row in rows})
