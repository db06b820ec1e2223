"""From a cluster's configuration and a moment to a comparison of its database with its bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from restore.core.bucketmoment import bucket_moment
from restore.core.jointtext import JointReport
from restore.core.references import Guard
from restore.joint import Compared, compare, references_of
from walarchiver.bucketports import EvidenceBucket, VersionIndex
from walarchiver.catalog import Catalog
from walarchiver.core.moment import CommitTime
from walarchiver.core.skew import Skew, Tie, skew_of
from walarchiver.core.version import SECOND_MS, StoreMs
from walarchiver.errors import ConfigError
from walarchiver.postgres.references import read_references
from walarchiver.settings_schema import BucketSettings


@dataclass(frozen=True, slots=True)
class Sides:
    """The bucket's side of a comparison: where it is, what is known of it, and how the query is put."""

    section: BucketSettings
    bucket: EvidenceBucket
    index: VersionIndex
    skew: Skew | None
    """Of the clocks near the moment; None without tie points."""

    @property
    def query(self) -> str:
        """The configured query. Raises ConfigError without one."""
        if self.section.references is None:
            raise ConfigError(
                "there is no `references` query, so nothing says what the database refers to",
                hint="Set `references` in the [cluster.NAME.bucket] section: one SELECT of keys.",
            )
        return self.section.references

    @property
    def clock_warning(self) -> str | None:
        """What somebody should know when the clocks cannot be compared."""
        if self.skew is not None:
            return None
        return (
            "no tie point lies near the moment: how far the store's clock is from the server's is not known, "
            "and no difference is counted in"
        )

    @property
    def guard(self) -> Guard:
        skew = self.skew or Skew(0, 0)
        return Guard.of(
            skew_low_ms=skew.low // 1000,
            skew_high_ms=-(-skew.high // 1000),
            app_lag_ms=int(self.section.app_lag.total_seconds() * SECOND_MS),
        )

    def at(self, time: CommitTime) -> StoreMs:
        """The moment on the store's clock that belongs to one on the server's."""
        return bucket_moment(time, self.skew)

    def now(self) -> StoreMs:
        """The end of the second that the store's clock shows."""
        return StoreMs(self.bucket.date() + SECOND_MS)


def skew_near(catalog: Catalog, bucket: str, time: CommitTime) -> Skew | None:
    """How the clocks differed around `time`, by the tie points of the ledger; None without any."""
    return skew_of(Tie(tie.before, tie.after, tie.date) for tie in catalog.ties_near(bucket, time))


def check_joint(
    sides: Sides,
    dsn: str,
    moment: StoreMs,
    *,
    deep: bool = False,
    orphans: bool = True,
    workers: int = 4,
    progress: Callable[[int], None] = lambda _references: None,
) -> JointReport:
    """Compare what the database behind `dsn` refers to with the bucket as of `moment`."""
    rows = read_references(dsn, sides.query, dbname=sides.section.database)
    asked = Compared(
        sides.index,
        sides.bucket,
        moment,
        sides.guard,
        deep=deep,
        workers=workers,
        progress=progress,
    )
    return compare(asked, references_of(rows), orphans=orphans)
