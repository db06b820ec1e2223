"""`walarchiver bucket scan`: what it prints, what it asks for, how it exits."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.kit.chance import SteppingClock
from tests.kit.models3 import faults
from tests.kit.models3.app import App
from tests.kit.models3.fixtures import MakeModel, TestedModel
from walarchiver.cli.bucketscan import teller
from walarchiver.cli.context import Context
from walarchiver.cli.main import main
from walarchiver.evidence.scanning import Progress

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def server(make_model_s3: MakeModel) -> TestedModel:
    return make_model_s3(start="2026-03-01T10:00:00Z")


@pytest.fixture
def app(server: TestedModel) -> App:
    made = server.app("evidence")
    for name in ("a", "b/1", "b/2", "c d+e", "f"):
        made.put(name, name.encode())
    made.delete("f")
    server.clock.step(seconds=60)
    return made


@pytest.fixture
def config(server: TestedModel, app: App, tmp_path: Path) -> Path:
    path = tmp_path / "walarchiver.toml"
    path.write_text(
        f"""
[server]
state = "{tmp_path}/state"

[repository.main]
url = "file://{tmp_path}/repository"

[cluster.bare]

[cluster.main.bucket]
url = "s3://{app.bucket}"
endpoint = "{server.endpoint}"
credentials_file = "{server.credentials_file()}"
page_entries = 2
"""
    )
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """One scan with --output json: its exit status and answer."""

    def call(*words: str, cluster: str = "main") -> tuple[int, dict[str, Any]]:
        options = ["--config", str(config), "--cluster", cluster, "--output", "json", "--quiet"]
        status = main([*options, "bucket", "scan", "--no-ship", *words])
        said = capsys.readouterr()
        return status, json.loads(said.out) if said.out else json.loads(said.err)["error"]

    return call


def test_a_scan_says_what_it_found_and_a_second_one_that_nothing_is_new(
    run: Run, server: TestedModel
) -> None:
    status, said = run()
    assert status == 0
    assert (said["bucket"], said["keys"], said["entries"], said["added"]) == ("s3://evidence", 5, 6, 6)
    assert said["asked"] == "2026-03-01T10:01:00.000000Z"
    assert (said["loses_keys"], said["versioning"], said["resumed"]) == (False, "Enabled", False)
    assert not server.log.writes()
    assert not server.log.body_reads()
    status, said = run()
    assert (status, said["entries"], said["added"], said["gone"]) == (0, 6, 0, 0)


def test_text_names_the_bucket_and_the_moment(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--cluster", "main", "bucket", "scan", "--no-ship"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "s3://evidence as it was at 2026-03-01T10:01:00.000000Z on its own clock"
    assert lines[2] == "6 are new, 0 were removed for ever"


def test_a_prefix_is_scanned_alone(run: Run) -> None:
    status, said = run("--prefix", "b/")
    assert (status, said["keys"]) == (0, 2)


def test_a_server_that_loses_keys_is_named(run: Run, server: TestedModel) -> None:
    server.faults.script(faults.DropKeys.of("c d+e"), operation="ListObjectVersions", after=1)
    status, said = run()
    assert (status, said["keys"], said["loses_keys"]) == (0, 5, True)
    server.faults.heal()
    status, said = run()
    assert (status, said["gone"]) == (0, 0)


def test_listings_that_never_agree_end_it_and_the_next_scan_begins_there(
    run: Run, server: TestedModel
) -> None:
    server.faults.script(faults.DropKeys.of("c d+e"), operation="ListObjectVersions", times=None)
    status, said = run()
    assert (status, said["code"]) == (1, "WA-LISTING-INCOMPLETE")
    server.faults.heal()
    status, said = run()
    assert (status, said["keys"], said["gone"]) == (0, 5, 0)


def test_full_begins_anew_where_a_scan_was_interrupted(run: Run, server: TestedModel, tmp_path: Path) -> None:
    run()
    (index,) = (tmp_path / "state" / "buckets").glob("*.sqlite")
    place = index.with_name(f"{index.stem}.scan")
    begun = {"schema": 1, "bucket": "s3://evidence", "prefix": "", "carefully": False}
    begun |= {"asked": server.clock.now_ms, "keys": 3, "entries": 3, "shards": [["", None, "c"]]}
    place.write_text(json.dumps(begun))
    status, said = run()
    assert (status, said["resumed"], said["keys"]) == (0, True, 5)
    place.write_text(json.dumps(begun))
    status, said = run("--full")
    assert (status, said["resumed"], said["keys"]) == (0, False, 5)


def test_a_bucket_whose_versioning_is_suspended_is_listed_with_a_warning(run: Run, app: App) -> None:
    app.set_versioning("Suspended")
    status, said = run()
    assert (status, said["versioning"]) == (3, "Suspended")


def test_a_bucket_without_versioning_is_refused(run: Run, server: TestedModel, config: Path) -> None:
    server.app("plain", versioned=False)
    config.write_text(config.read_text().replace("s3://evidence", "s3://plain"))
    status, said = run()
    assert (status, said["code"]) == (1, "WA-BUCKET-UNVERSIONED")


def test_a_cluster_without_a_bucket_is_told_how_to_name_one(run: Run) -> None:
    status, said = run(cluster="bare")
    assert (status, said["code"]) == (2, "WA-NO-BUCKET")
    assert "[cluster.bare.bucket]" in said["hint"]


@pytest.mark.parametrize(
    "words",
    [
        ("--events", "file:///x", "--full"),
        ("--events", "file:///x", "--prefix", "b/"),
        ("--inventory", "file:///x", "--events", "file:///y"),
        ("--events",),
        ("--events", "gopher://x"),
        ("--inventory", "https://x"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_listed(
    run: Run, server: TestedModel, words: tuple[str, ...]
) -> None:
    server.log.mark()
    assert run(*words)[0] == 2
    assert server.log.count("ListObjectVersions") == 0


def test_notifications_in_a_folder_are_followed_and_what_is_none_is_put_aside(
    run: Run, server: TestedModel, app: App, tmp_path: Path
) -> None:
    run()
    server.feed.take(1000)
    app.put("b/1", b"newer")
    app.delete("c d+e")
    place = tmp_path / "messages"
    place.mkdir()
    (place / "1.jsonl").write_text("\n".join([*server.feed.bodies(), "no event"]) + "\n")
    status, said = run("--events", place.as_uri())
    assert (status, said["keys"], said["added"], said["aside"]) == (3, 2, 2, 1)
    status, said = run("--events", place.as_uri())
    assert (status, said["messages"]) == (0, 0)
    assert run()[1]["added"] == 0


def test_progress_tells_the_rate_and_the_time_left_now_and_then() -> None:
    said, clock = StringIO(), SteppingClock()
    tell = teller(Context(config=Path("x"), stdout=StringIO(), stderr=said), clock)
    for entries in (0, 500, 1000, 1500):
        tell(Progress(keys=entries // 2, entries=entries, expected=3000))
        clock.advance(2.5)
    tell(Progress(keys=1000, entries=4000, expected=3000))
    assert said.getvalue().splitlines() == [
        "scan: 500 keys, 1,000 entries, 200 entries a second, about 10 s left",
        "scan: 1,000 keys, 4,000 entries, 400 entries a second",
    ]


def test_one_scan_at_a_time_feeds_an_index(run: Run, tmp_path: Path) -> None:
    assert run()[0] == 0
    (lock,) = (tmp_path / "state" / "buckets").glob("*.lock")
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run()[0] == 11
    assert run()[0] == 0
