"""How to reach an S3 bucket: everything the user may choose, checked before it is used.

Rules:
- TLS is always verified; a private CA is named by `ca_file`. There is no switch to turn it off.
- Plain http is for loopback. Another host needs `allow_http`, said aloud in the configuration.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from walarchiver.errors import ConfigError
from walarchiver.storage.credentials import CredentialSource, PlatformRole
from walarchiver.storage.names import checked_prefix
from walarchiver.storage.retry import RetryPolicy

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Addressing(StrEnum):
    """Where the bucket's name goes in a request."""

    AUTO = "auto"
    """In the host name at AWS, in the path at every other endpoint."""
    PATH = "path"
    VIRTUAL = "virtual"


class ChecksumMode(StrEnum):
    """Which checksum travels with each object, so that damage on the way is refused."""

    AUTO = "auto"
    """A CRC (CRC-32C, or CRC-32 without the compiled part); once refused, Content-MD5 from then on."""
    WHEN_SUPPORTED = "when_supported"
    """Always the CRC; an error where it is refused."""
    WHEN_REQUIRED = "when_required"
    """Always Content-MD5, which every S3 server knows; it costs a little more time."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """One store's options; times in seconds."""

    endpoint: str | None = None
    """None is AWS in `region`."""
    region: str | None = None
    addressing: Addressing = Addressing.AUTO
    checksum_mode: ChecksumMode = ChecksumMode.AUTO
    ca_file: Path | None = None
    allow_http: bool = False
    credentials: CredentialSource = field(default_factory=PlatformRole)
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    notice: Callable[[str], None] = lambda _line: None
    """Gets a line when the store has not answered for seconds and is asked again."""
    pool_size: int = 16
    """Connections, and so requests in flight, at most."""
    list_page_keys: int = 1000
    """Keys asked for per listing page, 1 to 1000."""

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.endpoint is None or urlsplit(self.endpoint).scheme == "https"

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint is this very host."""
        return self.endpoint is not None and _is_loopback(urlsplit(self.endpoint).hostname or "")

    def check(self) -> None:
        """Raises ConfigError when the options contradict each other or the rules above."""
        if self.endpoint is not None:
            parts = urlsplit(self.endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ConfigError(f"endpoint {self.endpoint!r} is not an http(s) address")
            if parts.username is not None or parts.password is not None:
                raise ConfigError("the endpoint carries a user or password", hint="Use `credentials_file`.")
            if not self.is_tls and not self.is_loopback and not self.allow_http:
                raise ConfigError(
                    f"endpoint {self.endpoint} is not encrypted",
                    hint="Use https, with `ca_file` for a private CA; or set `allow_http = true` knowingly.",
                )
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ConfigError(f"ca_file {self.ca_file} does not exist")
        if not 1 <= self.list_page_keys <= 1000 or self.pool_size < 1:
            raise ConfigError("list_page_keys must be 1 to 1000, pool_size at least 1")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and the prefix below which everything lies ('' or ending in '/')."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> S3Location:
        """From s3://BUCKET[/PREFIX]. Raises ConfigError."""
        parts = urlsplit(url)
        bucket, prefix = parts.netloc, unquote(parts.path).strip("/")
        if parts.scheme != "s3" or parts.query or parts.fragment or not _BUCKET.fullmatch(bucket):
            raise ConfigError(f"{url!r} is not s3://BUCKET/PREFIX")
        checked_prefix(prefix)
        return cls(bucket, f"{prefix}/" if prefix else "")

    @property
    def url(self) -> str:
        """The inverse of `parse`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
