"""Whether the index can vouch for the bucket's state at a moment: for people and machines."""

from __future__ import annotations

from dataclasses import dataclass

from restore.core.bucketlines import store_time
from walarchiver.cli.bucketmoment import Watched
from walarchiver.core.bucketwindow import Certainty, window_of
from walarchiver.core.version import StoreMs
from walarchiver.operate.findings import DEGRADED


@dataclass(frozen=True, slots=True)
class Vouched:
    """What can be said of one moment, and of the window around it."""

    certainty: Certainty
    causes: tuple[str, ...]
    before: StoreMs | None
    """The last moment at or before that can be vouched for."""
    after: StoreMs | None

    @property
    def is_complete(self) -> bool:
        return self.certainty is Certainty.COMPLETE

    @property
    def exit_status(self) -> int:
        return 0 if self.is_complete else DEGRADED

    @property
    def nearest(self) -> str:
        """The nearest moments that can be vouched for, as the end of a sentence; empty if it is this one."""
        if self.is_complete:
            return ""
        known = [store_time(at) for at in (self.before, self.after) if at is not None]
        return f"nearest complete: {' and '.join(known)}" if known else "no moment is complete"

    @property
    def lines(self) -> list[str]:
        more = [self.nearest] if self.nearest else []
        return [f"window: {self.certainty}", *(f"  - {line}" for line in (*self.causes, *more))]

    @property
    def members(self) -> dict[str, object]:
        return {
            "verdict": self.certainty.value,
            "causes": list(self.causes),
            "nearest": {
                "before": None if self.before is None else store_time(self.before),
                "after": None if self.after is None else store_time(self.after),
            },
        }


def vouched(bucket: Watched, moment: StoreMs, prefix: str) -> Vouched:
    """What the observations in the index say of the moment, and what somebody must act on."""
    now = StoreMs(bucket.host.clock.now_us() // 1000)
    observations = bucket.index.observations()
    newest = max((one.at for one in observations), default=now)
    window = window_of(observations, now=max(now, newest), prefix=prefix)
    verdict = window.verdict(moment)
    before, after = window.nearest(moment)
    causes = [verdict.told] if verdict.told else []
    causes += [f"that was {store_time(one.at)}" for one in window.starts + window.ends if one.told in causes][
        :1
    ]
    causes += [alarm.told for alarm in window.alarms]
    return Vouched(verdict.certainty, tuple(causes), before, after)
