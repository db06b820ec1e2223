"""Object properties to and from request and answer headers."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from tests.kit.models3.clock import at, http_date, rfc3339
from tests.kit.models3.entries import Properties, Stored
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.wire import Call

_SYSTEM = {
    "content-type": "Content-Type",
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "expires": "Expires",
    "x-amz-website-redirect-location": "x-amz-website-redirect-location",
}


def asked_for(call: Call) -> Properties:
    """What PutObject, CopyObject and CreateMultipartUpload say about the object."""
    headers = {shown: call.headers[name] for name, shown in _SYSTEM.items() if name in call.headers}
    encoding = headers.get("Content-Encoding", "")
    if "aws-chunked" in encoding:
        left = ",".join(one.strip() for one in encoding.split(",") if one.strip() != "aws-chunked")
        headers.pop("Content-Encoding")
        headers |= {"Content-Encoding": left} if left else {}
    headers.setdefault("Content-Type", "binary/octet-stream")
    metadata = {
        name.removeprefix("x-amz-meta-"): _as_text(value)
        for name, value in call.headers.items()
        if name.startswith("x-amz-meta-")
    }
    return Properties(
        headers=headers,
        metadata=metadata,
        tags=_tags(call.headers.get("x-amz-tagging", "")),
        storage_class=call.headers.get("x-amz-storage-class", "STANDARD"),
        encryption=_encryption(call.headers),
        key_id=call.headers.get("x-amz-server-side-encryption-aws-kms-key-id", ""),
        lock_mode=call.headers.get("x-amz-object-lock-mode", ""),
        retain_until_ms=_moment(call.headers.get("x-amz-object-lock-retain-until-date")),
        legal_hold=call.headers.get("x-amz-object-lock-legal-hold") == "ON",
        checksum_algorithm=_algorithm(call.headers),
    )


def _as_text(value: str) -> str:
    return value.strip()


def _tags(header: str) -> dict[str, str]:
    tags = dict(parse_qsl(header, keep_blank_values=True))
    if len(tags) > 10:
        raise Refusal("InvalidRequest", "Object tags cannot be greater than 10")
    return tags


def _encryption(headers: Mapping[str, str]) -> str:
    if "x-amz-server-side-encryption-customer-algorithm" in headers:
        return "customer"
    return headers.get("x-amz-server-side-encryption", "AES256")


def _moment(header: str | None) -> int:
    return 0 if header is None else at(header)


def _algorithm(headers: Mapping[str, str]) -> str:
    named = headers.get("x-amz-checksum-algorithm") or headers.get("x-amz-sdk-checksum-algorithm") or ""
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        if named.upper() == algorithm or f"x-amz-checksum-{algorithm.lower()}" in headers:
            return algorithm
    return ""


def shown(entry: Stored, *, now_ms: int, last_modified_ms: int, with_checksum: bool) -> dict[str, str]:
    """The headers of GET and HEAD."""
    props = entry.props
    headers = {
        **props.headers,
        "ETag": f'"{entry.etag}"',
        "Last-Modified": http_date(last_modified_ms),
        "Accept-Ranges": "bytes",
        **{f"x-amz-meta-{name}": value for name, value in props.metadata.items()},
        **_shown_encryption(props),
    }
    if props.storage_class != "STANDARD":
        headers["x-amz-storage-class"] = props.storage_class
    if props.tags:
        headers["x-amz-tagging-count"] = str(len(props.tags))
    if entry.archive_status:
        headers["x-amz-archive-status"] = entry.archive_status
    if entry.restored_from_ms is not None:
        headers |= _shown_restore(entry, now_ms)
    if props.lock_mode:
        headers["x-amz-object-lock-mode"] = props.lock_mode
        headers["x-amz-object-lock-retain-until-date"] = rfc3339(props.retain_until_ms)
    if props.legal_hold:
        headers["x-amz-object-lock-legal-hold"] = "ON"
    if with_checksum and entry.checksum:
        algorithm, _, value = entry.checksum.partition(":")
        headers[f"x-amz-checksum-{algorithm.lower()}"] = value
        headers["x-amz-checksum-type"] = entry.checksum_type
    return headers


def _shown_encryption(props: Properties) -> dict[str, str]:
    if props.encryption == "customer":
        return {"x-amz-server-side-encryption-customer-algorithm": "AES256"}
    headers = {"x-amz-server-side-encryption": props.encryption}
    if props.key_id:
        headers["x-amz-server-side-encryption-aws-kms-key-id"] = props.key_id
    return headers


def _shown_restore(entry: Stored, now_ms: int) -> dict[str, str]:
    assert entry.restored_from_ms is not None
    if now_ms < entry.restored_from_ms:
        return {"x-amz-restore": 'ongoing-request="true"'}
    if now_ms >= entry.restored_until_ms:
        return {}
    until = http_date(entry.restored_until_ms)
    return {"x-amz-restore": f'ongoing-request="false", expiry-date="{until}"'}
