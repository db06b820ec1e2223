"""`walarchiver bucket pin` and `restore --pin`: what is refused before anything is asked or written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.models3.fixtures import MakeModel, TestedModel
from walarchiver.cli.main import main

PIN = "20261122T143206Z-1f2e3d4c"
AT = ("--at", "2026-03-01T12:00:00Z")


@pytest.fixture
def server(make_model_s3: MakeModel) -> TestedModel:
    server = make_model_s3()
    server.app("evidence")
    return server


def refused(server: TestedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The code of a command that must end with status 2, and send nothing."""
    config = tmp_path / "walarchiver.toml"
    config.write_text(
        f"""
[server]
state = "{tmp_path}/state"
[repository.main]
url = "file://{tmp_path}/repository"
[cluster.main.bucket]
url = "s3://evidence"
endpoint = "{server.endpoint}"
credentials_file = "{server.credentials_file()}"
"""
    )
    server.log.mark()
    status = main(["--config", str(config), "--output", "json", "bucket", *words])
    assert status == 2
    assert list(server.log) == []
    code = json.loads(capsys.readouterr().err.strip().splitlines()[-1])["error"]["code"]
    assert isinstance(code, str)
    return code


@pytest.mark.parametrize(
    "words",
    [
        ("pin", *AT),
        ("pin", "--reason", "why"),
        ("pin", *AT, "--reason", "  "),
        ("pin", *AT, "--reason", "why", "--keep", "a while"),
        ("pin", *AT, "--reason", "why", "--deep"),
        ("pin", "--verify", PIN, *AT),
        ("pin", "--verify", PIN, "--copy"),
        ("restore", "--pin", PIN),
        ("restore", "--pin", PIN, "--in-place"),
        ("restore", "--pin", PIN, "--into", "new", *AT),
    ],
)
def test_a_pin_that_does_not_say_what_is_meant_is_refused(
    server: TestedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert refused(server, tmp_path, capsys, *words) == "WA-USAGE"
