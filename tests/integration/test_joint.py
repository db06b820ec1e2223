"""Database and bucket together: written together, lost together, brought back to one second, and compared."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.scene import PATIENCE_S, Scene, Scenes, until
from tests.kit.s3 import S3Server
from walarchiver.clock import SystemRandom
from walarchiver.core.moment import format_rfc3339
from walarchiver.demo.stage import Evidence, environment, read_root
from walarchiver.demo.story import end_server

QUERY = "SELECT storage_key, sha256 FROM evidence"


class Application:
    """Stores a file, then commits the row that refers to it; and deletes in the other order."""

    def __init__(self, scene: Scene, s3: S3Server, bucket: str) -> None:
        self.scene = scene
        self.bucket = bucket
        self.s3 = s3.raw_client()
        self.stored: dict[str, bytes] = {}
        scene.cluster.psql("CREATE TABLE evidence (storage_key text PRIMARY KEY, sha256 text NOT NULL)")

    def store(self, *names: str, body: str = "") -> None:
        with psycopg.connect(self.scene.cluster.dsn(), autocommit=True) as sql:
            for name in names:
                content = f"{name} {body} {SystemRandom().token(8).hex()}".encode()
                self.s3.put_object(Bucket=self.bucket, Key=name, Body=content, ContentType="text/x-evidence")
                digest = hashlib.sha256(content).hexdigest()
                sql.execute(
                    "INSERT INTO evidence VALUES (%s, %s) ON CONFLICT (storage_key)"
                    " DO UPDATE SET sha256 = excluded.sha256",
                    (name, digest),
                )
                self.stored[name] = content

    def lose(self, *names: str) -> None:
        """Rows and files deleted, as by accident."""
        with psycopg.connect(self.scene.cluster.dsn(), autocommit=True) as sql:
            for name in names:
                sql.execute("DELETE FROM evidence WHERE storage_key = %s", (name,))
                self.s3.delete_object(Bucket=self.bucket, Key=name)

    def server_time(self) -> int:
        return int(self.scene.cluster.psql("SELECT (extract(epoch FROM clock_timestamp())*1000000)::bigint"))

    def second_later(self) -> int:
        """A moment on the server's clock with nothing in its second or the one before; microseconds."""
        began = self.server_time()
        until(lambda: self.server_time() >= began + 2_500_000, "a second without events")
        return began + 1_600_000

    def let_a_second_pass(self) -> None:
        """A listing settles only what is older than the second it was asked in."""
        self.second_later()

    def holds(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """What a reader of the bucket gets now."""
        found: dict[str, bytes] = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                answer = self.s3.get_object(Bucket=bucket, Key=item["Key"])
                found[item["Key"]] = answer["Body"].read()
                assert answer["ContentType"] == "text/x-evidence"
        return found

    def versions(self) -> set[tuple[str, str]]:
        pages = self.s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket)
        return {(one["Key"], one["VersionId"]) for page in pages for one in page.get("Versions", [])}


@pytest.fixture
def application(scenes: Scenes, s3_server: S3Server) -> Application:
    bucket = s3_server.make_bucket(versioned=True)
    scene = scenes.make(store="s3", settings={"track_commit_timestamp": "on"}, serve=False)
    settings = {"app_lag": '"2s"', "multipart_time": '"completion"', "scan": '"0s"'}
    scene.stage.evidence = Evidence(f"s3://{bucket}", QUERY, settings)
    scene.stage.write_config(root=read_root(scene.stage.keys))
    scene.stage.serve()
    return Application(scene, s3_server, bucket)


def restored(
    application: Application, at: int, into: Path, *more: str, config: Path
) -> tuple[int, Mapping[str, Any]]:
    """Run `restore --start`, ask the restored database for its rows, end it."""
    told = application.scene.call(
        *application.scene.restore_words(format_rfc3339(at), into, "--start", *more), config=config
    )
    assert told.exit_status in (0, 15), told.stderr
    answer = told.json
    try:
        with psycopg.connect(answer["dsn"]) as sql:
            answer["rows"] = dict(sql.execute("SELECT storage_key, sha256 FROM evidence").fetchall())
    finally:
        end_server(answer["pid"], into, threading.Event())
    return told.exit_status, answer


