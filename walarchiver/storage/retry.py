"""Asking again: how long to wait, and when to stop.

Rules:
- Before try n + 1 the pause is drawn evenly from 0 to min(longest pause, first pause x 2^(n-1))
  ("full jitter"), so many hosts that failed together do not come back together.
- No new try begins once the budget is used up, nor a pause that would outlast it. A try in
  progress is not cut off: each has its own time limits. So a call lasts at most the budget plus
  one try.
- Only StoreUnavailable is asked again. Every other answer is an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from walarchiver.errors import StoreUnavailable
from walarchiver.ports import Clock, Random

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patiently a store is asked; all in seconds."""

    budget_s: float = 60.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0

    def pause_bound_s(self, failures: int) -> float:
        """The longest pause after that many failed tries (1 or more)."""
        doublings = min(failures - 1, 30)
        return float(min(self.longest_pause_s, self.first_pause_s * 2**doublings))


class Retrier:
    """Runs one step again and again until it answers or the budget is gone."""

    def __init__(
        self, policy: RetryPolicy, clock: Clock, random: Random, wait: Callable[[float], bool]
    ) -> None:
        """`wait(seconds)` sleeps, and returns True when the store is being closed."""
        self._policy = policy
        self._clock = clock
        self._random = random
        self._wait = wait

    def run(self, what: str, step: Callable[[], Answer]) -> Answer:
        """What `step` returns. Raises StoreUnavailable, with the last failure, once the budget is used up."""
        began = self._clock.monotonic_s()
        failures = 0
        while True:
            try:
                return step()
            except StoreUnavailable as failure:
                failures += 1
                last = failure
            pause_s = self._random.uniform(0.0, self._policy.pause_bound_s(failures))
            used_s = self._clock.monotonic_s() - began
            if used_s + pause_s >= self._policy.budget_s:
                tries = "1 try" if failures == 1 else f"{failures} tries"
                raise StoreUnavailable(f"{last.message} (gave up after {tries} in {used_s:.1f} s)") from last
            if self._wait(pause_s):
                raise StoreUnavailable(f"{what}: the store was closed while asking again") from last
