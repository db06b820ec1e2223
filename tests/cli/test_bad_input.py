"""Bad input to commands, at their edge: its code, its exit status, a next step, and nothing changed.

The whole list, with what the servers and the hook are offered, is docs/bad-input.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from restore.core.model import Verdict
from restore.unpack import MARKER
from walarchiver.cli.main import main
from walarchiver.cli.plan import _REFUSALS
from walarchiver.errors import NotReachable, all_errors

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "walarchiver.toml"
    path.write_text(
        f'[server]\nsocket = "{tmp_path}/none.sock"\nstate = "{tmp_path}/state"\n'
        f'[repository.main]\nurl = "file://{tmp_path}/repository"\n[cluster.main]\n'
    )
    (tmp_path / "repository").mkdir()
    return path


def everything(folder: Path) -> dict[str, bytes | None]:
    """Each file with its content, each folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refused(
    capsys: pytest.CaptureFixture[str], folder: Path, words: list[str], code: str, exit_status: int
) -> str:
    """Run the command, which must refuse in this way; its message."""
    before = everything(folder)
    assert main(words) == exit_status
    said = capsys.readouterr()
    assert said.out == ""
    error, _, hint = said.err.partition("\nhint: ")
    assert error.startswith(f"error[{code}]: ")
    assert re.fullmatch(r".+[.?]\n", hint)
    assert everything(folder) == before
    return error


WHEN = {
    "unzoned": ("2026-01-22 14:32:06", "WA-WHEN-ZONE"),
    "an hour that came twice": ("2025-10-26 02:30:00 Europe/Berlin", "WA-WHEN-DST"),
    "an hour that was skipped": ("2025-03-30 02:30:00 Europe/Berlin", "WA-WHEN-DST"),
    "future": ("2990-01-01T00:00:00Z", "WA-WHEN-FUTURE"),
    "month first": ("11/22/2025 14:32:06 UTC", "WA-WHEN"),
    "no time at all": ("after lunch", "WA-WHEN"),
    "control characters": ("2025-01-01T00:00:00Z\x00\n", "WA-WHEN"),
    "very long": ("9" * 10_000, "WA-WHEN"),
}


@pytest.mark.parametrize("command", ["plan", "restore"])
@pytest.mark.parametrize(("at", "code"), WHEN.values(), ids=WHEN.keys())
def test_a_time_that_does_not_name_one_past_instant_is_refused(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    at: str,
    code: str,
) -> None:
    monkeypatch.setattr("walarchiver.cli.restore.check_hook", lambda *_given: None)
    words = ["--config", str(config), command, "--at", at]
    if command == "restore":
        words += ["--into", str(tmp_path / "new"), "--hook", "/any"]
        words += ["--owner", "nobody"] if os.geteuid() == 0 else []
    refused(capsys, tmp_path, words, code, 2)


def test_an_unknown_key_stops_every_command_and_names_the_nearest(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace("[cluster.main]", "[cluster.main]\nretenton = 1"))
    into = str(tmp_path / "new")
    for words in (["status"], ["plan", "--at", "latest"], ["restore", "--at", "latest", "--into", into]):
        error = refused(capsys, tmp_path, ["--config", str(config), *words], "WA-CONFIG", 2)
        assert "cluster.main.retenton: is unknown; did you mean 'retention'?" in error


def not_empty(folder: Path) -> None:
    folder.mkdir()
    (folder / "precious").write_text("keep me")


def with_server(folder: Path) -> None:
    folder.mkdir()
    (folder / "postmaster.pid").write_text("1\n")


def unfinished(folder: Path) -> None:
    folder.mkdir()
    (folder / MARKER).write_text("")


TAKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "not empty": (not_empty, "WA-TARGET-DIR"),
    "a file": (lambda folder: folder.write_text("x"), "WA-TARGET-DIR"),
    "a link to an empty folder": (
        lambda folder: (folder.with_name("e").mkdir(), folder.symlink_to("e")),
        "WA-TARGET-DIR",
    ),
    "a pipe": (os.mkfifo, "WA-TARGET-DIR"),
    "an interrupted restore": (unfinished, "WA-TARGET-DIR"),
    "a server": (with_server, "WA-TARGET-SERVER"),
    "a path too long for sockets": (lambda _folder: None, "WA-USAGE"),
}


@pytest.mark.parametrize(("make", "code"), TAKEN.values(), ids=TAKEN.keys())
def test_a_target_directory_in_use_is_refused_before_anything_is_asked(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], object],
    code: str,
) -> None:
    into = tmp_path / ("new" if code != "WA-USAGE" else "n" * 120)
    make(into)
    words = ["--config", str(config), "restore", "--at", "latest", "--into", str(into), "--start"]
    refused(capsys, tmp_path, words, code, 2)


def test_every_refusing_verdict_has_its_own_code() -> None:
    reachable = {Verdict.REACHABLE, Verdict.IDLE}
    assert set(_REFUSALS) == set(Verdict) - reachable
    assert len({kind.code for kind in _REFUSALS.values()}) == len(_REFUSALS)
    assert all(issubclass(kind, NotReachable) and kind is not NotReachable for kind in _REFUSALS.values())


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in all_errors()]
    assert sorted(codes) == sorted(set(codes))


# --- the list ------------------------------------------------------------------------------------------

ROW = re.compile(
    r"\| (?P<input>[^|]+) \| (?P<code>[^|]+) \| (?P<exit>[^|]+) \| (?P<message>[^|]+) \| (?P<tests>[^|]+) \|"
)


def rows() -> list[re.Match[str]]:
    text = (ROOT / "docs" / "bad-input.md").read_text()
    found = [ROW.fullmatch(line) for line in text.splitlines() if line.startswith("| ")]
    assert all(found), "a row has not five cells"
    return [row for row in found if row is not None and row["input"] not in ("input", "---")]


def test_each_row_of_the_list_names_a_code_of_ours_and_tests_that_exist() -> None:
    known = {error.code: error for error in all_errors()}
    seen = set()
    for row in rows():
        seen.add(row["input"])
        for code in re.findall(r"WA-[A-Z0-9-]+", row["code"]):
            assert code in known, row["input"]
            status = re.search(r"command (\d+)", row["exit"])
            if status is not None:
                assert int(status[1]) == known[code].exit_status, row["input"]
        assert re.search(r"(command|push|fetch) \d+", row["exit"]), row["input"]
        tests = re.findall(r"`([^`]+)::([^`]+)`", row["tests"])
        assert tests, row["input"]
        for path, name in tests:
            assert f"def {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"
    assert len(seen) >= 40
