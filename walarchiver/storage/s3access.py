"""Access to one S3 store: its keys, where its objects are, and botocore's client once something needs it.

Rules:
- Making botocore's client takes longer than many a command: it reads all that is described of S3. So what a
  plain configuration says by itself is not asked of it: keys from a file or command, and objects in the
  path of an endpoint whose region is named, or named nowhere; or in an ordinary region of AWS.
- Everything else botocore decides (roles of the platform, profiles, hosts named after buckets elsewhere,
  regions and buckets with a meaning); then its client is made at once, so that a fault shows at start.
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
_COMMERCIAL_REGION = re.compile(r"(us|eu|ap|sa|ca|me|af|il|mx)-[a-z]+-[0-9]")
"""Those of AWS that are reached below amazonaws.com."""
_AWS_NAMES = (
    *("AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_DEFAULTS_MODE"),
    *("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT"),
    "AWS_AUTH_SCHEME_PREFERENCE",
)
_AWS_FILES = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
"""Where botocore looks for a region, and for another kind of address."""
_ANY_BUCKET = "bucket"
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
        if self._chain is None or plain_address(options, _ANY_BUCKET) is None:
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
    if _TELLING_BUCKET in bucket:
        return None
    if options.endpoint is None:
        return _address_at_aws(options, bucket)
    region = USUAL_REGION if options.region is None else options.region
    if options.addressing is Addressing.VIRTUAL or urlsplit(options.endpoint).path not in ("", "/"):
        return None
    if len(region) > 63 or not _PLAIN_REGION.fullmatch(region):
        return None
    if options.region is None and not _aws_is_silent():
        return None
    return ObjectAddress(f"{options.endpoint.rstrip('/')}/{bucket}/", region, "v4")


def has_proxy(url: str) -> bool:
    """Whether the environment names a proxy for this address."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.netloc)


def _address_at_aws(options: S3Options, bucket: str) -> ObjectAddress | None:
    region = options.region
    if region is None or "." in bucket or not _COMMERCIAL_REGION.fullmatch(region) or not _aws_is_silent():
        return None
    host = "s3.amazonaws.com" if region == USUAL_REGION else f"s3.{region}.amazonaws.com"
    in_path = options.addressing is Addressing.PATH
    return ObjectAddress(
        f"https://{host}/{bucket}/" if in_path else f"https://{bucket}.{host}/", region, "v4"
    )


def _aws_is_silent() -> bool:
    """Whether nothing outside our own configuration may say where to go."""
    files = (Path(os.environ.get(name, default)).expanduser() for name, default in _AWS_FILES)
    return not any(name in os.environ for name in _AWS_NAMES) and not any(file.exists() for file in files)
