"""Which moment of the bucket belongs to a decided stop of the database.

Rules:
- For a time, it is that time. For any other target it is the time of the last commit that is included: what
  the application stored before it committed is there, and what it deleted for a later transaction still is.
  Where nothing was committed since the base backup, it is the end of the backup.
- The store's clock differs from the server's: the moment is shifted only by what they certainly differ.
"""

from __future__ import annotations

from restore.core.model import AtTime, Decision, Target
from walarchiver.core.moment import CommitTime
from walarchiver.core.skew import Skew, store_time_of
from walarchiver.core.version import StoreMs


def database_moment(decision: Decision, target: Target) -> CommitTime | None:
    """The instant on the database server's clock; None when the decision is a refusal."""
    if isinstance(target, AtTime):
        return target.time
    if decision.stop is None:
        return None
    if decision.stop.last_commit is not None:
        return decision.stop.last_commit.time
    return None if decision.backup is None else decision.backup.stop_time


def bucket_moment(time: CommitTime, skew: Skew | None) -> StoreMs:
    """The same instant on the store's clock, in whole milliseconds."""
    return StoreMs(store_time_of(time, skew) // 1000)
