"""The schedule of asking again, on a clock that only moves when told."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.chance import SeededRandom, SteppingClock
from walarchiver.errors import KeyTaken, StoreUnavailable
from walarchiver.storage import retry
from walarchiver.storage.retry import Retrier, RetryPolicy

POLICY = RetryPolicy(budget_s=60.0, first_pause_s=0.1, longest_pause_s=5.0)


class AlwaysLongest:
    def token(self, length: int) -> bytes:
        return b"\0" * length

    def uniform(self, low: float, high: float) -> float:
        return high


class Step:
    """Fails `failures` times, each try lasting `try_s`, then answers."""

    def __init__(self, clock: SteppingClock, failures: int, try_s: float = 0.0) -> None:
        self.clock, self.failures, self.try_s, self.tries = clock, failures, try_s, 0

    def __call__(self) -> str:
        self.tries += 1
        self.clock.advance(self.try_s)
        if self.tries <= self.failures:
            raise StoreUnavailable(f"503 on try {self.tries}")
        return "answer"


def test_pauses_double_up_to_the_longest() -> None:
    clock = SteppingClock()
    assert Retrier(POLICY, clock, AlwaysLongest(), clock.wait).run("get", Step(clock, 8)) == "answer"
    assert clock.waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@given(seed=st.integers(0, 1000), failures=st.integers(0, 200), try_s=st.floats(0, 90))
def test_no_try_begins_after_the_budget(seed: int, failures: int, try_s: float) -> None:
    clock = SteppingClock()
    step = Step(clock, failures, try_s)
    began = clock.monotonic_s()
    try:
        Retrier(POLICY, clock, SeededRandom(seed), clock.wait).run("get", step)
        answered = True
    except StoreUnavailable:
        answered = False
    assert step.tries == failures + 1 if answered else step.tries <= failures
    assert clock.monotonic_s() - began - try_s <= POLICY.budget_s


def test_the_last_failure_is_told_with_the_number_of_tries() -> None:
    clock = SteppingClock()
    with pytest.raises(StoreUnavailable, match=r"503 on try 3 \(gave up after 3 tries in 60\.\d s\)"):
        Retrier(POLICY, clock, AlwaysLongest(), clock.wait).run("get", Step(clock, 99, try_s=20.0))


def test_an_answer_that_is_not_a_failure_is_not_asked_again() -> None:
    clock = SteppingClock()

    def step() -> str:
        raise KeyTaken("exists")

    with pytest.raises(KeyTaken):
        Retrier(POLICY, clock, AlwaysLongest(), clock.wait).run("put", step)
    assert clock.waits == []


def test_closing_ends_the_wait() -> None:
    clock = SteppingClock()
    step = Step(clock, 5)
    with pytest.raises(StoreUnavailable, match="closed"):
        Retrier(POLICY, clock, AlwaysLongest(), lambda _seconds: True).run("get", step)
    assert step.tries == 1


def test_a_store_that_never_answered_gets_the_smaller_budget_and_one_that_did_the_whole() -> None:
    policy = replace(POLICY, first_budget_s=15.0)
    clock = SteppingClock()
    retrier = Retrier(policy, clock, AlwaysLongest(), clock.wait)
    began = clock.monotonic_s()
    with pytest.raises(StoreUnavailable):
        retrier.run("get", Step(clock, 99))
    assert 10 < clock.monotonic_s() - began <= 15
    assert retrier.run("get", Step(clock, 2)) == "answer"
    began = clock.monotonic_s()
    with pytest.raises(StoreUnavailable):
        retrier.run("get", Step(clock, 99))
    assert 50 < clock.monotonic_s() - began <= 60


def test_a_refusal_is_an_answer_too() -> None:
    clock = SteppingClock()
    retrier = Retrier(replace(POLICY, first_budget_s=0.0), clock, AlwaysLongest(), clock.wait)

    def refuse() -> str:
        raise KeyTaken("exists")

    with pytest.raises(KeyTaken):
        retrier.run("put", refuse)
    assert retrier.run("get", Step(clock, 3)) == "answer"


def test_who_waits_is_told_after_two_seconds_and_not_at_every_try() -> None:
    clock = SteppingClock()
    said: list[tuple[float, str]] = []
    began = clock.monotonic_s()

    def notice(line: str) -> None:
        said.append((clock.monotonic_s() - began, line))

    retrier = Retrier(POLICY, clock, AlwaysLongest(), clock.wait, notice)
    assert retrier.run("get", Step(clock, 4)) == "answer"
    assert said == []
    with pytest.raises(StoreUnavailable):
        retrier.run("get", Step(clock, 99))
    times = [at for at, _line in said]
    assert times[0] <= 2.5 + 1.5
    assert all(later - earlier >= 5 for earlier, later in pairwise(times))
    assert len(times) >= 8
    assert said[0][1] == "503 on try 5; asking again, for up to 60 s"


def test_a_store_that_takes_the_question_and_says_nothing_is_told_of_while_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "NOTICE_AFTER_S", 0.0)
    clock = SteppingClock()
    told = threading.Event()
    said: list[str] = []

    def notice(line: str) -> None:
        said.append(line)
        told.set()

    def silent() -> bool:
        return told.wait(30)

    retrier = Retrier(replace(POLICY, first_budget_s=15.0), clock, AlwaysLongest(), clock.wait, notice)
    assert retrier.run("read REPO", silent)
    assert said == ["read REPO: the store has not answered yet; asking again"]
    told.clear()
    assert retrier.run("read more", lambda: not told.is_set())
    assert len(said) == 1, "one that has answered is left alone"
