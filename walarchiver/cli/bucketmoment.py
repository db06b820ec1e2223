"""What the verbs of `bucket` share: moments on the store's clock, the index, and what it can vouch for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from restore.bucketplan import listed_at
from restore.core.bucketlines import store_time
from restore.core.model import AtLatest, AtTime
from restore.core.when import parse_when
from walarchiver.assembly import Host
from walarchiver.bucketassembly import bucket_section, index_of
from walarchiver.bucketports import VersionIndex
from walarchiver.cli.context import Context
from walarchiver.clock import host_timezone
from walarchiver.core.version import StoreMs
from walarchiver.errors import BucketIndexStale, UsageError
from walarchiver.settings_schema import BucketSettings
from walarchiver.storage.options import S3Location


@dataclass(frozen=True, slots=True)
class Moment:
    """What was asked, and the instant on the store's clock that it stands for."""

    at: StoreMs
    text: str


@dataclass(frozen=True, slots=True)
class Watched:
    """The cluster's bucket as the index knows it."""

    host: Host
    section: BucketSettings
    location: S3Location
    index: VersionIndex

    def prefix(self, given: str | None) -> str:
        """The keys that are meant: below `given`, which must lie in what is watched. Raises UsageError."""
        if given is None:
            return self.location.prefix
        if not given.startswith(self.location.prefix):
            raise UsageError(
                f"--prefix {given!r} lies outside of {self.location.url}",
                hint=f"Keys are whole: begin with {self.location.prefix!r}.",
            )
        return given

    def listed(self, prefix: str) -> StoreMs:
        """When the newest complete listing was asked for. Raises BucketIndexStale."""
        found = listed_at(self.index, prefix)
        if found is None:
            raise BucketIndexStale(f"{self.location.url} was never listed to its end below {prefix!r}")
        return found

    def moment(self, text: str, option: str, prefix: str) -> Moment:
        """The instant that `text` means; `latest`: the newest listing. Raises TimeNotUnderstood, …"""
        understood = understood_moment(self.host, text, option)
        listed = self.listed(prefix)
        if understood is None:
            return Moment(listed, f"latest, which is {store_time(listed)}")
        if understood.at > listed:
            raise BucketIndexStale(
                f"{self.location.url} was listed at {store_time(listed)}, before {store_time(understood.at)}"
            )
        return understood


def understood_moment(host: Host, text: str, option: str) -> Moment | None:
    """The instant that `text` means; None for `latest`. Raises TimeNotUnderstood and its kin, UsageError."""
    understood = parse_when(
        text,
        now_us=host.clock.now_us(),
        timezone=host.settings.server.timezone,
        host_timezone=host_timezone(),
    )
    match understood.target:
        case AtLatest():
            return None
        case AtTime(us):
            return Moment(StoreMs(us // 1000), understood.text)
        case _:
            raise UsageError(
                f"{option} {text!r} is a position in the WAL, which the bucket knows nothing of",
                hint="Give a time with its zone; `walarchiver plan` says when a position was reached.",
            )


@contextmanager
def watched(context: Context) -> Iterator[Watched]:
    """The bucket of the chosen cluster. Raises NoBucket, Index…."""
    host = context.host()
    section = bucket_section(host, context.cluster)
    index = index_of(host, context.cluster)
    try:
        yield Watched(host, section, S3Location.parse(section.url), index)
    finally:
        index.close()


def key_text(key: str) -> str:
    """A key on one line: what a terminal would not show is escaped."""
    return key if key.isprintable() else repr(key)[1:-1]
