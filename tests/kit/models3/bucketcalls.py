"""Calls on a bucket: listings, versioning, lifecycle, making one."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from tests.kit.models3 import listing
from tests.kit.models3.clock import rfc3339
from tests.kit.models3.entries import LifecycleRule, Stored
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.state import State
from tests.kit.models3.wire import Call, Reply, element, encoded, parsed, xml_reply

_OWNER = element("Owner", ("ID", "model"), ("DisplayName", "model"))


class BucketCalls:
    """See the module. Each method answers the operation it is named for."""

    def __init__(self, state: State) -> None:
        self._state = state

    def list_buckets(self, call: Call) -> Reply:
        names = [element("Bucket", ("Name", name)) for name in sorted(self._state.buckets)]
        return xml_reply("ListAllMyBucketsResult", _OWNER, element("Buckets", *names))

    def create_bucket(self, call: Call) -> Reply:
        self._state.make_bucket(call.bucket, lock=call.header("x-amz-bucket-object-lock-enabled") == "true")
        return Reply(200, {"Location": f"/{call.bucket}"})

    def head_bucket(self, call: Call) -> Reply:
        self._state.bucket(call.bucket)
        return Reply(200, {"x-amz-bucket-region": "us-east-1"})

    def delete_bucket(self, call: Call) -> Reply:
        if self._state.bucket(call.bucket).entries:
            raise Refusal("BucketNotEmpty")
        del self._state.buckets[call.bucket]
        return Reply(204)

    def get_bucket_location(self, call: Call) -> Reply:
        self._state.bucket(call.bucket)
        return xml_reply("LocationConstraint")

    def get_object_lock_configuration(self, call: Call) -> Reply:
        if not self._state.bucket(call.bucket).lock_enabled:
            raise Refusal("ObjectLockConfigurationNotFoundError")
        return xml_reply("ObjectLockConfiguration", ("ObjectLockEnabled", "Enabled"))

    def get_bucket_versioning(self, call: Call) -> Reply:
        status = self._state.bucket(call.bucket).versioning
        return xml_reply("VersioningConfiguration", None if status == "Off" else ("Status", status))

    def put_bucket_versioning(self, call: Call) -> Reply:
        self._state.set_versioning(call.bucket, parsed(call.body).findtext("Status") or "")
        return Reply(200)

    # --- lifecycle
    def get_bucket_lifecycle_configuration(self, call: Call) -> Reply:
        rules = self._state.bucket(call.bucket).lifecycle
        if not rules:
            raise Refusal("NoSuchLifecycleConfiguration")
        return xml_reply("LifecycleConfiguration", *(_rule_xml(rule) for rule in rules))

    def put_bucket_lifecycle_configuration(self, call: Call) -> Reply:
        rules = [_rule_of(node, number) for number, node in enumerate(parsed(call.body).findall("Rule"))]
        self._state.bucket(call.bucket).lifecycle = rules
        return Reply(200)

    def delete_bucket_lifecycle(self, call: Call) -> Reply:
        self._state.bucket(call.bucket).lifecycle = []
        return Reply(204)

    # --- listings
    def list_object_versions(self, call: Call) -> Reply:
        bucket = self._state.bucket(call.bucket)
        query, kind = call.query, call.query.get("encoding-type", "")
        asked = listing.Asked(
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            after_key=query.get("key-marker", ""),
            after_version=query.get("version-id-marker", ""),
            limit=_limit(query.get("max-keys", "1000")),
        )
        page = listing.versions(bucket, asked)
        lines = [
            self._version_xml(entry, kind, latest=bucket.latest(entry.key) is entry) for entry in page.entries
        ]
        more = (
            ("NextKeyMarker", encoded(page.next_key, kind)),
            ("NextVersionIdMarker", page.next_version) if page.next_version else None,
        )
        return xml_reply(
            "ListVersionsResult",
            ("Name", call.bucket),
            ("Prefix", encoded(asked.prefix, kind)),
            ("KeyMarker", encoded(asked.after_key, kind)),
            ("VersionIdMarker", asked.after_version),
            *(more if page.truncated else ()),
            ("MaxKeys", asked.limit),
            ("Delimiter", encoded(asked.delimiter, kind)) if asked.delimiter else None,
            ("EncodingType", kind) if kind else None,
            ("IsTruncated", str(page.truncated).lower()),
            *lines,
            *(element("CommonPrefixes", ("Prefix", encoded(one, kind))) for one in page.prefixes),
        )

    def list_objects_v2(self, call: Call) -> Reply:
        query, kind = call.query, call.query.get("encoding-type", "")
        token = query.get("continuation-token", "")
        asked = listing.Asked(
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            after_key=bytes.fromhex(token).decode() if token else query.get("start-after", ""),
            limit=_limit(query.get("max-keys", "1000")),
        )
        page = listing.objects(self._state.bucket(call.bucket), asked)
        lines = [self._object_xml(entry, kind) for entry in page.entries]
        return xml_reply(
            "ListBucketResult",
            ("Name", call.bucket),
            ("Prefix", encoded(asked.prefix, kind)),
            ("StartAfter", encoded(query["start-after"], kind)) if query.get("start-after") else None,
            ("ContinuationToken", token) if token else None,
            ("NextContinuationToken", page.next_key.encode().hex()) if page.truncated else None,
            ("KeyCount", page.count),
            ("MaxKeys", asked.limit),
            ("Delimiter", encoded(asked.delimiter, kind)) if asked.delimiter else None,
            ("EncodingType", kind) if kind else None,
            ("IsTruncated", str(page.truncated).lower()),
            *lines,
            *(element("CommonPrefixes", ("Prefix", encoded(one, kind))) for one in page.prefixes),
        )

    def _version_xml(self, entry: Stored, kind: str, *, latest: bool) -> str:
        common = (
            ("Key", encoded(entry.key, kind)),
            ("VersionId", entry.version_id),
            ("IsLatest", str(latest).lower()),
            ("LastModified", rfc3339(self._state.shown_ms(entry))),
        )
        if entry.is_marker:
            return element("DeleteMarker", *common, _OWNER)
        return element("Version", *common, *self._body_xml(entry), _OWNER)

    def _object_xml(self, entry: Stored, kind: str) -> str:
        return element(
            "Contents",
            ("Key", encoded(entry.key, kind)),
            ("LastModified", rfc3339(self._state.shown_ms(entry))),
            *self._body_xml(entry),
        )

    def _body_xml(self, entry: Stored) -> tuple[tuple[str, object] | None, ...]:
        algorithm = entry.checksum.partition(":")[0]
        return (
            ("ETag", f'"{entry.etag}"'),
            ("ChecksumAlgorithm", algorithm) if algorithm else None,
            ("ChecksumType", entry.checksum_type) if algorithm else None,
            ("Size", entry.body.size),
            ("StorageClass", entry.props.storage_class),
        )


def _limit(text: str) -> int:
    if not text.isdigit():
        raise Refusal("InvalidArgument", "Argument maxKeys must be an integer between 0 and 2147483647")
    return int(text)


def _rule_of(node: Element, number: int) -> LifecycleRule:
    where = node.find("Filter")
    inner = node if where is None else where
    both = inner.find("And")
    if both is not None:
        inner = both
    tags = {tag.findtext("Key") or "": tag.findtext("Value") or "" for tag in inner.iter("Tag")}
    return LifecycleRule(
        id=node.findtext("ID") or f"rule-{number}",
        prefix=inner.findtext("Prefix") or "",
        enabled=node.findtext("Status") == "Enabled",
        tags=tags,
        size_over=_number(inner.findtext("ObjectSizeGreaterThan")),
        size_under=_number(inner.findtext("ObjectSizeLessThan")),
        expire_days=_number(node.findtext("Expiration/Days")),
        expired_marker=node.findtext("Expiration/ExpiredObjectDeleteMarker") == "true",
        noncurrent_days=_number(node.findtext("NoncurrentVersionExpiration/NoncurrentDays")),
        newer_noncurrent=_number(node.findtext("NoncurrentVersionExpiration/NewerNoncurrentVersions")),
        abort_upload_days=_number(node.findtext("AbortIncompleteMultipartUpload/DaysAfterInitiation")),
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _rule_xml(rule: LifecycleRule) -> str:
    tags = [element("Tag", ("Key", key), ("Value", value)) for key, value in rule.tags.items()]
    sizes = [
        (name, value)
        for name, value in (
            ("ObjectSizeGreaterThan", rule.size_over),
            ("ObjectSizeLessThan", rule.size_under),
        )
        if value is not None
    ]
    where: str | tuple[str, object] = ("Prefix", rule.prefix)
    if tags or sizes:
        where = element("And", ("Prefix", rule.prefix), *tags, *sizes)
    return element(
        "Rule",
        ("ID", rule.id),
        element("Filter", where),
        ("Status", "Enabled" if rule.enabled else "Disabled"),
        _expiration_xml(rule),
        _noncurrent_xml(rule),
        None
        if rule.abort_upload_days is None
        else element("AbortIncompleteMultipartUpload", ("DaysAfterInitiation", rule.abort_upload_days)),
    )


def _expiration_xml(rule: LifecycleRule) -> str | None:
    if rule.expire_days is not None:
        return element("Expiration", ("Days", rule.expire_days))
    if rule.expired_marker:
        return element("Expiration", ("ExpiredObjectDeleteMarker", "true"))
    return None


def _noncurrent_xml(rule: LifecycleRule) -> str | None:
    if rule.noncurrent_days is None:
        return None
    newer = rule.newer_noncurrent
    return element(
        "NoncurrentVersionExpiration",
        ("NoncurrentDays", rule.noncurrent_days),
        None if newer is None else ("NewerNoncurrentVersions", newer),
    )
