"""The model behind HTTP, as a plain client sees it."""

from __future__ import annotations

import botocore.exceptions
import pytest

from tests.kit.models3.fixtures import MakeModel, TestedModel


def code_of(raised: pytest.ExceptionInfo[botocore.exceptions.ClientError]) -> tuple[int, str]:
    answer = raised.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_what_was_put_comes_back_by_version_with_its_properties(model_s3: TestedModel) -> None:
    model_s3.app("evidence")
    s3 = model_s3.raw_client()
    first = s3.put_object(
        Bucket="evidence",
        Key="a b/ü+%&?#\n.txt",
        Body=b"first",
        ContentType="text/plain",
        Metadata={"case": "7"},
        Tagging="kind=photo&place=a%20b",
    )
    second = s3.put_object(Bucket="evidence", Key="a b/ü+%&?#\n.txt", Body=b"second")
    got = s3.get_object(Bucket="evidence", Key="a b/ü+%&?#\n.txt", VersionId=first["VersionId"])
    assert got["Body"].read() == b"first"
    assert (got["ContentType"], got["Metadata"], got["TagCount"]) == ("text/plain", {"case": "7"}, 2)
    assert s3.get_object(Bucket="evidence", Key="a b/ü+%&?#\n.txt")["VersionId"] == second["VersionId"]
    tags = s3.get_object_tagging(Bucket="evidence", Key="a b/ü+%&?#\n.txt", VersionId=first["VersionId"])[
        "TagSet"
    ]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"kind": "photo", "place": "a b"}


def test_copy_multipart_delete_and_listing_work_through_the_client(make_model_s3: MakeModel) -> None:
    model = make_model_s3(part_bytes_min=1)
    model.app("evidence")
    s3 = model.raw_client()
    old = s3.put_object(Bucket="evidence", Key="k", Body=b"0123456789", Metadata={"m": "1"})
    s3.delete_object(Bucket="evidence", Key="k")
    source = {"Bucket": "evidence", "Key": "k", "VersionId": old["VersionId"]}
    copied = s3.copy_object(Bucket="evidence", Key="k", CopySource=source, IfNoneMatch="*")
    assert copied["CopySourceVersionId"] == old["VersionId"]
    upload = s3.create_multipart_upload(Bucket="evidence", Key="k")["UploadId"]
    parts = []
    for number, span in enumerate(("bytes=0-3", "bytes=4-9"), start=1):
        part = s3.upload_part_copy(
            Bucket="evidence",
            Key="k",
            UploadId=upload,
            PartNumber=number,
            CopySource=source,
            CopySourceRange=span,
        )
        parts.append({"PartNumber": number, "ETag": part["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(
        Bucket="evidence",
        Key="k",
        UploadId=upload,
        MultipartUpload={"Parts": parts},
        IfMatch=copied["CopyObjectResult"]["ETag"],
    )
    assert s3.get_object(Bucket="evidence", Key="k", Range="bytes=2-5")["Body"].read() == b"2345"
    listed = s3.list_object_versions(Bucket="evidence")
    assert (len(listed["Versions"]), len(listed["DeleteMarkers"])) == (3, 1)
    assert s3.list_objects_v2(Bucket="evidence")["KeyCount"] == 1
    assert [one.operation for one in model.log.writes()] == [
        "PutObject",
        "DeleteObject",
        "CopyObject",
        "CreateMultipartUpload",
        "UploadPartCopy",
        "UploadPartCopy",
        "CompleteMultipartUpload",
    ]


def test_a_condition_that_does_not_hold_is_refused_and_changes_nothing(model_s3: TestedModel) -> None:
    app = model_s3.app("evidence")
    s3 = model_s3.raw_client()
    made = app.put("k", b"1")
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        s3.put_object(Bucket="evidence", Key="k", Body=b"2", IfNoneMatch="*")
    assert code_of(raised) == (412, "PreconditionFailed")
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        s3.delete_object(Bucket="evidence", Key="k", IfMatch="0" * 32)
    assert code_of(raised) == (412, "PreconditionFailed")
    assert app.history("k") == [made]
