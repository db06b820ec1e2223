"""Multipart uploads: start, parts, copied parts, completion.

Sources: API Reference, CreateMultipartUpload … CompleteMultipartUpload; User Guide, "Working with object
metadata": Last-Modified of a multipart upload is the time of its *initiation*; the order of versions follows.
Rules:
- The state's `multipart_time` decides: at `initiation` (AWS) both the time and the place in the order are
  those of the start; at `completion` those of the end.
"""

from __future__ import annotations

import base64
import hashlib

from tests.kit.models3.bodies import Body, digest_of
from tests.kit.models3.entries import Part, Properties, Stored, Upload
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.state import COPY_BYTES_MAX, Conditions, State

PART_BYTES_MIN = 5 * 2**20


class Uploads:
    """See the module."""

    def __init__(self, state: State, *, part_bytes_min: int = PART_BYTES_MIN) -> None:
        self._state = state
        self._part_bytes_min = part_bytes_min

    def start(self, bucket: str, key: str, props: Properties, *, checksum_type: str = "COMPOSITE") -> Upload:
        order = self._state.next_order()
        upload_id = hashlib.sha256(f"upload {order}".encode()).hexdigest()[:48]
        upload = Upload(upload_id, key, self._state.clock.now_ms, order, props, checksum_type)
        self._state.bucket(bucket).uploads[upload_id] = upload
        return upload

    def find(self, bucket: str, key: str, upload_id: str) -> Upload:
        upload = self._state.bucket(bucket).uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise Refusal("NoSuchUpload")
        return upload

    def add_part(self, bucket: str, key: str, upload_id: str, number: int, body: Body) -> Part:
        upload = self.find(bucket, key, upload_id)
        if not 1 <= number <= 10_000:
            raise Refusal("InvalidArgument", "Part number must be an integer between 1 and 10000")
        part = Part(number, body, body.md5().hex())
        if upload.props.checksum_algorithm and not body.is_sparse:
            part.checksum = digest_of(upload.props.checksum_algorithm, body.content())
        upload.parts[number] = part
        return part

    def copy_part(
        self,
        source: tuple[str, str, str | None],
        target: tuple[str, str, str, int],
        *,
        first_last: tuple[int, int] | None,
    ) -> Part:
        """UploadPartCopy: a range of at most 5 GB; metadata and tags do not come along."""
        found = self._state.copy_source(*source)
        body = found.body
        if first_last is not None:
            if not 0 <= first_last[0] <= first_last[1] < body.size:
                raise Refusal("InvalidArgument", "Range specified is not valid for source object")
            body = body.slice(*first_last)
        if body.size > COPY_BYTES_MAX:
            raise Refusal("InvalidRequest", "The specified copy range is larger than the maximum allowable")
        return self.add_part(*target, body)

    def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        listed: list[tuple[int, str]],
        *,
        conditions: Conditions | None = None,
    ) -> Stored:
        """Make the object of the parts named. Raises Refusal; a refused completion leaves the upload."""
        upload = self.find(bucket, key, upload_id)
        parts = self._chosen(upload, listed)
        home = self._state.bucket(bucket)
        (conditions or Conditions()).check(home.current(key))
        early = self._state.multipart_time == "initiation"
        order = upload.order if early else self._state.next_order()
        modified = upload.started_ms if early else self._state.clock.now_ms
        body = Body.joined(part.body for part in parts)
        entry = Stored(key, "", order, modified, body=body, props=upload.props, parts=len(parts))
        joined = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts)).digest()
        entry.etag = f"{self._state.etag_of(joined, upload.props, order)}-{len(parts)}"
        _add_checksum(entry, upload, parts)
        del home.uploads[upload_id]
        return self._state.keep(home, entry, "ObjectCreated:CompleteMultipartUpload")

    def abort(self, bucket: str, key: str, upload_id: str) -> None:
        self.find(bucket, key, upload_id)
        del self._state.bucket(bucket).uploads[upload_id]

    def _chosen(self, upload: Upload, listed: list[tuple[int, str]]) -> list[Part]:
        numbers = [number for number, _ in listed]
        if not listed:
            raise Refusal("MalformedXML")
        if numbers != sorted(set(numbers)):
            raise Refusal("InvalidPartOrder")
        for number, etag in listed:
            if number not in upload.parts or upload.parts[number].etag != etag:
                raise Refusal("InvalidPart")
        parts = [upload.parts[number] for number in numbers]
        if any(part.body.size < self._part_bytes_min for part in parts[:-1]):
            raise Refusal("EntityTooSmall")
        return parts


def _add_checksum(entry: Stored, upload: Upload, parts: list[Part]) -> None:
    algorithm = upload.props.checksum_algorithm
    if not algorithm or entry.body.is_sparse:
        return
    entry.checksum_type = upload.checksum_type
    if upload.checksum_type == "FULL_OBJECT":
        entry.checksum = f"{algorithm}:{entry.body.checksum(algorithm)}"
    else:
        whole = digest_of(algorithm, b"".join(part.checksum for part in parts))
        entry.checksum = f"{algorithm}:{base64.b64encode(whole).decode()}-{len(parts)}"
