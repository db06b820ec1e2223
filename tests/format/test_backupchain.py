"""Chains of base backups: whole down to a full one, or of no use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.format.test_chain_roles import EXAMPLES
from walarchiver.core.lsn import Lsn
from walarchiver.errors import BackupChainBroken
from walarchiver.format.backupchain import chain_of, whole_chains
from walarchiver.format.codec import record_from_json, record_to_json
from walarchiver.format.records import BackupRecord

_EXAMPLE = EXAMPLES["backup"]
assert isinstance(_EXAMPLE, BackupRecord)
FULL = replace(_EXAMPLE, backup="full")


def on(prior: BackupRecord, name: str, **changes: object) -> BackupRecord:
    """An incremental backup that began a little later."""
    start = Lsn(prior.start_lsn + 0x1000)
    return replace(
        prior,
        **{"backup": name, "method": "incremental", "prior": prior.backup, "start_lsn": start, **changes},
    )  # type: ignore[arg-type]


ONE = on(FULL, "one")
TWO = on(ONE, "two", timeline=2)


def test_a_chain_is_listed_from_its_full_backup_on() -> None:
    assert chain_of([TWO, ONE, FULL], "two") == (FULL, ONE, TWO)
    assert chain_of([TWO, ONE, FULL], "full") == (FULL,)


def test_an_incremental_record_survives_its_own_spelling() -> None:
    assert record_from_json(record_to_json(TWO)) == TWO
    assert "prior" not in record_to_json(FULL)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([TWO, FULL], "two builds on one, which is no finished"),
        ([TWO, ONE], "one builds on full, which is no finished"),
        ([], "^two is no finished"),
        ([replace(TWO, prior=None)], "is incremental, but names no backup"),
        ([replace(TWO, method="full"), ONE, FULL], "is full, but names one"),
        ([replace(TWO, method="snapshot"), ONE, FULL], "'snapshot', which this release does not know"),
        ([replace(TWO, prior="two")], "did not begin before"),
        ([TWO, replace(ONE, start_lsn=TWO.start_lsn), FULL], "did not begin before two"),
        ([TWO, replace(ONE, timeline=3), FULL], "of a later timeline than two"),
    ],
)
def test_a_chain_that_is_not_whole_says_why(records: list[BackupRecord], said: str) -> None:
    with pytest.raises(BackupChainBroken, match=said):
        chain_of(records, "two")


def test_backups_below_a_break_stay_usable() -> None:
    three = on(replace(ONE, backup="lost"), "three")
    assert list(whole_chains([FULL, ONE, three, TWO])) == ["full", "one", "two"]
