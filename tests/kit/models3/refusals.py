"""Refusals in the words of S3: a code, its HTTP status, and what the answer's headers add.

Source: Amazon S3 API Reference, "Error responses", List of error codes.
"""

from __future__ import annotations

from collections.abc import Mapping

STATUS = {
    "AccessDenied": 403,
    "BadDigest": 400,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "ConditionalRequestConflict": 409,
    "EntityTooSmall": 400,
    "InternalError": 500,
    "InvalidArgument": 400,
    "InvalidBucketState": 409,
    "InvalidObjectState": 403,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "KeyTooLongError": 400,
    "MalformedXML": 400,
    "MetadataTooLarge": 400,
    "MethodNotAllowed": 405,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchLifecycleConfiguration": 404,
    "NoSuchObjectLockConfiguration": 404,
    "NoSuchUpload": 404,
    "NoSuchVersion": 404,
    "NotImplemented": 501,
    "NotModified": 304,
    "ObjectLockConfigurationNotFoundError": 404,
    "PreconditionFailed": 412,
    "RestoreAlreadyInProgress": 409,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
}


class Refusal(Exception):
    """What the server answers instead of doing it."""

    def __init__(self, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message or code
        self.status = STATUS[code]
        self.headers = dict(headers or {})
