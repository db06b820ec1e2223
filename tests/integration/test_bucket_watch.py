"""What the daemon does for the bucket by itself: tie points, listings, the index kept in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.scene import Scene, Scenes, until
from tests.kit.s3 import S3Server
from walarchiver.core.moment import CommitTime
from walarchiver.core.skew import Tie, skew_of
from walarchiver.demo.stage import Evidence, read_root
from walarchiver.format.records import TieRecord


def watched(scenes: Scenes, s3_server: S3Server, **settings: str) -> tuple[Scene, str]:
    bucket = s3_server.make_bucket(versioned=True)
    scene = scenes.make(store="s3", serve=False)
    scene.stage.evidence = Evidence(f"s3://{bucket}", "SELECT NULL", {"scan": '"1h"', **settings})
    scene.stage.write_config(root=read_root(scene.stage.keys))
    return scene, bucket


def ties(scene: Scene, bucket: str) -> list[TieRecord]:
    archive = scene.open()
    try:
        now = CommitTime(int(scene.cluster.psql("SELECT (extract(epoch FROM now())*1000000)::bigint")))
        return archive.catalog.ties_near(bucket, now)
    finally:
        archive.repository.store.close()


def test_the_daemon_ties_the_clocks_and_keeps_the_index(scenes: Scenes, s3_server: S3Server) -> None:
    scene, bucket = watched(scenes, s3_server)
    s3_server.raw_client().put_object(Bucket=bucket, Key="one", Body=b"x")
    scene.stage.serve()
    found = until(lambda: ties(scene, bucket), "a tie point in the ledger")
    skew = skew_of(Tie(tie.before, tie.after, tie.date) for tie in found)
    assert skew is not None
    assert skew.low <= 0 <= skew.high  # server and store run on one machine here
    assert found[0].before_lsn <= found[0].after_lsn

    def kept() -> bool:
        archive = scene.open()
        try:
            return bool(archive.catalog.index_generations(bucket))
        finally:
            archive.repository.store.close()

    until(kept, "the index in the repository")
    scene.json("backup")
    scene.archive_all()
    told = until(  # an idle server's newest second is proven a moment later
        lambda: (one := scene.call("status", "--output", "json")).exit_status == 0 and one.json,
        "a status without problems",
    )
    assert told
    assert told["bucket"]["problems"] == []
    assert told["bucket"]["kept_in_repository"] >= told["bucket"]["window"]["start"]
    assert "restorable" in scene.call("status").stdout
    scene.json("bucket", "scan")
    drawn = scene.call("timeline").stdout
    (lane,) = [line for line in drawn.splitlines() if line.startswith("bucket ") and line.endswith("|")]
    assert "v" in lane
    assert scene.json("timeline")["bucket"]["window"]["start"] == told["bucket"]["window"]["start"]
    config = scene.reader()
    scene.json("catalog", "rebuild", config=config)
    assert scene.json("bucket", "as-of", "--at", "latest", config=config)["objects"] == 1


def test_a_bucket_that_cannot_be_listed_keeps_no_wal_from_being_archived(
    scenes: Scenes, s3_server: S3Server
) -> None:
    scene, _ = watched(scenes, s3_server)
    scene.stage.evidence = Evidence("s3://there-is-no-such-bucket", "SELECT NULL", {"scan": '"1h"'})
    scene.stage.write_config(root=read_root(scene.stage.keys))
    scene.stage.serve()
    scene.archive_all()
    scene.logged("WA-BUCKET-SCAN")
    scene.archive_all()
    assert scene.stage.stop_server() == 0


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_the_listing_ends_with_the_daemon(scenes: Scenes, s3_server: S3Server) -> None:
    scene, bucket = watched(scenes, s3_server)
    client = s3_server.raw_client()
    for number in range(300):
        client.put_object(Bucket=bucket, Key=f"k/{number:04}", Body=b"x")
    scene.stage.serve()
    assert scene.stage.server is not None
    parent = scene.stage.server.pid
    until(lambda: children(parent), "a listing in a process of its own")
    (child, *_) = children(parent)
    assert scene.stage.stop_server() == 0
    until(lambda: not Path(f"/proc/{child}").exists(), "the end of the listing")


def children(parent: int) -> list[int]:
    """Processes that this one started and that live."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(fields[1]) == parent and fields[0] != "Z" and int(place.name) != os.getpid():
                found.append(int(place.name))
    return found
