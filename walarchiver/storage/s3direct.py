"""Bodies and listings over connections of our own: what botocore does with them, at a tenth of its cost.

Rules:
- Address, region and keys are botocore's (`s3access.py`), so both go to the same place as the same user.
- Over TLS, and on loopback, the signature leaves the body out (`UNSIGNED-PAYLOAD`): TLS protects it on the
  way, and the store verifies its checksum, which is signed. Over plain http its SHA-256 is signed.
- What this path does not do goes through botocore, and `told` says so: a proxy that the environment names,
  a signature other than version 4. An answer that names another region sends this one request through
  botocore, which remembers the region, and then the address is asked for anew.
- A redirect that names no region is a refusal: botocore would look for the region without end.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from walarchiver.errors import StoreDenied
from walarchiver.ports import Clock
from walarchiver.storage.options import S3Options
from walarchiver.storage.s3access import Access, ObjectAddress, has_proxy
from walarchiver.storage.s3answers import S3Refused, read_refusal
from walarchiver.storage.s3bodies import Bodies, Checksum, Incoming, Written
from walarchiver.storage.s3pages import PAGE_BYTES_MAX, Listing, query_of, read_page
from walarchiver.storage.s3signing import (
    EMPTY_SHA256,
    UNSIGNED_PAYLOAD,
    Signer,
    encoded_path,
    encoded_query,
)
from walarchiver.storage.s3wire import Answer, Buffer, Origin, Wire, WireLimits

_ELSEWHERE_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)


@dataclass(frozen=True, slots=True)
class _Route:
    """Where requests go, and how they are signed."""

    address: ObjectAddress
    base_path: str
    wire: Wire
    signer: Signer

    def path_of(self, name: str) -> str:
        """The encoded path of an object."""
        return self.base_path + encoded_path(name)


class DirectBodies:
    """The path over connections of our own, with botocore's behind it; thread-safe."""

    def __init__(self, access: Access, bucket: str, options: S3Options, clock: Clock, behind: Bodies) -> None:
        """Makes no request. `behind` takes what this path does not do."""
        self._access = access
        self._bucket = bucket
        self._options = options
        self._clock = clock
        self._behind = behind
        self._lock = threading.Lock()
        self._route: _Route | None = None
        self._left_to_botocore: str | None = None
        self._stale = False

    def told(self) -> str:
        route = self._current()
        if route is None:
            return f"{self._behind.told()}, which takes more CPU: {self._left_to_botocore}"
        origin = route.wire.origin
        signed = "left out of" if self._is_unsigned else "part of"
        return f"objects travel straight to {origin.url}, their bytes {signed} the signature"

    def create(self, name: str, body: Buffer, checksum: Checksum) -> Written:
        route = self._current()
        if route is None:
            return self._behind.create(name, body, checksum)
        headers = {
            "content-length": str(len(body)),
            "content-type": "application/octet-stream",
            "if-none-match": "*",
            checksum.header: checksum.value,
        }
        payload = UNSIGNED_PAYLOAD if self._is_unsigned else hashlib.sha256(body).hexdigest()
        with self._asked(route, "PUT", route.path_of(name), {}, headers, payload, body) as answer:
            words = answer.start()
        if 200 <= answer.status < 300:
            return Written(etag=answer.header("etag"), version_id=answer.header("x-amz-version-id"))
        self._refuse_unless_elsewhere(answer, words)
        return self._behind.create(name, body, checksum)

    @contextmanager
    def opened(self, name: str, version_id: str | None, byte_range: str | None) -> Iterator[Incoming]:
        route = self._current()
        if route is not None:
            query = {} if version_id is None else {"versionId": version_id}
            headers = {} if byte_range is None else {"range": byte_range}
            with self._asked(route, "GET", route.path_of(name), query, headers, EMPTY_SHA256) as answer:
                if 200 <= answer.status < 300:
                    yield _Arriving(answer)
                    return
                words = answer.start()
            self._refuse_unless_elsewhere(answer, words)
        with self._behind.opened(name, version_id, byte_range) as incoming:
            yield incoming

    def page(self, listing: Listing, request: Mapping[str, object]) -> Mapping[str, object]:
        route = self._current()
        if route is None:
            return self._behind.page(listing, request)
        path = route.base_path.rstrip("/") or "/"
        with self._asked(route, "GET", path, query_of(listing, request), {}, EMPTY_SHA256) as answer:
            if 200 <= answer.status < 300:
                date = answer.header("date")
                said = {} if date is None else {"date": date}
                return {**read_page(answer.whole(PAGE_BYTES_MAX)), "ResponseMetadata": {"HTTPHeaders": said}}
            words = answer.start()
        self._refuse_unless_elsewhere(answer, words)
        return self._behind.page(listing, request)

    def close(self) -> None:
        with self._lock:
            if self._route is not None:
                self._route.wire.close()
        self._behind.close()

    @property
    def _is_unsigned(self) -> bool:
        return self._options.is_tls or self._options.is_loopback

    def _asked(
        self,
        route: _Route,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: dict[str, str],
        payload: str,
        body: Buffer = b"",
    ) -> Answer:
        fields = encoded_query(query)
        signed = route.signer.signed(
            method,
            path,
            fields,
            {"host": route.wire.origin.authority} | headers,
            payload=payload,
            keys=self._access.keys(),
            now_us=self._clock.now_us(),
        )
        target = f"{path}?{fields}" if fields else path
        unsigned = {"accept-encoding": "identity", "user-agent": "walarchiver"}
        return route.wire.ask(method, target, signed | unsigned, body)

    def _refuse_unless_elsewhere(self, answer: Answer, words: bytes) -> None:
        """Return only when the server named another region. Raises S3Refused."""
        refusal = read_refusal(answer.status, answer.reason, words)
        named = answer.header("x-amz-bucket-region") is not None or b"<Region>" in words
        if refusal.code not in _ELSEWHERE_CODES or not named:
            raise S3Refused(refusal)
        self._stale = True

    def _current(self) -> _Route | None:
        """The way to the bucket; None when it is left to botocore."""
        with self._lock:
            if self._left_to_botocore is not None or (self._route is not None and not self._stale):
                return self._route
            address = self._access.address(self._bucket, afresh=self._stale)
            self._stale = False
            if self._route is None or self._route.address != address:
                old, self._route = self._route, None
                if old is not None:
                    old.wire.close()
                self._left_to_botocore = self._obstacle(address)
                if self._left_to_botocore is None:
                    self._route = self._route_to(address)
            return self._route

    def _obstacle(self, address: ObjectAddress) -> str | None:
        if not address.url.isascii():
            return "its address is not ASCII"
        if address.signature != "v4":
            return f"this bucket wants signatures of kind {address.signature}"
        if not self._options.is_loopback and has_proxy(address.url):
            return f"the environment names a proxy for {urlsplit(address.url).netloc}"
        return None

    def _route_to(self, address: ObjectAddress) -> _Route:
        parts = urlsplit(address.url)
        tls = parts.scheme == "https"
        origin = Origin(tls, parts.hostname or "", parts.port or (443 if tls else 80))
        limits = WireLimits(connect_s=self._options.connect_timeout_s, wait_s=self._options.read_timeout_s)
        context = self._trusting() if tls else None
        return _Route(address, parts.path, Wire(origin, limits, context, self._clock), Signer(address.region))

    def _trusting(self) -> ssl.SSLContext:
        """Verifies name and certificate against `ca_file`, or whom botocore trusts. Raises StoreDenied."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authorities = self._options.ca_file
        if authorities is None:
            from walarchiver.storage.s3client import authorities_file  # botocore's, where none are named

            authorities = Path(authorities_file())
        try:
            context.load_verify_locations(authorities)
        except OSError as failure:
            raise StoreDenied(
                f"the certificates in {authorities} cannot be used: {failure}",
                hint="`ca_file` is one or more certificates in PEM.",
            ) from failure
        return context


class _Arriving:
    """An answer as Incoming has it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.readinto = answer.readinto

    @property
    def length(self) -> int | None:
        text = self._answer.header("content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() else None

    @property
    def content_range(self) -> str | None:
        return self._answer.header("content-range")
