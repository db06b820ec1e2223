"""Signatures: the worked examples of the S3 documentation, and botocore's own for what these leave out."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import pytest

from walarchiver.storage.credentials import Keys
from walarchiver.storage.s3signing import (
    EMPTY_SHA256,
    UNSIGNED_PAYLOAD,
    Signer,
    encoded_path,
    encoded_query,
)

EXAMPLE = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
MAY_24_2013_US = 1_369_353_600_000_000
BODY_SHA256 = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "payload", "signature"),
    [
        (
            "GET",
            "/test.txt",
            {},
            {"Range": "bytes=0-9"},
            EMPTY_SHA256,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test$file.text",
            {},
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            BODY_SHA256,
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/",
            {"lifecycle": ""},
            {},
            EMPTY_SHA256,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            {"prefix": "J", "max-keys": "2"},
            {},
            EMPTY_SHA256,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
    ids=["object", "put", "subresource", "listing"],
)
def test_the_examples_of_the_documentation_come_out(
    method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], payload: str, signature: str
) -> None:
    signed = Signer("us-east-1").signed(
        method,
        encoded_path(path),
        encoded_query(query),
        {"Host": "examplebucket.s3.amazonaws.com"} | dict(headers),
        payload=payload,
        keys=EXAMPLE,
        now_us=MAY_24_2013_US,
    )
    assert signed["authorization"].endswith(f",Signature={signature}")
    assert signed["x-amz-date"] == "20130524T000000Z"


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("query", [{}, {"versionId": "a+b/c=~. "}])
def test_botocore_signs_the_same(
    monkeypatch: pytest.MonkeyPatch, token: str | None, query: dict[str, str]
) -> None:
    path, now_us = encoded_path("/bucket/v1/a b+c/é~(1).oid"), 1_790_000_000_000_000
    keys = Keys(EXAMPLE.access_key_id, EXAMPLE.secret_access_key, token)
    headers = {
        "host": "s3.example.org:9000",
        "if-none-match": "*",
        "content-type": "application/octet-stream",
        "x-amz-checksum-crc32c": "y/TOtg==",
    }
    signer = Signer("eu-central-1")
    for _ in range(2):  # the second time the day's key is known
        ours = signer.signed(
            "PUT", path, encoded_query(query), headers, payload=UNSIGNED_PAYLOAD, keys=keys, now_us=now_us
        )
    moment = datetime.datetime.fromtimestamp(now_us // 1_000_000, tz=datetime.UTC)
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: moment.replace(tzinfo=None)
    )
    request = botocore.awsrequest.AWSRequest(
        "PUT", f"https://s3.example.org:9000{path}", dict(headers), data=b"body", params=query
    )
    request.context["client_config"] = botocore.config.Config(s3={"payload_signing_enabled": False})
    theirs = botocore.auth.S3SigV4Auth(
        botocore.credentials.Credentials(keys.access_key_id, keys.secret_access_key, token),
        "s3",
        "eu-central-1",
    )
    theirs.add_auth(request)
    assert ours["authorization"].replace(",", ", ") == request.headers["Authorization"]
