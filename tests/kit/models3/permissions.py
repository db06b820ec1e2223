"""Which actions a request needs, and whether its access key has them.

Source: User Guide, "Required permissions for Amazon S3 API operations"; "How to perform conditional deletes"
and "How to prevent object overwrites with conditional writes" (an ETag condition needs s3:GetObject too).
Rules:
- Without s3:ListBucket, what does not exist is answered 403, never 404.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.kit.models3.policy import Grants
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.wire import Call

_ACTIONS = {
    "ListBuckets": "ListAllMyBuckets",
    "ListObjectVersions": "ListBucketVersions",
    "ListObjectsV2": "ListBucket",
    "HeadBucket": "ListBucket",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "PutLifecycleConfiguration",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "GetObjectLockConfiguration": "GetBucketObjectLockConfiguration",
    "HeadObject": "GetObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "UploadPartCopy": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "ListParts": "ListMultipartUploadParts",
}
_BY_VERSION = {
    "GetObject": "GetObjectVersion",
    "DeleteObject": "DeleteObjectVersion",
    "GetObjectTagging": "GetObjectVersionTagging",
    "PutObjectTagging": "PutObjectVersionTagging",
    "DeleteObjectTagging": "DeleteObjectVersionTagging",
}


class Permissions:
    """See the module. Without roles everything is allowed."""

    def __init__(self, roles: Sequence[Grants] = ()) -> None:
        self.roles = {role.access_key: role for role in roles}

    def check(self, call: Call) -> None:
        """Raises Refusal AccessDenied."""
        if not self.roles or call.operation == "DeleteObjects":
            return
        action = _ACTIONS.get(call.operation, call.operation)
        if call.version_id is not None:
            action = _BY_VERSION.get(action, action)
        where = f"{call.bucket}/{call.key}" if call.key else call.bucket
        self._need(call, action, where)
        if call.operation not in ("GetObject", "HeadObject") and call.header("if-match") not in (None, "*"):
            self._need(call, "GetObject", where)
        if call.header("x-amz-tagging") and call.operation != "PutObjectTagging":
            self._need(call, "PutObjectTagging", where)
        if call.header("x-amz-object-lock-mode"):
            self._need(call, "PutObjectRetention", where)
        if call.header("x-amz-bypass-governance-retention") == "true":
            self._need(call, "BypassGovernanceRetention", where)

    def check_copy_source(self, call: Call, bucket: str, key: str, version_id: str | None) -> None:
        self._need(call, "GetObject" if version_id is None else "GetObjectVersion", f"{bucket}/{key}")

    def check_copied_tags(self, call: Call, bucket: str, key: str, version_id: str | None) -> None:
        action = "GetObjectTagging" if version_id is None else "GetObjectVersionTagging"
        self._need(call, action, f"{bucket}/{key}")
        self._need(call, "PutObjectTagging", f"{call.bucket}/{call.key}")

    def check_deletion(self, call: Call, key: str, version_id: str | None) -> None:
        """One key of DeleteObjects."""
        self._need(
            call, "DeleteObject" if version_id is None else "DeleteObjectVersion", f"{call.bucket}/{key}"
        )

    def hides_absence(self, call: Call) -> bool:
        """Whether 404 becomes 403 for this caller."""
        return bool(self.roles) and not self._may(call, "ListBucket", call.bucket)

    def _may(self, call: Call, action: str, where: str) -> bool:
        role = self.roles.get(call.access_key)
        return not self.roles or (role is not None and role.may(f"s3:{action}", where, call.headers))

    def _need(self, call: Call, action: str, where: str) -> None:
        if not self._may(call, action, where):
            raise Refusal("AccessDenied", f"{call.access_key} is not authorized to perform: s3:{action}")
