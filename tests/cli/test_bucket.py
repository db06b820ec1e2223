"""`walarchiver bucket` as-of, diff and restore: what they print, what they write, how they exit."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kit.models3.app import App
from tests.kit.models3.fixtures import MakeModel, TestedModel
from tests.kit.models3.policy import DocumentRole, Role
from walarchiver.cli.main import main

T = "2026-03-01T12:00:00Z"
SEEN, BEFORE, AFTER, NOW = (f"2026-03-01T{hour}:00:00Z" for hour in (10, 11, 13, 14))

Run = Callable[..., tuple[int, dict[str, Any]]]


POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "policies"


def role(name: str) -> DocumentRole:
    """The rights that are shipped, for access keys of that name."""
    return DocumentRole.of(name, (POLICIES / f"evidence-{name}.json").read_text())


@pytest.fixture
def server(make_model_s3: MakeModel) -> TestedModel:
    return make_model_s3(start=SEEN, roles=[Role("ADMIN"), role("restorer"), role("undeleter")])


@pytest.fixture
def app(server: TestedModel) -> App:
    return server.app("evidence")


@pytest.fixture
def config(server: TestedModel, tmp_path: Path) -> Path:
    path = tmp_path / "walarchiver.toml"
    path.write_text(
        f"""
[server]
socket = "{tmp_path}/s"
state = "{tmp_path}/state"

[repository.main]
url = "file://{tmp_path}/repository"

[cluster.main]
repository = "main"

