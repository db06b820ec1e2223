"""`walarchiver s3 probe`: what a store answers, judged by what a repository needs."""

from __future__ import annotations

from pathlib import Path

from tests.integration.scene import Told
from tests.kit.s3 import S3Server
from walarchiver.demo.stage import Stage


def probe(stage: Stage, *words: str) -> Told:
    done = stage.run("s3", "probe", *words, check=False)
    return Told(done.returncode, done.stdout, done.stderr)


def stage_on(s3: S3Server, folder: Path, *, versioned: bool, credentials: Path | None = None) -> Stage:
    stage = Stage(folder, s3.store_url(versioned=versioned), endpoint=s3.endpoint)
    stage.credentials_file = credentials or s3.credentials_file
    stage.write_config(root=None)
    return stage


def test_a_good_bucket_holds_every_property_and_keeps_no_scratch(s3_server: S3Server, tmp_path: Path) -> None:
    stage = stage_on(s3_server, tmp_path, versioned=True)
    told = probe(stage, "--output", "json")
    assert told.exit_status == 0, told.stderr
    held = {one["name"]: one["finding"] for one in told.json["properties"]}
    assert held.keys() >= {"read", "list", "create once", "versioning", "lifecycle", "clock", "delete"}
    assert set(held.values()) == {"yes"}
    assert list(s3_server.open(stage.url).list_versions("")) == []
    text = probe(stage).stdout
    assert text.startswith(f"repository main at {stage.url}\n")
    assert "ok    versioning" in text


def test_a_bucket_without_versions_is_degraded_with_the_next_step(
    s3_server: S3Server, tmp_path: Path
) -> None:
    told = probe(stage_on(s3_server, tmp_path, versioned=False), "--output", "json")
    assert told.exit_status == 3
    (bad,) = [one for one in told.json["findings"] if one["level"] != "ok"]
    assert bad["name"] == "versioning"
    assert bad["next_step"].startswith("Enable versioning")


def test_credentials_that_cannot_write_fail_with_their_code(s3_server: S3Server, tmp_path: Path) -> None:
    stage = stage_on(s3_server, tmp_path, versioned=True, credentials=s3_server.reader_credentials_file)
    told = probe(stage, "--output", "json")
    assert told.exit_status == 1
    (bad,) = told.json["findings"]
    assert (bad["name"], bad["code"]) == ("write", "WA-STORE-DENIED")


def test_a_folder_is_probed_too_and_the_repository_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    stage = Stage(tmp_path, f"file://{tmp_path}/repository")
    stage.write_config(root=None)
    text = stage.config.read_text()
    stage.config.write_text(f'{text}\n[repository.other]\nurl = "file://{tmp_path}/none"\n')
    unnamed = probe(stage, "--output", "json")
    assert unnamed.exit_status == 2
    assert "main, other" in unnamed.error["message"]
    told = probe(stage, "--repository", "main", "--output", "json")
    assert told.exit_status == 0, told.stdout
    assert {one["name"] for one in told.json["properties"]} == {"read", "list", "create once", "delete"}
    assert probe(stage, "--repository", "third", "--output", "json").exit_status == 2