def test_database_and_bucket_come_back_together_to_one_second(
    application: Application, tmp_path: Path
) -> None:
    scene = application.scene
    application.store("a/1", "a/2", "ü b+c/3", "changed")
    scene.json("backup")
    application.store("a/4")
    scene.json("bucket", "scan")
    at = application.second_later()
    before = dict(application.stored)
    application.store("changed", body="later")
    application.store("new")
    application.lose("a/1", "ü b+c/3")
    scene.archive_all()
    application.let_a_second_pass()
    versions = application.versions()
    config = scene.reader()
    target = application.bucket

    told = scene.json("plan", "--at", format_rfc3339(at), config=config)
    assert told["bucket"]["verdict"] == "unknown"  # no index on that machine yet
    scene.json("catalog", "rebuild", config=config)
    scene.json("bucket", "scan", config=config)
    told = scene.json("plan", "--at", format_rfc3339(at), config=config)
    assert (told["bucket"]["verdict"], told["bucket"]["versions"]) == ("complete", 5)
    assert told["undone"]["object_versions"] == 4  # changed, new, and two that were deleted

    control, alone = restored(application, at, scene.stage.folder / "alone", config=config)
    assert control == 0
    dangling = [key for key in alone["rows"] if key not in application.holds(target)]
    assert sorted(dangling) == ["a/1", "ü b+c/3"]  # what a restore of the database alone leaves

    status, answer = restored(
        application, at, scene.stage.folder / "in-place", "--bucket-in-place", config=config
    )
    assert status == 0, answer
    assert answer["bucket"]["joint"]["verdict"] == "CONSISTENT"
    held = application.holds(target)
    assert {key: hashlib.sha256(held[key]).hexdigest() for key in answer["rows"]} == answer["rows"]
    assert {key: held[key] for key in before} == before
    assert "new" in held  # not deleted: nothing was asked for
    assert versions <= application.versions()  # no version was destroyed


def test_the_bucket_is_restored_into_another_place_as_of_the_commit(
    application: Application, s3_server: S3Server
) -> None:
    scene = application.scene
    application.store("one", "two")
    scene.json("bucket", "scan")
    scene.json("backup")
    before = dict(application.stored)
    xid = scene.cluster.psql("DELETE FROM evidence; SELECT pg_current_xact_id()")
    application.second_later()
    for key in before:
        application.s3.delete_object(Bucket=application.bucket, Key=key)
    scene.archive_all()
    other = s3_server.make_bucket(versioned=True)
    into = scene.stage.folder / "restored"
    words = scene.restore_words(f"before-xid:{xid.split()[-1]}", into, "--start", "--bucket-into", other)
    told = scene.call(*words, config=scene.reader())
    assert told.exit_status == 0, told.stderr
    end_server(told.json["pid"], into, threading.Event())
    assert told.json["bucket"]["joint"]["verdict"] == "CONSISTENT"
    assert application.holds(other) == before


@pytest.mark.nightly
def test_a_lost_object_makes_the_verdict_inconsistent(application: Application) -> None:
    scene = application.scene
    application.store("kept", "lost", "never")
    scene.json("backup")
    application.s3.delete_object(Bucket=application.bucket, Key="never")
    scene.json("bucket", "scan")
    at = application.second_later()
    for key, version in application.versions():
        if key in ("lost", "never"):
            application.s3.delete_object(Bucket=application.bucket, Key=key, VersionId=version)
    scene.archive_all()
    status, answer = restored(
        application, at, scene.stage.folder / "restored", "--bucket-in-place", config=scene.reader()
    )
    assert status == 15
    joint = answer["bucket"]["joint"]
    assert joint["verdict"] == "INCONSISTENT"
    assert {one["key"]: one["standing"] for one in joint["findings"]} == {"lost": "lost", "never": "lost"}


def test_the_live_database_is_checked_and_only_what_is_missing_comes_back(application: Application) -> None:
    scene = application.scene
    application.store(*(f"file/{number}" for number in range(40)))
    assert scene.json("bucket", "scan")["keys"] == 40
    assert scene.json("bucket", "check")["verdict"] == "CONSISTENT"
    missing = [f"file/{number}" for number in (3, 5, 8)]
    for key in missing:
        application.s3.delete_object(Bucket=application.bucket, Key=key)
    application.second_later()
    told = until(
        lambda: (one := scene.call("bucket", "check", "--output", "json")).exit_status == 15 and one,
        "the missing objects are outside of the guard interval",
    )
    wrong = [one["key"] for one in told.json["findings"] if one["standing"] == "older"]
    assert wrong == missing
    words = ("bucket", "restore", "--at", "latest", "--in-place", "--missing-only")
    keys = scene.stage.folder / "missing.txt"
    keys.write_text("\n".join(wrong) + "\n")
    answer = scene.json(*words, "--keys", str(keys), "--apply")
    assert answer["report"]["outcomes"]["done"] == 3
    assert application.holds(application.bucket) == application.stored
    assert scene.json("bucket", "check", "--deep")["verdict"] == "CONSISTENT"
    again = scene.json(*words, "--keys", str(keys), "--apply")
    assert again["report"]["outcomes"].get("done", 0) == 0


