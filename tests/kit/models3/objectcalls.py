"""Calls on one object: GET, HEAD, PUT, COPY, DELETE, tags, lock, restore."""

from __future__ import annotations

import re
from urllib.parse import unquote

from tests.kit.models3.bodies import Body
from tests.kit.models3.clock import at, floored, http_date, rfc3339
from tests.kit.models3.entries import Stored
from tests.kit.models3.permissions import Permissions
from tests.kit.models3.properties import asked_for, shown
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.state import Conditions, State
from tests.kit.models3.wire import Call, Reply, check_digests, document, element, parsed, xml_reply

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_COPIED_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class ObjectCalls:
    """See the module. Each method answers the operation it is named for."""

    def __init__(self, state: State, permissions: Permissions) -> None:
        self._state = state
        self._permissions = permissions

    def get_object(self, call: Call) -> Reply:
        return self._read(call, with_body=True)

    def head_object(self, call: Call) -> Reply:
        return self._read(call, with_body=False)

    def put_object(self, call: Call) -> Reply:
        check_digests(call)
        made = self._state.put(
            call.bucket, call.key, Body.of(call.body), asked_for(call), conditions=conditions_of(call)
        )
        return Reply(200, {"ETag": f'"{made.etag}"', **self.version_headers(call.bucket, made)})

    def copy_object(self, call: Call) -> Reply:
        source = copy_source_of(call)
        self._permissions.check_copy_source(call, *source)
        self._check_source_conditions(call, source)
        replaces_tags = call.header("x-amz-tagging-directive") == "REPLACE"
        found = self._state.copy_source(*source)
        if found.props.tags and not replaces_tags:
            self._permissions.check_copied_tags(call, *source)
        made = self._state.copy(
            source,
            (call.bucket, call.key),
            asked_for(call),
            replaces_metadata=call.header("x-amz-metadata-directive") == "REPLACE",
            replaces_tags=replaces_tags,
            conditions=conditions_of(call),
        )
        headers = self.version_headers(call.bucket, made)
        if self._state.bucket(source[0]).versioning != "Off":
            headers["x-amz-copy-source-version-id"] = found.version_id
        body = document(
            "CopyObjectResult",
            ("LastModified", rfc3339(floored(made.modified_ms))),
            ("ETag", f'"{made.etag}"'),
        )
        return Reply(200, headers | {"Content-Type": "application/xml"}, body)

    def delete_object(self, call: Call) -> Reply:
        bypass = call.header("x-amz-bypass-governance-retention") == "true"
        return Reply(
            204, self._delete(call, call.key, call.version_id, _etag(call, "if-match"), bypass=bypass)
        )

    def delete_objects(self, call: Call) -> Reply:
        """DeleteObjects: every key answered by itself."""
        root = parsed(call.body)
        quiet = root.findtext("Quiet") == "true"
        answers = []
        for one in root.findall("Object"):
            key, version_id = one.findtext("Key") or "", one.findtext("VersionId")
            etag = one.findtext("ETag")
            named = (("Key", key), ("VersionId", version_id) if version_id else None)
            try:
                self._permissions.check_deletion(call, key, version_id)
                headers = self._delete(call, key, version_id, etag.strip('"') if etag else None, bypass=False)
            except Refusal as refusal:
                answers.append(element("Error", *named, ("Code", refusal.code), ("Message", refusal.message)))
                continue
            if not quiet:
                marker = headers.get("x-amz-delete-marker") == "true"
                made = headers.get("x-amz-version-id", "")
                answers.append(
                    element(
                        "Deleted",
                        *named,
                        ("DeleteMarker", "true") if marker else None,
                        ("DeleteMarkerVersionId", made) if marker else None,
                    )
                )
        return xml_reply("DeleteResult", *answers)

    def _delete(
        self, call: Call, key: str, version_id: str | None, if_match: str | None, *, bypass: bool
    ) -> dict[str, str]:
        if version_id is None:
            made = self._state.delete(call.bucket, key, if_match=if_match)
            if made is None:
                return {}
            return {"x-amz-delete-marker": "true", "x-amz-version-id": made.version_id}
        gone = self._state.delete_version(call.bucket, key, version_id, if_match=if_match, bypass=bypass)
        headers = {"x-amz-version-id": version_id}
        if gone is not None and gone.is_marker:
            headers["x-amz-delete-marker"] = "true"
        return headers

    # --- in place
    def get_object_tagging(self, call: Call) -> Reply:
        entry = self._state.look(call.bucket, call.key, call.version_id)
        tags = [element("Tag", ("Key", key), ("Value", value)) for key, value in entry.props.tags.items()]
        reply = xml_reply("Tagging", element("TagSet", *tags))
        reply.headers |= self.version_headers(call.bucket, entry)
        return reply

    def put_object_tagging(self, call: Call) -> Reply:
        entry = self._state.look(call.bucket, call.key, call.version_id)
        tags = parsed(call.body).iter("Tag")
        entry.props.tags = {tag.findtext("Key") or "": tag.findtext("Value") or "" for tag in tags}
        return Reply(200, self.version_headers(call.bucket, entry))

    def delete_object_tagging(self, call: Call) -> Reply:
        self._state.look(call.bucket, call.key, call.version_id).props.tags = {}
        return Reply(204)

    def get_object_retention(self, call: Call) -> Reply:
        props = self._state.look(call.bucket, call.key, call.version_id).props
        if not props.lock_mode:
            raise Refusal("NoSuchObjectLockConfiguration")
        return xml_reply(
            "Retention", ("Mode", props.lock_mode), ("RetainUntilDate", rfc3339(props.retain_until_ms))
        )

    def put_object_retention(self, call: Call) -> Reply:
        """Extends always; shortens GOVERNANCE with a bypass only, COMPLIANCE never."""
        self._need_lock(call)
        entry = self._state.look(call.bucket, call.key, call.version_id)
        root = parsed(call.body)
        mode, until = root.findtext("Mode") or "", at(root.findtext("RetainUntilDate") or "")
        held, props = self._state.clock.now_ms < entry.props.retain_until_ms, entry.props
        weaker = until < props.retain_until_ms or (
            props.lock_mode == "COMPLIANCE" and mode != props.lock_mode
        )
        bypass = (
            call.header("x-amz-bypass-governance-retention") == "true" and props.lock_mode == "GOVERNANCE"
        )
        if held and weaker and not bypass:
            raise Refusal("AccessDenied", "Access Denied because object protected by object lock.")
        props.lock_mode, props.retain_until_ms = mode, until
        return Reply(200)

    def put_object_legal_hold(self, call: Call) -> Reply:
        self._need_lock(call)
        entry = self._state.look(call.bucket, call.key, call.version_id)
        entry.props.legal_hold = parsed(call.body).findtext("Status") == "ON"
        return Reply(200)

    def restore_object(self, call: Call) -> Reply:
        days = int(parsed(call.body).findtext("Days") or "1")
        fresh = self._state.restore(
            call.bucket, call.key, call.version_id, days=days, takes_s=self._state.restore_takes_s
        )
        return Reply(202 if fresh else 200)

    def _need_lock(self, call: Call) -> None:
        if not self._state.bucket(call.bucket).lock_enabled:
            raise Refusal("InvalidRequest", "Bucket is missing Object Lock Configuration")

    # --- reading
    def _read(self, call: Call, *, with_body: bool) -> Reply:
        look = self._state.readable if with_body else self._state.look
        try:
            entry = look(call.bucket, call.key, call.version_id)
        except Refusal as refusal:
            if refusal.code == "MethodNotAllowed" and call.version_id is not None:
                marker = self._state.version(call.bucket, call.key, call.version_id)
                refusal.headers["Last-Modified"] = http_date(self._state.shown_ms(marker))
            raise
        self._check_read_conditions(call, entry)
        if entry.props.encryption == "customer" and not any(
            name.startswith("x-amz-server-side-encryption-customer") for name in call.headers
        ):
            raise Refusal("InvalidRequest", "The object was stored using a form of Server Side Encryption")
        headers = shown(
            entry,
            now_ms=self._state.clock.now_ms,
            last_modified_ms=self._state.shown_ms(entry),
            with_checksum=call.header("x-amz-checksum-mode") == "ENABLED",
        )
        headers |= self.version_headers(call.bucket, entry)
        body, status = entry.body, 200
        asked = _RANGE.fullmatch(call.header("range") or "")
        if asked and any(asked.groups()):
            first, last = _range(asked, body.size)
            headers["Content-Range"] = f"bytes {first}-{last}/{body.size}"
            body, status = body.slice(first, last), 206
        if not with_body:
            return Reply(status, headers | {"Content-Length": str(body.size)})
        return Reply(status, headers, body)

    def _check_read_conditions(self, call: Call, entry: Stored) -> None:
        wanted, unwanted = _etag(call, "if-match"), _etag(call, "if-none-match")
        if wanted is not None and wanted not in ("*", entry.etag):
            raise Refusal("PreconditionFailed")
        if unwanted is not None and unwanted in ("*", entry.etag):
            raise Refusal("NotModified")

    def _check_source_conditions(self, call: Call, source: tuple[str, str, str | None]) -> None:
        wanted = _etag(call, "x-amz-copy-source-if-match")
        unwanted = _etag(call, "x-amz-copy-source-if-none-match")
        if wanted is None and unwanted is None:
            return
        etag = self._state.copy_source(*source).etag
        if (wanted is not None and wanted != etag) or (unwanted is not None and unwanted == etag):
            raise Refusal("PreconditionFailed")

    def version_headers(self, bucket: str, entry: Stored) -> dict[str, str]:
        """The version id, where the bucket ever had versions."""
        if self._state.bucket(bucket).versioning == "Off":
            return {}
        return {"x-amz-version-id": entry.version_id}