[cluster.main.bucket]
url = "s3://evidence"
endpoint = "{server.endpoint}"
credentials_file = "{server.credentials_file()}"
"""
    )
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """One command with --output json: its exit status and answer."""

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        status = main(["--config", str(config), "--output", "json", "--quiet", "bucket", *words])
        said = capsys.readouterr()
        return status, json.loads(said.out) if said.out else json.loads(said.err)["error"]

    return call


@pytest.fixture
def text(config: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*words: str) -> tuple[int, str]:
        status = main(["--config", str(config), "--quiet", "bucket", *words])
        return status, capsys.readouterr().out

    return call


@pytest.fixture
def changed(app: App, run: Run) -> App:
    """One key of each fate between T and now; listed before, so the window is complete."""
    assert run("scan")[0] == 0
    app.put("kept", b"kept", BEFORE)
    app.put("changed", b"old", BEFORE)
    app.put("deleted", b"deleted", BEFORE)
    app.put("changed", b"new", AFTER)
    app.delete("deleted", AFTER)
    app.put("later", b"later", AFTER)
    app.server.clock.now_ms += 3_600_000
    return app


def content(app: App, key: str) -> bytes | None:
    current = app.current(key)
    return None if current is None else b"".join(current.body.chunks())


def table(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_as_of_and_diff_ask_the_index_only_and_say_what_was_there(
    changed: App, run: Run, server: TestedModel
) -> None:
    assert run("scan")[0] == 0
    server.log.mark()
    status, said = run("as-of", "--at", T)
    assert (status, said["objects"], said["bytes"]) == (0, 3, 14)
    assert [one["key"] for one in said["keys"]] == ["changed", "deleted", "kept"]
    status, said = run("diff", "--from", T)
    assert status == 0
    assert {one["key"]: one["kind"] for one in said["changes"]} == {
        "changed": "changed",
        "deleted": "deleted",
        "later": "added",
    }
    assert list(server.log) == []


def test_a_moment_behind_the_newest_listing_is_refused(changed: App, run: Run) -> None:
    status, said = run("as-of", "--at", T)
    assert (status, said["code"]) == (1, "WA-BUCKET-STALE")


def test_without_apply_nothing_is_written_and_the_plan_can_be_carried_out_as_shown(
    changed: App, run: Run, server: TestedModel
) -> None:
    server.log.mark()
    status, said = run("restore", "--at", T, "--in-place")
    assert (status, said["applied"]) == (0, False)
    assert said["actions"]["copy"]["keys"] == 2
    assert [one["key"] for one in said["extra"]] == ["later"]
    assert server.log.writes() == []
    status, said = run("restore", "--plan", said["plan"], "--apply")
    assert (status, said["report"]["outcomes"]) == (0, {"done": 2, "left": 1})
    assert content(changed, "changed") == b"old"
    assert content(changed, "deleted") == b"deleted"
    server.log.mark()
    status, said = run("restore", "--at", T, "--in-place", "--apply")
    assert (status, said["report"]["outcomes"]) == (0, {"left": 1})
    assert server.log.writes() == []


def test_missing_only_into_another_bucket_below_a_prefix(changed: App, run: Run, server: TestedModel) -> None:
    copy = server.app("copy")
    copy.put("back/kept", b"already there")
    status, _ = run("restore", "--at", T, "--into", "copy/back", "--missing-only", "--apply")
    assert status == 0
    assert copy.current_keys() == ["back/changed", "back/deleted", "back/kept"]
    assert content(copy, "back/kept") == b"already there"
    assert content(copy, "back/changed") == b"old"


def test_all_is_lost_and_comes_back_from_a_second_bucket_without_any_index(
    app: App, run: Run, server: TestedModel
) -> None:
    backup = server.app("backup")
    backup.put("a", b"a", BEFORE)
    backup.put("a", b"newer", AFTER)
    server.clock.now_ms += 1000
    words = ("restore", "--at", T, "--in-place", "--from-bucket", "s3://backup", "--accept-incomplete")
    status, said = run(*words, "--apply")
    assert (status, said["report"]["outcomes"]) == (0, {"done": 1})
    assert content(app, "a") == b"a"


def test_only_the_keys_of_a_list_come_back(changed: App, run: Run, tmp_path: Path) -> None:
    names = tmp_path / "keys"
    names.write_text("deleted\nnever\n")
    words = ("restore", "--at", "latest", "--in-place", "--missing-only", "--keys", str(names))
    status, said = run(*words, "--apply")
    assert (status, said["report"]["left"]) == (15, {"lost": 1})
    assert content(changed, "deleted") == b"deleted"
    assert content(changed, "changed") == b"new"


def test_a_lost_version_is_named_with_its_cause_and_the_exit_status_is_15(
    changed: App, run: Run, text: Callable[..., tuple[int, str]]
) -> None:
    assert run("scan")[0] == 0
    changed.purge_version("changed", changed.history("changed")[1].version_id)
    changed.server.clock.now_ms += 60_000
    status, said = text("restore", "--at", T, "--in-place")
    assert status == 15
    assert "existed [2026-03-01T11:00:00.000000Z, 2026-03-01T13:00:00.000000Z)" in said
    assert "removed by its version id" in said
    status, answer = run("restore", "--at", T, "--in-place", "--apply")
    assert (status, answer["report"]["left"]) == (15, {"lost": 1, "extra": 1})
    assert content(changed, "deleted") == b"deleted"


def test_before_the_first_listing_the_window_is_open_unless_accepted(app: App, run: Run) -> None:
    app.put("a", b"a", BEFORE)
    app.server.clock.now_ms += 3_600_000 * 3
    status, said = run("restore", "--at", T, "--in-place")
    assert (status, said["code"]) == (13, "WA-BUCKET-WINDOW")
    status, said = run("restore", "--at", T, "--in-place", "--accept-incomplete")
    assert status == 0


def test_manifests_for_the_stores_batch_engine_name_bucket_key_and_version(
    app: App, run: Run, tmp_path: Path
) -> None:
    assert run("scan")[0] == 0
    odd = 'a b+c/ü&%25?,"x".txt'
    wanted = app.put(odd, b"old", BEFORE)
    cold = app.put("cold", b"old", BEFORE, storage_class="GLACIER")
    app.put(odd, b"new", AFTER)
    app.put("cold", b"new", AFTER)
    app.server.clock.now_ms += 3_600_000
    folder = tmp_path / "manifest"
    status, said = run("restore", "--at", T, "--in-place", "--manifest", str(folder))
    assert status == 3
    assert said["manifest"] == {"instant.csv": {"rows": 1, "bytes": 3}, "thaw.csv": {"rows": 1, "bytes": 3}}
    assert table(folder / "instant.csv") == [
        ["evidence", "a%20b%2Bc/%C3%BC%26%2525%3F%2C%22x%22.txt", wanted.version_id]
    ]
    assert table(folder / "thaw.csv") == [["evidence", "cold", cold.version_id]]
    assert "Nothing was started" in (folder / "README.txt").read_text()


def become(config: Path, server: TestedModel, name: str) -> None:
    text = config.read_text()
    before = next(line for line in text.splitlines() if line.startswith("credentials_file"))
    config.write_text(text.replace(before, f'credentials_file = "{server.credentials_file(name)}"'))


def test_the_restorers_rights_suffice_but_not_to_remove_a_marker(
    changed: App, run: Run, config: Path, server: TestedModel
) -> None:
    become(config, server, "restorer")
    words = ("restore", "--at", T, "--in-place", "--delete-newer")
    status, said = run(*words, "--undelete", "markers", "--apply")
    assert (status, said["code"]) == (1, "WA-STORE-DENIED")
    assert "--plan" in said["hint"]
    assert content(changed, "deleted") is None
    status, said = run(*words, "--apply")
    assert (status, content(changed, "deleted")) == (0, b"deleted")
    assert content(changed, "later") is None


def test_the_undeleters_rights_suffice_to_remove_markers(
    changed: App, run: Run, config: Path, server: TestedModel
) -> None:
    become(config, server, "undeleter")
    status, said = run("restore", "--at", T, "--in-place", "--undelete", "markers", "--apply")
    assert (status, said["report"]["outcomes"]["done"]) == (0, 2)
    assert [one.is_marker for one in changed.history("deleted")] == [False]


@pytest.mark.parametrize(
    "words",
    [
        ("--at", T),
        ("--in-place",),
        ("--at", "lsn:0/3000148", "--in-place"),
        ("--at", T, "--in-place", "--into", "copy"),
        ("--at", T, "--into", "copy", "--delete-newer"),
        ("--at", T, "--in-place", "--missing-only", "--delete-newer"),
        ("--at", T, "--into", "copy", "--undelete", "markers"),
        ("--at", T, "--in-place", "--apply", "--dry-run"),
        ("--plan", "abc", "--at", T),
        ("--plan", "../x"),
        ("--plan", "abc"),
    ],
)
def test_contradictions_are_refused_before_a_single_request(
    app: App, run: Run, server: TestedModel, words: tuple[str, ...]
) -> None:
    server.log.mark()
    assert run("restore", *words)[0] == 2
    assert list(server.log) == []
