"""Making and removing a bucket, for the demo and the tests; other buckets are the operator's."""

from __future__ import annotations

from walarchiver.ports import Clock
from walarchiver.storage.botocoreerrors import LIBRARY_ERRORS
from walarchiver.storage.options import S3Options
from walarchiver.storage.s3answers import explained
from walarchiver.storage.s3client import connected


def create_bucket(bucket: str, options: S3Options, clock: Clock, *, versioned: bool) -> None:
    """A new bucket, asked for once.

    Raises StoreUnavailable when there was no answer, StoreDenied when it was refused.
    """
    client = connected(options, clock)
    try:
        client.create_bucket(Bucket=bucket)
        if versioned:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    except LIBRARY_ERRORS as failure:
        raise explained(f"create the bucket {bucket}", failure) from failure
    finally:
        client.close()


def delete_bucket(bucket: str, options: S3Options, clock: Clock) -> None:
    """Remove an empty bucket. Raises as `create_bucket` does."""
    client = connected(options, clock)
    try:
        client.delete_bucket(Bucket=bucket)
    except LIBRARY_ERRORS as failure:
        raise explained(f"delete the bucket {bucket}", failure) from failure
    finally:
        client.close()
