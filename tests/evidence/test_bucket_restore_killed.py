"""A bucket restore killed at chosen requests, and gone on with: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.models3.app import App
from tests.kit.models3.faults import Meanwhile
from tests.kit.models3.fixtures import MakeModel, TestedModel
from walarchiver.cli.main import main

T = "2026-03-01T12:00:00Z"
SEEN, BEFORE, AFTER = (f"2026-03-01T{hour}:00:00Z" for hour in (10, 11, 13))
EACH = 12
"""Keys of each fate."""


def lay_out(app: App) -> None:
    for number in range(EACH):
        app.put(f"changed/{number:02}", b"old %d" % number, BEFORE)
        app.put(f"changed/{number:02}", b"new", AFTER)
        app.put(f"deleted/{number:02}", b"old %d" % number, BEFORE)
        app.delete(f"deleted/{number:02}", AFTER)
        app.delete(f"deleted/{number:02}", AFTER)
        app.put(f"later/{number:02}", b"new", AFTER)
    app.server.clock.now_ms += 3_600_000


def words(config: Path, *more: str) -> list[str]:
    return ["--config", str(config), "--output", "json", "--quiet", "bucket", *more]


def configured(server: TestedModel, folder: Path) -> Path:
    path = folder / "walarchiver.toml"
    path.write_text(
        f"""
[server]
socket = "{folder}/s"
state = "{folder}/state"

[repository.main]
url = "file://{folder}/repository"

[cluster.main]
repository = "main"

[cluster.main.bucket]
url = "s3://evidence"
endpoint = "{server.endpoint}"
credentials_file = "{server.credentials_file()}"
"""
    )
    return path


def run_until_killed(server: TestedModel, config: Path, plan: str, *, operation: str, after: int) -> bool:
    """Carry the plan out in a process that is killed when this request arrives; whether that happened."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from walarchiver.cli.main import main; sys.exit(main(sys.argv[1:]))",
            *words(config, "restore", "--plan", plan, "--apply"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server.faults.script(Meanwhile(child.kill), operation=operation, after=after)
    try:
        return child.wait(timeout=120) == -9
    finally:
        child.kill()
        child.wait()
        server.faults.heal()


KILLS = [
    ("copy", "CopyObject", 17),
    ("copy", "DeleteObject", 5),
    ("markers", "DeleteObject", 20),
]
MORE = [
    *(("copy", "CopyObject", count) for count in (0, 1, 3, 8, 11, 23)),
    *(("copy", "DeleteObject", count) for count in (0, 11)),
    ("markers", "CopyObject", 5),
    *(("markers", "DeleteObject", count) for count in (0, 1, 5, 11, 12, 30, 35)),
]


@pytest.mark.parametrize(
    ("undelete", "operation", "after"),
    [*KILLS, *(pytest.param(*kill, marks=pytest.mark.nightly) for kill in MORE)],
)
def test_a_killed_restore_is_gone_on_with_and_nothing_is_done_twice(
    make_model_s3: MakeModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    undelete: str,
    operation: str,
    after: int,
) -> None:
    server = make_model_s3(start=SEEN)
    app = server.app("evidence")
    config = configured(server, tmp_path)
    assert main(words(config, "scan")) == 0
    lay_out(app)
    versions = app.entry_count()
    capsys.readouterr()
    assert (
        main(words(config, "restore", "--at", T, "--in-place", "--delete-newer", "--undelete", undelete)) == 0
    )
    plan = json.loads(capsys.readouterr().out)["plan"]

    assert run_until_killed(server, config, plan, operation=operation, after=after), "it was killed"
    run_until_killed(server, config, plan, operation=operation, after=after // 2)  # or ends
    assert main(words(config, "restore", "--plan", plan, "--apply")) == 0

    for number in range(EACH):
        changed, deleted = app.history(f"changed/{number:02}"), app.history(f"deleted/{number:02}")
        later = app.history(f"later/{number:02}")
        assert [b"".join(one.body.chunks()) for one in changed] == [
            b"old %d" % number,
            b"new",
            b"old %d" % number,
        ]
        assert b"".join(deleted[0].body.chunks()) == b"old %d" % number
        assert [one.is_marker for one in deleted] == (
            [False] if undelete == "markers" else [False, True, True, False]
        )
        assert [one.is_marker for one in later] == [True, False]
    added = EACH * 2 if undelete == "markers" else EACH * 3
    removed = EACH * 2 if undelete == "markers" else 0
    assert app.entry_count() == versions + added - removed

    server.log.mark()
    capsys.readouterr()
    assert main(words(config, "restore", "--plan", plan, "--apply")) == 0
    assert json.loads(capsys.readouterr().out)["report"]["verified"] >= EACH
    assert server.log.writes() == []
    if undelete == "markers":
        journal = (tmp_path / "state/buckets/restores" / plan / "journal.jsonl").read_text()
        assert journal.count('"remove_markers"') >= EACH
