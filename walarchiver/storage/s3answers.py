"""What an S3 server's answer, or the lack of one, means.

Rules:
- "Absent" is only the server's own NoSuchKey or NoSuchVersion (AWS: also MethodNotAllowed for a
  delete marker asked for by id). Any other 404 comes from something in between, or names the
  bucket, and is never absence.
- "Taken" is only the server's own PreconditionFailed: a caller may conclude "ours, done" from it.
- What may pass (5xx, 429, 408, conflicts, damaged requests, broken connections) is StoreUnavailable;
  every other refusal is StoreDenied; 501 is StoreMisbehaves.
- A message carries S3's code, status and first words; never a header, a key id or a body.
"""

from __future__ import annotations

import http.client
import re
import ssl
import sys
from dataclasses import dataclass
from html import unescape

from walarchiver.errors import (
    KeyTaken,
    StoreDenied,
    StoreMisbehaves,
    StoreUnavailable,
    WalarchiverError,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The parts of an S3 error answer that anything is decided from."""

    status: int
    code: str
    text: str


class S3Refused(Exception):
    """A request of our own connections was answered with an error."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.status} {refusal.code}")
        self.refusal = refusal


OWN_ERRORS: tuple[type[Exception], ...] = (S3Refused, http.client.HTTPException, OSError)
"""What connections of our own raise when a request fails."""

_MAY_PASS_STATUS = frozenset({408, 409, 425, 429})
_MAY_PASS_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_ABSENT = frozenset({(404, "NoSuchKey"), (404, "NoSuchVersion"), (405, "MethodNotAllowed")})
_CHECKSUM_REFUSED_STATUS = frozenset({400, 501})
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "doesn't match")
"""How OpenSSL and urllib3 say that a certificate, or the name in it, is not the right one."""
_TEXT_MAX = 200
_ERROR_ROOT = re.compile(r"\s*(?:<\?xml[^>]*\?>)?\s*<Error[\s>]")
_ERROR_CODE = re.compile(r"<Code>([^<]*)</Code>")
_ERROR_TEXT = re.compile(r"<Message>([^<]*)</Message>")


def library_errors() -> tuple[type[Exception], ...]:
    """Everything that may be raised below when a request fails; botocore's own only once it is loaded."""
    if not _has_botocore():
        return OWN_ERRORS
    from walarchiver.storage.botocoreerrors import LIBRARY_ERRORS

    return LIBRARY_ERRORS


def read_refusal(status: int, reason: str, body: bytes) -> Refusal:
    """An answer that is no success. What does not speak as S3 does has its status for a code."""
    words = body.decode("utf-8", "replace")
    code = _ERROR_CODE.search(words) if _ERROR_ROOT.match(words) else None
    if code is None or not code[1]:
        return Refusal(status, str(status), printable(reason))
    text = _ERROR_TEXT.search(words)
    return Refusal(status, unescape(code[1]), printable(unescape(text[1])) if text else "")


def refusal_in(failure: Exception) -> Refusal | None:
    """The server's answer inside a library error; None when there was no answer."""
    if isinstance(failure, S3Refused):
        return failure.refusal
    if not _has_botocore():
        return None
    from walarchiver.storage.botocoreerrors import refusal_of

    return refusal_of(failure)


def is_absent(failure: Exception, *, by_version: bool = False) -> bool:
    """Whether the server itself said that there is no such object (or version)."""
    refusal = refusal_in(failure)
    if refusal is None or (refusal.status, refusal.code) not in _ABSENT:
        return False
    return by_version or refusal.status == 404


def is_past_the_end(failure: Exception) -> bool:
    """Whether the server said that a range begins at or after the end of an existing object."""
    refusal = refusal_in(failure)
    return refusal is not None and refusal.status == 416 and refusal.code == "InvalidRange"


def may_be_about_checksums(failure: Exception) -> bool:
    """Whether a store that does not know checksum headers would answer like this."""
    refusal = refusal_in(failure)
    return (
        refusal is not None
        and refusal.status in _CHECKSUM_REFUSED_STATUS
        and refusal.code not in _MAY_PASS_CODES
    )


def explained(what: str, failure: Exception) -> WalarchiverError:
    """The error to raise for a failed request; `what` says what was tried, and where."""
    refusal = refusal_in(failure)
    if refusal is not None:
        return _explained_refusal(what, refusal)
    text = printable(str(failure)) or type(failure).__name__
    if _is_about_tls(failure) and any(words in str(failure) for words in _UNTRUSTED):
        return StoreDenied(
            f"{what}: the endpoint's certificate is not trusted: {text}",
            hint="Is `ca_file` the CA that signed it, and does the certificate carry this host name?",
        )
    if _has_botocore():
        from walarchiver.storage.botocoreerrors import NO_KEYS, NO_REQUEST

        if isinstance(failure, NO_KEYS):
            return StoreDenied(
                f"{what}: no credentials were found",
                hint="Set `credentials_file` or `credentials_command`, or give this host a role.",
            )
        if isinstance(failure, NO_REQUEST):
            return StoreDenied(f"{what}: the request cannot be made: {text}")
    return StoreUnavailable(f"{what}: {text}")


def _is_about_tls(failure: Exception) -> bool:
    if not _has_botocore():
        return isinstance(failure, ssl.SSLCertVerificationError)
    from walarchiver.storage.botocoreerrors import TLS_FAILED

    return isinstance(failure, TLS_FAILED | ssl.SSLCertVerificationError)


def _has_botocore() -> bool:
    """Whether anything can have raised botocore's errors; loading it only to compare would take long."""
    return "botocore.exceptions" in sys.modules


def _explained_refusal(what: str, refusal: Refusal) -> WalarchiverError:
    status, code = refusal.status, refusal.code
    words = f" ({refusal.text})" if refusal.text and refusal.text != code else ""
    message = f"{what}: {status} {code}{words}" if code != str(status) else f"{what}: status {status}{words}"
    if status == 412 and code == "PreconditionFailed":
        return KeyTaken(f"{what}: the name exists already")
    if status == 501 or code == "NotImplemented":
        return StoreMisbehaves(message)
    if code in _MAY_PASS_CODES or status in _MAY_PASS_STATUS or status >= 500 or status == 0:
        return StoreUnavailable(message)
    if code == "NoSuchBucket":
        return StoreDenied(message, hint="Create the bucket, or correct `url`; nothing was taken as absent.")
    if code == "RequestTimeTooSkewed":
        return StoreDenied(message, hint="Is the clock of this host right?")
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed") or 300 <= status < 400:
        return StoreDenied(message, hint="Is `region` the one that the bucket lies in?")
    if status in (404, 405, 412, 416):
        # Not the words of S3, or not about the object: something in between answered.
        return StoreUnavailable(message, hint="Is the endpoint an S3 server, or did a proxy answer?")
    return StoreDenied(message)


def printable(text: str) -> str:
    """Its first words, without what a terminal would obey."""
    kept = "".join(char if char.isprintable() else " " for char in text)
    return kept if len(kept) <= _TEXT_MAX else kept[:_TEXT_MAX] + "…"
