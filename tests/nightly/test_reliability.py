"""docs/reliability.md says what is tested, and nothing else."""

from __future__ import annotations

import pytest

from tests.mutations.table import MUTATIONS
from tests.nightly.named import exists
from tests.nightly.promises import PROMISES, Promise
from tests.nightly.reliability import PAGE, written

NOT_BUILT = {4}
NOT_BROKEN = {4, 16}


def test_the_promises_are_numbered_from_1_to_17() -> None:
    assert [one.number for one in PROMISES] == list(range(1, 18))


@pytest.mark.parametrize("promise", PROMISES, ids=lambda one: str(one.number))
def test_every_promise_has_tests_that_exist_or_says_why_not(promise: Promise) -> None:
    assert [node for node in promise.tests if not exists(node)] == []
    assert bool(promise.tests) == (promise.number not in NOT_BUILT)
    assert promise.tests or promise.open


def test_every_promise_that_can_be_is_broken_on_purpose() -> None:
    assert {one.promise for one in MUTATIONS} == {one.number for one in PROMISES} - NOT_BROKEN


def test_the_page_is_what_the_tables_say() -> None:
    """Else run `python -m tests.nightly.reliability`."""
    assert PAGE.read_text() == written(PAGE.read_text())
