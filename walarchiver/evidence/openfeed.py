"""The feed of notifications at a place, whichever kind it is."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from walarchiver.bucketports import EventFeed
from walarchiver.errors import ConfigError
from walarchiver.evidence.feeds import FolderFeed
from walarchiver.ports import Clock, Random
from walarchiver.storage.options import S3Options


def open_feed(url: str, options: S3Options, clock: Clock, random: Random, *, aside: Path) -> EventFeed:
    """The SQS queue or the folder at `url`; the caller closes it. Raises ConfigError, StoreDenied."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        from walarchiver.storage.sqsfeed import SqsFeed  # botocore is loaded by those who need it

        return SqsFeed(url, options, clock, random, aside=aside)
    place = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not place.is_absolute():
        raise ConfigError(f"{url!r} is neither the URL of an SQS queue nor file:///PLACE")
    if not place.exists():
        raise ConfigError(f"{place}, where notifications should lie, does not exist")
    return FolderFeed(place)
