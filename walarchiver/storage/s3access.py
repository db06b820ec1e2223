"""Access to one S3 store: its keys, where its objects are, and botocore's client once something needs it.

Rules:
- Making botocore's client takes longer than many a command: it reads all that is described of S3. So what a
  plain configuration says by itself is not asked of it: keys from a file or command, and objects in the
  path of an endpoint whose region is named, or named nowhere.
- Everything else botocore decides (AWS itself, roles of the platform, hosts named after buckets, regions
  and buckets with a meaning); then its client is made at once, so that a fault shows at start.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from walarchiver.ports import Clock
from walarchiver.storage.credentials import KeyChain, Keys, PlatformRole
from walarchiver.storage.options import Addressing, S3Options

if TYPE_CHECKING:
    from walarchiver.storage.s3client import S3Calls

USUAL_REGION = "us-east-1"
"""Where none is named."""

_PLAIN_REGION = re.compile(r"(?!aws|fips)[a-z0-9]+(-(?!fips)[a-z0-9]+)*")
"""Others are odd, or stand for something: `aws-global`, `fips-us-east-1`."""
_AWS_NAMES = ("AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_AWS_FILES = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
"""What botocore looks for a region in."""
_TELLING_BUCKET = "--"
"""In the names of buckets that are of another kind, and are asked in another way."""


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """Where the objects of a bucket are asked for: this URL, and the key encoded behind it."""

    url: str
    region: str
    """As the signature has it."""
    signature: str
    """botocore's name of how requests are signed; `v4` is the ordinary one."""


class Access:
    """Keys and addresses of a store, and a client for everything; thread-safe."""

    def __init__(self, options: S3Options, clock: Clock) -> None:
        """Makes no request, unless a platform role must be asked for.

        Raises ConfigError for contradictory options, StoreDenied when there are no usable credentials.
        """
        options.check()
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._client: S3Calls | None = None
        self._chain: KeyChain | None = None
        self._keys: Callable[[], Keys] | None = None
        if not isinstance(options.credentials, PlatformRole):
            self._chain = KeyChain(options.credentials, clock)
            self._keys = self._chain.current
        if self._chain is None or not _is_plain(options):
            self._made()

    @property
    def client(self) -> S3Calls:
        """botocore's. Raises ConfigError, StoreDenied or StoreUnavailable."""
        return self._made()

    def keys(self) -> Keys:
        """The keys that are valid now. Raises StoreDenied, StoreUnavailable or one of `library_errors()`."""
        assert self._keys is not None, "known with the options, or with the client that was made for them"
        return self._keys()

    def address(self, bucket: str, *, afresh: bool = False) -> ObjectAddress:
        """Where the bucket's objects are asked for; no request is made. Raises one of `library_errors()`.

        `afresh`: as botocore has it by now, who remembers the region that an answer named.
        """
        plain = None if afresh or self._chain is None else plain_address(self._options, bucket)
        if plain is not None:
            return plain
        from walarchiver.storage.s3client import object_address  # this alone is worth loading botocore

        return object_address(self.client, bucket)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _made(self) -> S3Calls:
        from walarchiver.storage.s3client import made  # botocore is loaded by those who need it

        with self._lock:
            if self._client is None:
                self._client, self._keys = made(self._options, self._clock, self._chain)
            return self._client


def plain_address(options: S3Options, bucket: str) -> ObjectAddress | None:
    """Where the objects are, as botocore would say it; None for what only botocore knows."""
    endpoint, region = options.endpoint, _plain_region(options)
    if endpoint is None or region is None or not _is_plain(options) or _TELLING_BUCKET in bucket:
        return None
    return ObjectAddress(f"{endpoint.rstrip('/')}/{bucket}/", region, "v4")


def has_proxy(url: str) -> bool:
    """Whether the environment names a proxy for this address."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.netloc)


def _is_plain(options: S3Options) -> bool:
    return (
        options.endpoint is not None
        and urlsplit(options.endpoint).path in ("", "/")
        and options.addressing is not Addressing.VIRTUAL
        and _plain_region(options) is not None
    )


def _plain_region(options: S3Options) -> str | None:
    """The region that is named; or the usual one, where nothing that botocore reads names another."""
    if options.region is not None:
        usual = _PLAIN_REGION.fullmatch(options.region) is not None and len(options.region) <= 63
        return options.region if usual else None
    files = (os.environ.get(name, default) for name, default in _AWS_FILES)
    read = any(name in os.environ for name in _AWS_NAMES) or any(Path(f).expanduser().exists() for f in files)
    return None if read else USUAL_REGION
