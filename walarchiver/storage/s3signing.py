"""The signature of one S3 request (AWS Signature Version 4, in the Authorization header).

Rules:
- Path and query come encoded as they go on the wire; S3 wants them signed just so, not encoded again.
- Every header that is handed in is signed: whoever stands in between can neither change nor drop one.
- The body is signed by its SHA-256, or left out of the signature by the word `UNSIGNED_PAYLOAD`.
- The day's signing key is derived once; the secret itself is not kept.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from walarchiver.storage.credentials import Keys

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"
_PATH_SAFE = "/-_.~"


def encoded_path(path: str) -> str:
    """A path as S3 wants it on the wire and in the signature."""
    return quote(path, safe=_PATH_SAFE)


def encoded_query(fields: Mapping[str, str]) -> str:
    """A query as S3 wants it, in the order in which it is signed."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in fields.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


class Signer:
    """Signs requests to one region; thread-safe."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._derived: tuple[tuple[str, bytes], bytes] | None = None

    def signed(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        *,
        payload: str,
        keys: Keys,
        now_us: int,
    ) -> dict[str, str]:
        """The headers with those added that make the request count; `host` must be among them."""
        moment = datetime.fromtimestamp(now_us // 1_000_000, tz=UTC)
        stamp, day = moment.strftime("%Y%m%dT%H%M%SZ"), moment.strftime("%Y%m%d")
        complete = dict(headers) | {"x-amz-content-sha256": payload, "x-amz-date": stamp}
        if keys.session_token is not None:
            complete["x-amz-security-token"] = keys.session_token
        lowered = sorted((name.lower(), " ".join(value.split())) for name, value in complete.items())
        names = ";".join(name for name, _ in lowered)
        canonical = "\n".join(
            (method, path, query, *(f"{name}:{value}" for name, value in lowered), "", names, payload)
        )
        scope = f"{day}/{self._region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode("ascii")).hexdigest()
        to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        signature = _hmac(self._key(keys.secret_access_key, day), to_sign).hex()
        complete["authorization"] = (
            f"{_ALGORITHM} Credential={keys.access_key_id}/{scope},"
            f"SignedHeaders={names},Signature={signature}"
        )
        return complete

    def _key(self, secret: str, day: str) -> bytes:
        name = (day, hashlib.sha256(secret.encode("ascii")).digest())
        derived = self._derived
        if derived is not None and derived[0] == name:
            return derived[1]
        key = f"AWS4{secret}".encode("ascii")
        for word in (day, self._region, "s3", "aws4_request"):
            key = _hmac(key, word)
        self._derived = (name, key)
        return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("ascii"), "sha256")
