"""Hands a plan to the store's own batch engine: manifests for S3 Batch Operations, and what to do with them.

Rules:
- A manifest is `bucket,key,version id` with the key URL-encoded, without a header (S3 User Guide, "Specifying
  a manifest"). What one kind of job can do stands in one file.
- Nothing is started here, and no request is made: people look, make the job, and confirm it.
- The folder must not exist or be empty.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from restore.bucketplan import BucketPlan
from restore.core.bucketactions import Action, Kind
from restore.core.bucketlines import store_time
from restore.core.buckettotals import Sum
from walarchiver.errors import UsageError

FILES = {
    Kind.COPY: "instant.csv",
    Kind.COPY_IN_PARTS: "large.csv",
    Kind.THAW: "thaw.csv",
    Kind.REMOVE_MARKERS: "markers.csv",
}
README = "README.txt"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: rows and bytes by file, and what no file can do."""

    folder: Path
    files: dict[str, Sum]
    left: dict[Kind, int]


def export_manifest(
    plan: BucketPlan, folder: Path, *, source_bucket: str, target_bucket: str, target_prefix: str
) -> Exported:
    """Write the manifests of a plan into `folder`. Raises UsageError, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="Name a folder that does not exist yet.")
    files: dict[str, Sum] = {}
    left: dict[Kind, int] = {}
    with ExitStack() as stack:
        opened: dict[Kind, TextIO] = {}
        for _, action in plan.actions():
            if action.kind not in FILES:
                left[action.kind] = left.get(action.kind, 0) + 1
                continue
            if action.kind not in opened:
                path = folder / FILES[action.kind]
                opened[action.kind] = stack.enter_context(open(path, "w", encoding="ascii", newline=""))
            rows = _rows(action, source_bucket, target_bucket)
            opened[action.kind].writelines(rows)
            size = action.source.size if action.source is not None else 0
            before = files.get(FILES[action.kind], Sum())
            files[FILES[action.kind]] = Sum(before.keys + len(rows), before.bytes + size)
    left.pop(Kind.NOTHING, None)
    exported = Exported(folder, files, left)
    text = _readme(plan, exported, source_bucket, target_bucket, target_prefix)
    (folder / README).write_text(text, encoding="utf-8")
    return exported


def _rows(action: Action, source_bucket: str, target_bucket: str) -> list[str]:
    if action.kind is Kind.REMOVE_MARKERS:
        key = quote(action.to, safe="/")
        return [f"{target_bucket},{key},{marker.version_id}\n" for marker in action.markers]
    assert action.source is not None, "what is copied or thawed has a version"
    return [f"{source_bucket},{quote(action.key, safe='/')},{action.source.version_id}\n"]


_HOW = {
    "instant.csv": "operation S3PutObjectCopy: copies each version on top; at most 5 GB each",
    "large.csv": "objects above 5 GB, which S3PutObjectCopy refuses: use a Lambda function that copies in "
    "parts, or `walarchiver bucket restore --plan {id} --apply`",
    "thaw.csv": "operation S3InitiateRestoreObject; when it is done (hours), make a new plan, which copies",
    "markers.csv": "delete markers to remove by their ids with a Lambda function; let it list each id as a "
    "marker first, since the permission to delete it (s3:DeleteObjectVersion) deletes versions, too",
}
_STEPS = """
How:
1. Stop all writing to the target: jobs have no conditions on what they replace. A bucket policy that
   denies s3:PutObject and s3:DeleteObject to all but the job's role is the sure way.
2. Leave versioning enabled, and switch off lifecycle rules that remove noncurrent versions while jobs
   run: what a job replaces becomes noncurrent, and the wanted versions are noncurrent already.
3. Upload a file and create the job, to be confirmed, with a completion report of all tasks:
     aws s3control create-job --account-id ACCOUNT --confirmation-required --priority 10 \
       --operation '{{"S3PutObjectCopy":{{"TargetResource":"arn:aws:s3:::{bucket}"{prefix}}}}}' \
       --manifest '{{"Spec":{{"Format":"S3BatchOperations_CSV_20180820",
         "Fields":["Bucket","Key","VersionId"]}},
         "Location":{{"ObjectArn":"arn:aws:s3:::BUCKET/instant.csv","ETag":"ETAG"}}}}' \
       --report '{{"Bucket":"arn:aws:s3:::BUCKET","Format":"Report_CSV_20180820","Enabled":true,
         "Prefix":"reports","ReportScope":"AllTasks"}}' --role-arn ROLE
4. Look at it, then confirm it. Tasks run in no order; versions under a customer's key (SSE-C) fail.
5. Afterwards run `walarchiver bucket restore --plan {id} --apply`: it leaves alone what the job has
   done, does what is left, and says what is missing. Allow writing again after that.
"""


def _readme(
    plan: BucketPlan, exported: Exported, source_bucket: str, target_bucket: str, target_prefix: str
) -> str:
    header = plan.header
    lines = [
        f"Restore of {header.states} to {store_time(header.moment)}",
        f"plan {header.id}, window {header.verdict}",
        f"read from bucket {source_bucket}, written to bucket {target_bucket}"
        + (f" below {target_prefix}" if target_prefix else ""),
        "",
        "Nothing was started. Files (bucket,URL-encoded key,version id; no header):",
    ]
    for name, total in sorted(exported.files.items()):
        how = _HOW[name].format(id=header.id)
        lines.append(f"- {name}: {total.keys:,} rows, {total.bytes:,} bytes: {how}")
    if not exported.files:
        lines.append("- none: there is nothing that a job could do")
    for kind, count in sorted(exported.left.items()):
        lines.append(f"- in no file: {count:,} keys of kind {kind.value}, see the plan")
    prefix = f',"TargetKeyPrefix":"{target_prefix}"' if target_prefix else ""
    return "\n".join(lines) + "\n" + _STEPS.format(bucket=target_bucket, prefix=prefix, id=header.id)
