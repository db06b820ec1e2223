"""What HEAD says of a version, as a value (S3 API, HeadObject; user guide, "Archived objects").

Rules:
- A version is readable unless it lies in an archive tier and no restored copy is there.
- Only a checksum of the whole object counts; one that was made of the parts' checksums says nothing about
  another upload of the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from walarchiver.bucketports import VersionDetail
from walarchiver.core.version import Entry, StoreMs
from walarchiver.errors import StoreMisbehaves
from walarchiver.storage.evidencecalls import headers_of
from walarchiver.storage.s3client import Reply

CUSTOMER = "customer"
ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_RESTORED = 'ongoing-request="false"'

HEADERS = {
    "ContentType": "Content-Type",
    "CacheControl": "Cache-Control",
    "ContentDisposition": "Content-Disposition",
    "ContentEncoding": "Content-Encoding",
    "ContentLanguage": "Content-Language",
    "ExpiresString": "Expires",
}
"""botocore's name of each header that an object keeps."""
_CHECKSUMS = ("SHA256", "SHA1", "CRC64NVME", "CRC32C", "CRC32")


def detail_of(reply: Reply, where: str) -> VersionDetail:
    """Raises StoreMisbehaves when the answer lacks what is relied on."""
    size, etag, modified = reply.get("ContentLength"), reply.get("ETag"), reply.get("LastModified")
    if not isinstance(size, int) or not isinstance(etag, str) or not isinstance(modified, datetime):
        raise StoreMisbehaves(f"look at {where}: the answer has no size, ETag or time")
    tier = str(reply.get("StorageClass") or "STANDARD")
    archived = tier in ARCHIVE_CLASSES or bool(reply.get("ArchiveStatus"))
    is_customers = bool(reply.get("SSECustomerAlgorithm"))
    metadata = reply.get("Metadata")
    return VersionDetail(
        size=size,
        etag=etag.strip('"'),
        modified=StoreMs(int(modified.timestamp() * 1000)),
        storage_class=tier,
        readable=not archived or _RESTORED in str(reply.get("Restore") or ""),
        encryption=CUSTOMER if is_customers else str(reply.get("ServerSideEncryption") or ""),
        key_id=str(reply.get("SSEKMSKeyId") or ""),
        headers=_headers(reply),
        metadata={str(name): str(value) for name, value in metadata.items()}
        if isinstance(metadata, dict)
        else {},
        checksum=_checksum(reply),
    )


def detail_without_key(listed: Entry) -> VersionDetail:
    """What is known of a version that the store describes to the holder of its key only."""
    return VersionDetail(
        size=listed.size,
        etag=listed.etag,
        modified=listed.modified,
        storage_class=listed.storage_class or "STANDARD",
        readable=listed.storage_class not in ARCHIVE_CLASSES,
        encryption=CUSTOMER,
        key_id="",
    )


def _headers(reply: Reply) -> Mapping[str, str]:
    found = {name: str(reply[field]) for field, name in HEADERS.items() if reply.get(field)}
    expires = headers_of(reply).get("expires")
    return found | ({"Expires": expires} if expires else {})


def _checksum(reply: Reply) -> str | None:
    if str(reply.get("ChecksumType") or "FULL_OBJECT") != "FULL_OBJECT":
        return None
    for name in _CHECKSUMS:
        value = reply.get(f"Checksum{name}")
        if isinstance(value, str) and value and "-" not in value:
            return f"{name}:{value}"
    return None
