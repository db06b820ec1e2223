"""Will a bucket's rules leave the versions of a pin alone for as long as it shall hold?"""

from __future__ import annotations

import pytest

from walarchiver.core.bucketfacts import LifecycleRule, Versioning
from walarchiver.core.bucketwindow import DAY_MS
from walarchiver.core.pinning import copies_endangered_by, endangered_by
from walarchiver.core.version import StoreMs

CUTOFF = StoreMs(20_000 * DAY_MS)


def rule(days: int | None, *, expires: bool = False, newer: int | None = None) -> LifecycleRule:
    return LifecycleRule("clean", "", days, newer, expires, filtered=False)


def causes(*rules: LifecycleRule, days: int, versioning: Versioning = Versioning.ENABLED) -> tuple[str, ...]:
    return endangered_by(versioning, rules, cutoff=CUTOFF, until=StoreMs(CUTOFF + days * DAY_MS))


@pytest.mark.parametrize(("days", "endangered"), [(29, 0), (30, 0), (31, 1)])
def test_a_rule_keeps_for_its_noncurrent_days_and_no_longer(days: int, endangered: int) -> None:
    assert len(causes(rule(30), days=days)) == endangered


def test_newer_noncurrent_versions_are_no_promise() -> None:
    (told,) = causes(rule(30, newer=100), days=31)
    assert "'clean'" in told
    assert "30 days" in told


def test_markers_endanger_no_version() -> None:
    assert causes(rule(None, expires=True), days=10_000) == ()


def test_without_versioning_or_with_hidden_rules_nothing_is_promised() -> None:
    assert causes(days=1, versioning=Versioning.SUSPENDED) != ()
    assert endangered_by(Versioning.ENABLED, None, cutoff=CUTOFF, until=CUTOFF) != ()


def test_copies_are_endangered_only_by_rules_that_expire_what_is_current() -> None:
    assert copies_endangered_by([rule(1)]) == ()
    assert copies_endangered_by([rule(None, expires=True)]) != ()
