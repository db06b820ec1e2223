"""A person in front of a store that does not answer is told so soon, and not kept for long."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from walarchiver.assembly import Host
from walarchiver.cli.context import Context
from walarchiver.cli.main import main
from walarchiver.keys.rootkey import root_text
from walarchiver.settings import load_settings
from walarchiver.storage import retry
from walarchiver.storage.retry import RetryPolicy


@pytest.fixture
def refused() -> Iterator[int]:
    """A port where nobody listens, for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def config(tmp_path: Path, refused: int) -> Path:
    keys = tmp_path / "s3.toml"
    keys.write_text('access_key_id = "x"\nsecret_access_key = "y"\n')
    keys.chmod(0o600)
    path = tmp_path / "walarchiver.toml"
    path.write_text(
        f'[server]\nstate = "{tmp_path}/state"\n[repository.main]\nurl = "s3://bucket"\n'
        f'endpoint = "http://127.0.0.1:{refused}"\nregion = "us-east-1"\ncredentials_file = "{keys}"\n'
        f'root = "{root_text(bytes(32))}"\n[cluster.main]\n'
    )
    return path


def test_every_command_that_is_waited_for_says_that_it_asks_again(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retry, "NOTICE_AFTER_S", 0.0)
    monkeypatch.setattr(retry, "INTERACTIVE", RetryPolicy(budget_s=3600.0, first_budget_s=0.2))
    monkeypatch.setattr("walarchiver.cli.restore.check_hook", lambda *_given: None)
    into = tmp_path / "new"
    owner = ["--owner", "nobody"] if os.geteuid() == 0 else []
    for words in (
        ["status"],
        ["backups"],
        ["timeline"],
        ["plan", "--at", "latest"],
        ["restore", "--at", "latest", "--into", str(into), "--hook", "/any", *owner],
    ):
        assert main(["--config", str(config), *words]) == 1
        said = capsys.readouterr()
        assert "asking again" in said.err
        assert "error[WA-STORE-UNAVAILABLE]" in said.err
        assert said.out == ""
        assert main(["--config", str(config), "--quiet", *words]) == 1
        assert "asking again" not in capsys.readouterr().err
    assert not into.exists()


def test_only_a_person_is_kept_for_a_shorter_time(config: Path) -> None:
    waiting = replace(Context.plain(), config=config).host()
    assert waiting.patience.first_budget_s == 15
    assert waiting.patience.budget_s == Host.here(load_settings(config)).patience.budget_s == 60
    assert Host.here(load_settings(config)).patience.first_budget_s is None
