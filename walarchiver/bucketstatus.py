"""The bucket's part of `status`: how far it can be restored, its index in the repository, the clocks.

Rule: only this host's index and the ledger are read; the bucket itself is not asked.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from walarchiver.assembly import Archive, Host
from walarchiver.bucketassembly import bucket_section, index_of, index_path
from walarchiver.bucketshipping import kept_of_bucket, needs_rebuilding
from walarchiver.core.bucketwindow import Excluded, Window, window_of
from walarchiver.core.moment import CommitTime, format_rfc3339
from walarchiver.core.skew import Skew, Tie, skew_of
from walarchiver.core.version import StoreMs
from walarchiver.storage.options import S3Location

STALE_SCANS = 3
"""After so many listings that should have been made and were not, the index is stale."""
STALE_S_MIN = 3600
UNWATCHED_STALE_S = 86_400
"""The same where nobody lists by the clock (`scan = "0s"`)."""


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """One bucket's condition. Times of the bucket are the store's, microseconds since 1970."""

    url: str
    window: Window | None
    """None: this host has no index, or the bucket was never listed to its end."""
    listed: int | None
    kept: int | None
    """Up to when the repository has the index."""
    skew: Skew | None
    problems: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """For the screen of `status`."""
        shown = [f"bucket               {self.url}"]
        if self.window is not None:
            start, end = self.window.start, self.window.end
            shown += [
                f"  restorable         {_time(start.at)} ({start.told})",
                f"             to      {_time(end.at)} ({end.told})",
            ]
            shown += [
                f"  left out           {_time(each.since)} to {_time(each.until)}: {each.told}"
                for each in self._left_out
            ]
        kept = "none" if self.kept is None else format_rfc3339(self.kept)
        shown.append(
            f"  index kept         {kept}"
            + ("" if self.kept is None else " is how far the repository's reaches")
        )
        if self.skew is not None:
            shown.append(
                f"  clocks             the store's is {self.skew.low / 1e6:+.1f} to "
                f"{self.skew.high / 1e6:+.1f} s from the server's"
            )
        return shown

    @property
    def _left_out(self) -> tuple[Excluded, ...]:
        assert self.window is not None
        start, end = self.window.start.at, self.window.end.at
        return tuple(each for each in self.window.excluded if each.until > start and each.since < end)

    def members(self) -> dict[str, object]:
        """For --output json."""
        window = None
        if self.window is not None:
            window = {
                "start": _time(self.window.start.at),
                "start_cause": self.window.start.told,
                "end": _time(self.window.end.at),
                "end_cause": self.window.end.told,
                "reachable": [{"from": _time(low), "to": _time(high)} for low, high in self.window.reachable],
                "excluded": [
                    {"from": _time(each.since), "to": _time(each.until), "cause": each.told}
                    for each in self._left_out
                ],
            }
        skew = None if self.skew is None else {"low_us": self.skew.low, "high_us": self.skew.high}
        return {
            "url": self.url,
            "window": window,
            "listed": None if self.listed is None else format_rfc3339(self.listed),
            "kept_in_repository": None if self.kept is None else format_rfc3339(self.kept),
            "clocks": skew,
            "problems": list(self.problems),
        }


def bucket_status(host: Host, archive: Archive) -> BucketStatus | None:
    """None when the cluster has no bucket. Raises Index…"""
    name = archive.cluster.name
    if name not in host.settings.clusters or host.settings.cluster(name).bucket is None:
        return None
    section = bucket_section(host, name)
    location = S3Location.parse(section.url)
    now_us = host.clock.now_us()
    kept = kept_of_bucket(host, name, archive)
    ties = archive.catalog.ties_near(location.bucket, CommitTime(now_us))
    skew = skew_of(Tie(tie.before, tie.after, tie.date) for tie in ties)
    problems = []
    if skew is not None and skew.alarming:
        problems.append(
            f"The clock of the bucket's store is {skew.certain / 1e6:+.1f} s from the server's: "
            "have both kept by NTP."
        )
    window, listed = None, None
    if needs_rebuilding(host, name):
        if (path := index_path(host, section)).exists():
            problems.append(f"{path} is damaged or of another release: `bucket as-of` says how to go on.")
    else:
        with contextlib.closing(index_of(host, name)) as index:
            seen = index.observations()
        retention_ms = int(host.settings.cluster(name).retention.window.total_seconds() * 1000)
        found = window_of(
            seen, now=StoreMs(now_us // 1000), prefix=location.prefix, retention_ms=retention_ms
        )
        problems += [f"{alarm.told}." for alarm in found.alarms]
        if found.reachable:
            window, listed = found, found.end.at * 1000
    limit_s = (
        max(STALE_SCANS * section.scan.total_seconds(), STALE_S_MIN) if section.scan else UNWATCHED_STALE_S
    )
    if listed is None and kept is None:
        problems.append("The bucket was never listed to its end: run `walarchiver bucket scan`.")
    newest = max(
        (at for at in (listed, None if kept is None else kept.asked) if at is not None), default=now_us
    )
    if now_us - newest > limit_s * 1_000_000:
        hours = (now_us - newest) / 3_600_000_000
        problems.append(
            f"The bucket was not listed for {hours:.1f} hours, so nothing newer can be restored: "
            "run `walarchiver bucket scan`."
        )
    return BucketStatus(
        location.url, window, listed, None if kept is None else kept.asked, skew, tuple(problems)
    )


def _time(at: StoreMs) -> str:
    return format_rfc3339(at * 1000)
