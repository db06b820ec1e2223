"""Who may do what: access keys with roles, as simple lists of actions.

Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3".
Rules:
- A role allows action patterns (`s3:GetObject*`), on resources (`bucket` or `bucket/key*`); a denial wins.
- A server without roles lets every key do everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Role:
    """What an access key may do."""

    access_key: str
    allows: tuple[str, ...] = ("s3:*",)
    resources: tuple[str, ...] = ("*",)
    denies: tuple[str, ...] = ()

    def may(self, action: str, resource: str) -> bool:
        if any(fnmatchcase(action, pattern) for pattern in self.denies):
            return False
        return any(fnmatchcase(action, pattern) for pattern in self.allows) and any(
            fnmatchcase(resource, pattern) for pattern in self.resources
        )


INDEXER = ("s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning", "s3:GetLifecycleConfiguration")
"""Looks, and reads no body."""
RESTORER = (
    *INDEXER,
    "s3:GetObject*",
    "s3:PutObject",
    "s3:PutObjectTagging",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:RestoreObject",
)
"""Copies versions and adds markers; removes nothing for ever."""
UNDELETER = (*RESTORER, "s3:DeleteObjectVersion")