def _etag(call: Call, header: str) -> str | None:
    value = call.header(header)
    return None if value is None else value.strip().strip('"')


def conditions_of(call: Call) -> Conditions:
    return Conditions(_etag(call, "if-match"), call.header("if-none-match"))


def copy_source_of(call: Call) -> tuple[str, str, str | None]:
    """Bucket, key and version id of `x-amz-copy-source`."""
    path, _, query = (call.header("x-amz-copy-source") or "").partition("?")
    bucket, _, key = unquote(path).removeprefix("/").partition("/")
    version_id = query.partition("versionId=")[2] or None
    return bucket, key, version_id


def copied_range(call: Call) -> tuple[int, int] | None:
    header = call.header("x-amz-copy-source-range")
    if header is None:
        return None
    found = _COPIED_RANGE.fullmatch(header)
    if found is None:
        raise Refusal(
            "InvalidArgument", "The x-amz-copy-source-range value must be of the form bytes=first-last"
        )
    return int(found.group(1)), int(found.group(2))


def _range(asked: re.Match[str], size: int) -> tuple[int, int]:
    start, end = asked.groups()
    if not start:
        first, last = max(size - int(end), 0), size - 1
    else:
        first, last = int(start), min(int(end), size - 1) if end else size - 1
    if first > last:
        raise Refusal("InvalidRange")
    return first, last