def test_the_past_is_checked_on_a_throwaway_instance(application: Application) -> None:
    scene = application.scene
    application.store("one", "two")
    scene.json("backup")
    scene.json("bucket", "scan")
    at = application.second_later()
    application.lose("one", "two")
    scene.archive_all()
    config = scene.reader()
    scene.json("catalog", "rebuild", config=config)
    told = scene.json("plan", "--at", format_rfc3339(at), config=config)
    assert told["bucket"]["verdict"] == "after_last_scan"
    assert told["undone"]["object_versions"] is None  # not 0: nobody has looked since
    scene.json("bucket", "scan")
    words = ["bucket", "check", "--at", format_rfc3339(at), "--hook", str(scene.stage.hook)]
    words += ["--bin-dir", str(scene.cluster.bin_dir), "--deep"]
    words += [word for word in scene.restore_words("", Path("x")) if word in ("--owner", "nobody")]
    config = scene.reader()
    dry = scene.json(*words, "--dry-run", config=config)
    assert (dry["dry_run"], "references" in dry) == (True, False)
    answer = scene.json(*words, config=config)
    assert (answer["verdict"], answer["references"], answer["bodies_read"]) == ("CONSISTENT", 2, 2)


@pytest.mark.nightly
def test_another_machine_gets_the_index_from_the_repository(application: Application) -> None:
    scene = application.scene
    application.store("kept", "purged")
    scene.json("bucket", "scan")
    for key, version in application.versions():
        if key == "purged":
            application.s3.delete_object(Bucket=application.bucket, Key=key, VersionId=version)
    assert scene.json("bucket", "scan")["gone"] == 1
    config = scene.reader()
    rebuilt = scene.json("catalog", "rebuild", config=config)
    assert rebuilt["bucket_index"]["rows"] == 3  # two, and one of them again as it was later
    state = scene.json("bucket", "as-of", "--at", "latest", config=config)
    assert state["objects"] == 1
    (index,) = (scene.stage.folder / "state" / "buckets").glob("*.sqlite")
    index.write_bytes(b"no index" * 100)
    problems = scene.call("status", "--output", "json").json["bucket"]["problems"]
    assert any(str(index) in one for one in problems)
    (index,) = (scene.stage.folder / config.stem / "buckets").glob("*.sqlite")
    index.write_bytes(b"no index" * 100)
    scene.json("catalog", "rebuild", config=config)
    assert scene.json("bucket", "as-of", "--at", "latest", config=config)["objects"] == 1
    (aside,) = index.parent.glob("*.aside")
    assert aside.read_bytes() == b"no index" * 100  # it may have known what was never shipped


def test_doctor_examines_the_bucket_and_the_query(application: Application) -> None:
    scene = application.scene
    application.store("one")
    scene.json("bucket", "scan")
    told = scene.call("doctor", "--output", "json").json
    found = {
        one["name"]: one["level"] for one in told["findings"] if one["name"].startswith(("bucket", "ref"))
    }
    names = ("bucket", "bucket rules", "bucket listing", "bucket clock", "bucket index", "references")
    assert found == dict.fromkeys(names, "ok")
    application.s3.put_bucket_versioning(
        Bucket=application.bucket, VersioningConfiguration={"Status": "Suspended"}
    )
    config = scene.stage.config
    config.write_text(config.read_text().replace("SELECT storage_key, sha256", "SELECT storage_key"))
    told = scene.call("doctor", "--output", "json").json
    found = {one["name"]: one["level"] for one in told["findings"]}
    assert (found["bucket"], found["references"]) == ("fail", "warn")


def test_a_bucket_that_cannot_be_written_is_told_before_the_database_is_restored(
    application: Application, s3_server: S3Server
) -> None:
    scene = application.scene
    scene.json("backup")
    scene.archive_all()
    into = scene.stage.folder / "restored"
    for bucket, code in (
        ("there-is-no-such-bucket", "WA-STORE-DENIED"),
        (s3_server.make_bucket(versioned=False), "WA-BUCKET-UNVERSIONED"),
    ):
        words = scene.restore_words("latest", into, "--start", "--bucket-into", bucket)
        told = scene.call(*words, config=scene.reader())
        assert told.error["code"] == code
        assert not into.exists()


def test_an_interrupt_ends_the_buckets_part_and_leaves_the_database_running(application: Application) -> None:
    scene = application.scene
    for number in range(150):
        application.s3.put_object(Bucket=application.bucket, Key=f"many/{number}", Body=b"x")
    scene.json("backup")
    at = application.second_later()
    for number in range(150):
        application.s3.delete_object(Bucket=application.bucket, Key=f"many/{number}")
    scene.archive_all()
    before = application.versions()
    into = scene.stage.folder / "restored"
    words = scene.restore_words(
        format_rfc3339(at), into, "--start", "--bucket-in-place", "--user", "postgres"
    )
    command = [word for word in words if word not in ("--output", "json")]
    process = subprocess.Popen(
        scene.stage.command(*command, config=scene.reader()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stderr is not None
    with process.stderr as told:
        for line in told:
            if "bucket as of" in line:  # what has to be copied is looked at from now on
                process.send_signal(signal.SIGINT)
                break
        said = told.read()
    try:
        assert process.wait(timeout=PATIENCE_S) == 130, said
        assert "only its bucket is not" in said
        assert len(application.versions()) < len(before) + 150
    finally:
        end_server(int((into / "postmaster.pid").read_text().split()[0]), into, threading.Event())
