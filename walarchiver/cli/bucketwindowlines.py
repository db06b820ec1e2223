"""Whether the index can vouch for the bucket's state at a moment: for people and machines."""

from __future__ import annotations

from dataclasses import dataclass

from walarchiver.bucketports import Versioning
from walarchiver.cli.bucketmoment import Watched
from walarchiver.core.version import StoreMs

COMPLETE, INCOMPLETE = "complete", "incomplete"


@dataclass(frozen=True, slots=True)
class Vouched:
    """The window's verdict at one moment."""

    verdict: str
    causes: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        return self.verdict == COMPLETE

    @property
    def exit_status(self) -> int:
        return 0 if self.is_complete else 3

    @property
    def lines(self) -> list[str]:
        return [f"window: {self.verdict}", *(f"  - {cause}" for cause in self.causes)]

    @property
    def members(self) -> dict[str, object]:
        return {"verdict": self.verdict, "causes": list(self.causes)}


def vouched(bucket: Watched, moment: StoreMs) -> Vouched:
    """What the observations in the index say of the moment."""
    seen = bucket.index.observations()
    causes = []
    if not any(one.kind == "scan" and one.at <= moment for one in seen):
        causes.append(
            "the moment is older than the first complete listing: what was removed before is not known"
        )
    if any(one.kind == "versioning" and one.value != Versioning.ENABLED for one in seen):
        causes.append("versioning was not always enabled")
    return Vouched(INCOMPLETE if causes else COMPLETE, tuple(causes))
