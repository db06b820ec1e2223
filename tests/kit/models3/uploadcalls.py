"""Calls on multipart uploads."""

from __future__ import annotations

from tests.kit.models3.bodies import Body
from tests.kit.models3.clock import rfc3339
from tests.kit.models3.objectcalls import ObjectCalls, conditions_of, copied_range, copy_source_of
from tests.kit.models3.permissions import Permissions
from tests.kit.models3.properties import asked_for
from tests.kit.models3.state import State
from tests.kit.models3.uploads import Uploads
from tests.kit.models3.wire import Call, Reply, check_digests, document, element, parsed, xml_reply


class UploadCalls:
    """See the module. Each method answers the operation it is named for."""

    def __init__(
        self, state: State, uploads: Uploads, objects: ObjectCalls, permissions: Permissions
    ) -> None:
        self._state = state
        self._uploads = uploads
        self._objects = objects
        self._permissions = permissions

    def create_multipart_upload(self, call: Call) -> Reply:
        kind = call.header("x-amz-checksum-type") or "COMPOSITE"
        upload = self._uploads.start(call.bucket, call.key, asked_for(call), checksum_type=kind)
        return xml_reply(
            "InitiateMultipartUploadResult",
            ("Bucket", call.bucket),
            ("Key", call.key),
            ("UploadId", upload.upload_id),
        )

    def upload_part(self, call: Call) -> Reply:
        check_digests(call)
        number, upload_id = int(call.query["partNumber"]), call.query["uploadId"]
        part = self._uploads.add_part(call.bucket, call.key, upload_id, number, Body.of(call.body))
        return Reply(200, {"ETag": f'"{part.etag}"'})

    def upload_part_copy(self, call: Call) -> Reply:
        source = copy_source_of(call)
        self._permissions.check_copy_source(call, *source)
        number, upload_id = int(call.query["partNumber"]), call.query["uploadId"]
        part = self._uploads.copy_part(
            source, (call.bucket, call.key, upload_id, number), first_last=copied_range(call)
        )
        found = self._state.copy_source(*source)
        body = document(
            "CopyPartResult",
            ("LastModified", rfc3339(self._state.clock.now_ms)),
            ("ETag", f'"{part.etag}"'),
        )
        return Reply(
            200, {"Content-Type": "application/xml", "x-amz-copy-source-version-id": found.version_id}, body
        )

    def complete_multipart_upload(self, call: Call) -> Reply:
        listed = [
            (int(part.findtext("PartNumber") or 0), (part.findtext("ETag") or "").strip('"'))
            for part in parsed(call.body).iter("Part")
        ]
        made = self._uploads.complete(
            call.bucket, call.key, call.query["uploadId"], listed, conditions=conditions_of(call)
        )
        reply = xml_reply(
            "CompleteMultipartUploadResult",
            ("Location", f"/{call.bucket}/{call.key}"),
            ("Bucket", call.bucket),
            ("Key", call.key),
            ("ETag", f'"{made.etag}"'),
        )
        reply.headers |= self._objects.version_headers(call.bucket, made)
        return reply

    def abort_multipart_upload(self, call: Call) -> Reply:
        self._uploads.abort(call.bucket, call.key, call.query["uploadId"])
        return Reply(204)

    def list_parts(self, call: Call) -> Reply:
        upload = self._uploads.find(call.bucket, call.key, call.query["uploadId"])
        parts = [
            element(
                "Part",
                ("PartNumber", number),
                ("ETag", f'"{part.etag}"'),
                ("Size", part.body.size),
                ("LastModified", rfc3339(upload.started_ms)),
            )
            for number, part in sorted(upload.parts.items())
        ]
        return xml_reply(
            "ListPartsResult",
            ("Bucket", call.bucket),
            ("Key", call.key),
            ("UploadId", upload.upload_id),
            ("IsTruncated", "false"),
            *parts,
        )

    def list_multipart_uploads(self, call: Call) -> Reply:
        prefix = call.query.get("prefix", "")
        uploads = [
            element(
                "Upload",
                ("Key", upload.key),
                ("UploadId", upload.upload_id),
                ("Initiated", rfc3339(upload.started_ms)),
            )
            for upload in self._state.bucket(call.bucket).uploads.values()
            if upload.key.startswith(prefix)
        ]
        return xml_reply(
            "ListMultipartUploadsResult", ("Bucket", call.bucket), ("IsTruncated", "false"), *uploads
        )
