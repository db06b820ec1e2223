"""Who may do what: access keys with roles, as lists of actions or as policy documents.

Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3"; IAM User
Guide, "Policy evaluation logic".
Rules:
- A role allows action patterns (`s3:GetObject*`), on resources (`bucket` or `bucket/key*`); a denial wins.
- Of conditions only `Null` of `s3:if-none-match` and `s3:if-match` is known; another one is an error here.
- A server without roles lets every key do everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

_ARN = "arn:aws:s3:::"


class Grants(Protocol):
    """What an access key may do."""

    @property
    def access_key(self) -> str: ...

    def may(self, action: str, resource: str, headers: Mapping[str, str]) -> bool: ...


@dataclass(frozen=True)
class Role:
    """A role by simple lists."""

    access_key: str
    allows: tuple[str, ...] = ("s3:*",)
    resources: tuple[str, ...] = ("*",)
    denies: tuple[str, ...] = ()

    def may(self, action: str, resource: str, headers: Mapping[str, str]) -> bool:
        if any(fnmatchcase(action, pattern) for pattern in self.denies):
            return False
        return any(fnmatchcase(action, pattern) for pattern in self.allows) and any(
            fnmatchcase(resource, pattern) for pattern in self.resources
        )


@dataclass(frozen=True)
class Statement:
    """One statement of a policy document."""

    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    absent: Mapping[str, bool]
    """Condition `Null`: whether each header must be absent."""

    def fits(self, action: str, resource: str, headers: Mapping[str, str]) -> bool:
        return (
            any(fnmatchcase(action, pattern) for pattern in self.actions)
            and any(fnmatchcase(resource, pattern) for pattern in self.resources)
            and all((name not in headers) is absent for name, absent in self.absent.items())
        )


@dataclass(frozen=True)
class DocumentRole:
    """A role by an IAM policy document."""

    access_key: str
    statements: tuple[Statement, ...]

    @classmethod
    def of(cls, access_key: str, document: str) -> DocumentRole:
        """From the JSON of an identity policy."""
        statements = json.loads(document)["Statement"]
        return cls(access_key, tuple(_statement(one) for one in statements))

    def may(self, action: str, resource: str, headers: Mapping[str, str]) -> bool:
        fitting = [one for one in self.statements if one.fits(action, resource, headers)]
        return bool(fitting) and all(one.allows for one in fitting)


def _statement(told: Mapping[str, object]) -> Statement:
    known = {"Sid", "Effect", "Action", "Resource", "Condition"}
    assert not told.keys() - known, f"not modelled: {told.keys() - known}"
    conditions = told.get("Condition", {})
    assert isinstance(conditions, Mapping) and not conditions.keys() - {"Null"}, f"not modelled: {conditions}"
    absent = {
        name.removeprefix("s3:"): str(value) == "true" for name, value in conditions.get("Null", {}).items()
    }
    assert not absent.keys() - {"if-match", "if-none-match"}, f"not modelled: {absent}"
    return Statement(
        told["Effect"] == "Allow",
        _texts(told["Action"]),
        tuple(one.removeprefix(_ARN) for one in _texts(told["Resource"])),
        absent,
    )


def _texts(told: object) -> tuple[str, ...]:
    if isinstance(told, str):
        return (told,)
    assert isinstance(told, Sequence)
    return tuple(str(one) for one in told)


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
