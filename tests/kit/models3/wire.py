"""Requests and answers as values: from raw target and headers to an operation's name, and XML back."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote_plus, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.kit.models3.bodies import Body, digest_of
from tests.kit.models3.refusals import Refusal

XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"
_ACCESS_KEY = re.compile(r"Credential=([^/]+)/")

OPERATIONS: tuple[tuple[str, str, str, str], ...] = (
    # method, on ("", bucket, key), a query parameter or a header (with a colon) that it needs, name
    ("GET", "", "", "ListBuckets"),
    ("GET", "bucket", "versions", "ListObjectVersions"),
    ("GET", "bucket", "versioning", "GetBucketVersioning"),
    ("PUT", "bucket", "versioning", "PutBucketVersioning"),
    ("GET", "bucket", "lifecycle", "GetBucketLifecycleConfiguration"),
    ("PUT", "bucket", "lifecycle", "PutBucketLifecycleConfiguration"),
    ("DELETE", "bucket", "lifecycle", "DeleteBucketLifecycle"),
    ("GET", "bucket", "uploads", "ListMultipartUploads"),
    ("GET", "bucket", "location", "GetBucketLocation"),
    ("GET", "bucket", "object-lock", "GetObjectLockConfiguration"),
    ("POST", "bucket", "delete", "DeleteObjects"),
    ("GET", "bucket", "list-type", "ListObjectsV2"),
    ("GET", "bucket", "", "ListObjects"),
    ("HEAD", "bucket", "", "HeadBucket"),
    ("PUT", "bucket", "", "CreateBucket"),
    ("DELETE", "bucket", "", "DeleteBucket"),
    ("GET", "key", "tagging", "GetObjectTagging"),
    ("PUT", "key", "tagging", "PutObjectTagging"),
    ("DELETE", "key", "tagging", "DeleteObjectTagging"),
    ("GET", "key", "retention", "GetObjectRetention"),
    ("PUT", "key", "retention", "PutObjectRetention"),
    ("PUT", "key", "legal-hold", "PutObjectLegalHold"),
    ("POST", "key", "restore", "RestoreObject"),
    ("POST", "key", "uploads", "CreateMultipartUpload"),
    ("POST", "key", "uploadId", "CompleteMultipartUpload"),
    ("DELETE", "key", "uploadId", "AbortMultipartUpload"),
    ("GET", "key", "uploadId", "ListParts"),
    ("PUT", "key", "uploadId", "UploadPart"),
    ("PUT", "key", ":x-amz-copy-source", "CopyObject"),
    ("PUT", "key", "", "PutObject"),
    ("GET", "key", "", "GetObject"),
    ("HEAD", "key", "", "HeadObject"),
    ("DELETE", "key", "", "DeleteObject"),
)
WRITES = frozenset(
    name
    for method, _, _, name in OPERATIONS
    if method in ("PUT", "POST", "DELETE") and name != "SelectObjectContent"
) | {"UploadPartCopy"}
READS_BODIES = frozenset({"GetObject"})


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""

    @property
    def operation(self) -> str:
        on = "key" if self.key else "bucket" if self.bucket else ""
        for method, where, needs, name in OPERATIONS:
            if method != self.method or where != on:
                continue
            if needs.startswith(":"):
                fits = needs[1:] in self.headers
            else:
                fits = not needs or needs in self.query
            if fits:
                copies = name == "UploadPart" and "x-amz-copy-source" in self.headers
                return "UploadPartCopy" if copies else name
        return f"Unknown{self.method}"

    @property
    def access_key(self) -> str:
        found = _ACCESS_KEY.search(self.headers.get("authorization", ""))
        return found.group(1) if found else self.query.get("X-Amz-Credential", "").partition("/")[0]

    @property
    def version_id(self) -> str | None:
        return self.query.get("versionId") or None

    def header(self, name: str) -> str | None:
        return self.headers.get(name)


@dataclass
class Reply:
    """One answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Body = b""


def parse_call(method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> Call:
    """A path-style request from its raw target."""
    path, _, query = target.partition("?")
    bucket, _, key = path.removeprefix("/").partition("/")
    held = {name.lower(): value for name, value in headers}
    if "aws-chunked" in held.get("content-encoding", "") or "x-amz-decoded-content-length" in held:
        body, trailers = _dechunked(body)
        held |= trailers
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    return Call(method, unquote(bucket), unquote(key), parameters, held, body)


def _dechunked(framed: bytes) -> tuple[bytes, dict[str, str]]:
    """Take aws-chunked framing off; the trailing headers come along."""
    pieces, rest = [], framed
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            break
        pieces.append(rest[:length])
        rest = rest[length + 2 :]
    lines = [line.partition(":") for line in rest.decode().split("\r\n") if ":" in line]
    return b"".join(pieces), {name.strip().lower(): value.strip() for name, _, value in lines}


def check_digests(call: Call) -> None:
    """Compare the checksums that travel with a body. Raises Refusal BadDigest."""
    announced = call.header("content-md5")
    if announced and base64.b64decode(announced) != hashlib.md5(call.body).digest():
        raise Refusal("BadDigest", "The Content-MD5 you specified did not match what we received.")
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        told = call.header(f"x-amz-checksum-{algorithm.lower()}")
        if told and base64.b64decode(told) != digest_of(algorithm, call.body):
            raise Refusal("BadDigest", f"The {algorithm} you specified did not match")


# --- XML


def text(value: str) -> str:
    """As XML text; control characters as references, which XML 1.0 parsers refuse: so does S3."""
    safe = escape(value, {'"': "&quot;"})
    return "".join(f"&#x{ord(char):x};" if ord(char) < 32 else char for char in safe)


def element(name: str, *inner: str | tuple[str, object] | None) -> str:
    """`<name>` around what is given: finished XML, or (name, value) pairs; None is left out."""
    parts = []
    for part in inner:
        if isinstance(part, tuple):
            parts.append(f"<{part[0]}>{text(str(part[1]))}</{part[0]}>")
        elif part is not None:
            parts.append(part)
    return f"<{name}>{''.join(parts)}</{name}>"


def document(name: str, *inner: str | tuple[str, object] | None) -> bytes:
    whole = element(name, *inner)
    head = f'<{name} xmlns="{XMLNS}">'
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + head + whole[len(name) + 2 :]).encode()


def encoded(value: str, encoding_type: str) -> str:
    """A key in a listing, by its encoding-type."""
    return quote_plus(value, safe="/") if encoding_type == "url" else value


def refused(refusal: Refusal, call: Call, request_id: str) -> Reply:
    headers = dict(refusal.headers)
    if call.method == "HEAD" or refusal.status == 304:
        return Reply(refusal.status, headers)
    return Reply(
        refusal.status, headers | {"Content-Type": "application/xml"}, error_body(refusal, call, request_id)
    )


def error_body(refusal: Refusal, call: Call, request_id: str) -> bytes:
    inner = element(
        "Error",
        ("Code", refusal.code),
        ("Message", refusal.message),
        ("Key", call.key) if call.key else None,
        ("BucketName", call.bucket),
        ("RequestId", request_id),
        ("HostId", "model"),
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{inner}'.encode()


def xml_reply(name: str, *inner: str | tuple[str, object] | None, status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": "application/xml"}, document(name, *inner))


def parsed(body: bytes) -> ElementTree.Element:
    """A request's XML without its namespaces. Raises Refusal MalformedXML."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise Refusal("MalformedXML") from None
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    return root
