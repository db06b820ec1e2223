"""Where S3 keys come from, and that they go nowhere else."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kit.chance import NOON_US, SeededRandom, SteppingClock
from tests.kit.faultproxy import FaultProxy, s3_error
from tests.kit.s3 import S3Server
from walarchiver.errors import StoreDenied, StoreUnavailable, WalarchiverError
from walarchiver.storage import S3Location, S3Options
from walarchiver.storage.credentials import (
    CredentialsCommand,
    CredentialsFile,
    KeyChain,
    Keys,
    SystemdCredential,
    file_source,
)
from walarchiver.storage.retry import RetryPolicy
from walarchiver.storage.s3 import S3Store

SECRET = "wJalrXUtnFEMIsecretKEY"
TOML = f'access_key_id = "AKIDNAME"\nsecret_access_key = "{SECRET}"\n'


def written(path: Path, text: str = TOML, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def command_printing(path: Path, *answers: dict[str, object]) -> CredentialsCommand:
    """A program that prints one answer per run, the last one for ever."""
    (path / "answers.json").write_text(json.dumps(answers))
    script = path / "command.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "answers = json.loads((here / 'answers.json').read_text())\n"
        "print(json.dumps(answers[0]))\n"
        "(here / 'answers.json').write_text(json.dumps(answers[1:] or answers))\n"
        "with (here / 'runs').open('a') as runs: runs.write('x')\n"
    )
    return CredentialsCommand((sys.executable, str(script)))


def answer(name: str, *, expires_us: int | None = None) -> dict[str, object]:
    printed: dict[str, object] = {"Version": 1, "AccessKeyId": name, "SecretAccessKey": SECRET}
    if expires_us is not None:
        printed["Expiration"] = datetime.fromtimestamp(expires_us / 1e6, UTC).isoformat()
    return printed


def runs_of(path: Path) -> int:
    return len((path / "runs").read_text())


# --- a file ---------------------------------------------------------------------------------------


def test_a_private_file_gives_its_keys(tmp_path: Path) -> None:
    path = written(tmp_path / "s3.toml", TOML + 'session_token = "token"\n')
    keys = KeyChain(CredentialsFile(path), SteppingClock()).current()
    assert keys == Keys("AKIDNAME", SECRET, "token")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "s3.toml", mode=mode)
    with pytest.raises(StoreDenied, match=f"mode {mode:04o}") as caught:
        KeyChain(CredentialsFile(path), SteppingClock())
    assert "chmod 600" in caught.value.next_step


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "s3.toml")
    os.chown(path, 12345, -1)
    with pytest.raises(StoreDenied, match="uid 12345"):
        KeyChain(CredentialsFile(path), SteppingClock())


def test_a_systemd_credential_may_show_group_bits(tmp_path: Path) -> None:
    path = written(tmp_path / "s3", mode=0o440)
    assert file_source(path, credentials_directory=tmp_path) == SystemdCredential(path)
    assert file_source(path, credentials_directory=None) == CredentialsFile(path)
    assert file_source(path, credentials_directory=tmp_path / "other") == CredentialsFile(path)
    assert KeyChain(SystemdCredential(path), SteppingClock()).current().access_key_id == "AKIDNAME"


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "s3.toml")
    chain = KeyChain(CredentialsFile(path), SteppingClock())
    written(tmp_path / "new.toml", TOML.replace("AKIDNAME", "AKIDNEXT")).rename(path)
    assert chain.current().access_key_id == "AKIDNEXT"
    path.chmod(0o644)
    written(tmp_path / "new.toml", TOML, 0o644).rename(path)
    with pytest.raises(StoreDenied, match="mode 0644"):
        chain.current()


@pytest.mark.parametrize(
    "text",
    [
        "",
        'access_key_id = "A"\n',
        f'access_key_id = ""\nsecret_access_key = "{SECRET}"\n',
        f'access_key_id = "A"\nsecret_access_key = "{SECRET} "\n',
        f'access_key_id = 7\nsecret_access_key = "{SECRET}"\n',
        f'access_key_id = "A"\nsecret_access_key = "{SECRET}"\naws_session_token = "t"\n',
        f"access_key_id = A\nsecret_access_key = {SECRET}\n",
        f'access_key_id = "A"\nsecret_access_key = "{SECRET}\n',
    ],
)
def test_a_wrong_file_is_refused_without_a_word_of_its_content(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "s3.toml", text)
    with pytest.raises(StoreDenied, match="credentials file") as caught:
        KeyChain(CredentialsFile(path), SteppingClock())
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreDenied, match=r"absent\.toml: No such file"):
        KeyChain(CredentialsFile(tmp_path / "absent.toml"), SteppingClock())


# --- a command ------------------------------------------------------------------------------------


def test_a_command_runs_once_while_its_keys_are_good(tmp_path: Path) -> None:
    source = command_printing(tmp_path, answer("FIRST"))
    chain = KeyChain(source, SteppingClock())
    assert [chain.current().access_key_id for _ in range(3)] == ["FIRST"] * 3
    assert runs_of(tmp_path) == 1


def test_a_command_runs_again_five_minutes_before_its_keys_expire(tmp_path: Path) -> None:
    clock = SteppingClock()
    hour_us = 3600 * 1_000_000
    source = command_printing(
        tmp_path,
        answer("FIRST", expires_us=NOON_US + hour_us),
        answer("SECOND", expires_us=NOON_US + 2 * hour_us),
    )
    chain = KeyChain(source, clock)
    assert chain.current().access_key_id == "FIRST"
    clock.advance(54 * 60)
    assert chain.current().access_key_id == "FIRST"
    clock.advance(60)
    assert chain.current().access_key_id == "SECOND"
    assert runs_of(tmp_path) == 2


def test_keys_that_are_still_good_outlive_a_failing_command(tmp_path: Path) -> None:
    clock = SteppingClock()
    chain = KeyChain(
        command_printing(tmp_path, answer("FIRST", expires_us=NOON_US + 3600 * 1_000_000)), clock
    )
    chain.current()
    (tmp_path / "answers.json").write_text("broken")
    clock.advance(56 * 60)
    assert chain.current().access_key_id == "FIRST"
    clock.advance(5 * 60)
    with pytest.raises(StoreUnavailable, match="status 1"):
        chain.current()


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (f"print('{SECRET}')", StoreDenied, "did not print version 1"),
        ("print('{\"Version\": 2}')", StoreDenied, "did not print version 1"),
        ('print(\'{"Version": 1, "AccessKeyId": "A"}\')', StoreDenied, "SecretAccessKey"),
        (
            'print(\'{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "B", "Expiration": "soon"}\')',
            StoreDenied,
            "Expiration",
        ),
        (f"import sys; print('{SECRET}', file=sys.stderr); sys.exit(3)", StoreUnavailable, "status 3"),
        ("print('x' * 100_000)", StoreDenied, "too much"),
        ("import time; time.sleep(60)", StoreUnavailable, "did not end in 0.3 s"),
    ],
)
def test_a_command_that_fails_is_told_without_its_output(
    script: str, error: type[WalarchiverError], words: str
) -> None:
    source = CredentialsCommand((sys.executable, "-c", script), timeout_s=0.3 if "sleep" in script else 30.0)
    with pytest.raises(error, match=words) as caught:
        KeyChain(source, SteppingClock()).current()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_command_that_does_not_exist_is_denied() -> None:
    with pytest.raises(StoreDenied, match="cannot be run"):
        KeyChain(CredentialsCommand(("/no/such/program",)), SteppingClock()).current()


# --- in use ---------------------------------------------------------------------------------------


def test_a_command_signs_requests_to_a_real_server(s3_server: S3Server, tmp_path: Path) -> None:
    keys = s3_server.keys()
    printed = {"Version": 1, "AccessKeyId": keys.access_key_id, "SecretAccessKey": keys.secret_access_key}
    wrong = {"Version": 1, "AccessKeyId": "nobody", "SecretAccessKey": SECRET}
    good = s3_server.options(credentials=command_printing(tmp_path, printed))
    url = s3_server.store_url()
    s3_server.open(url, good).put_new("v1/a", b"x")
    bad = s3_server.options(credentials=command_printing(tmp_path, wrong))
    with pytest.raises(StoreDenied, match="InvalidAccessKeyId"):
        s3_server.open(url, bad).get("v1/a", bytes_max=1)


def test_keys_changed_in_the_file_are_used_without_a_restart(s3_server: S3Server, tmp_path: Path) -> None:
    path = written(tmp_path / "s3.toml")
    store = s3_server.open(s3_server.store_url(), s3_server.options(credentials=CredentialsFile(path)))
    with pytest.raises(StoreDenied):
        store.put_new("v1/a", b"x")
    written(tmp_path / "new.toml", s3_server.credentials_file.read_text()).rename(path)
    store.put_new("v1/a", b"x")


def test_the_environment_and_the_users_files_do_not_replace_what_was_configured(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\nregion = nowhere-1\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    s3_server.open(s3_server.store_url()).put_new("v1/a", b"x")


def test_the_platform_gives_keys_when_nothing_else_is_named(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3_server.keys()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_access_key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = S3Options(endpoint=s3_server.endpoint)
    s3_server.open(s3_server.store_url(), options).put_new("v1/a", b"x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreDenied, match="no credentials were found"):
        S3Store(S3Location("bucket", ""), options, SteppingClock(), SeededRandom())


def test_no_key_shows_in_a_repr_a_log_line_or_an_error(
    s3_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = "SESSIONTOKENvalue"
    path = written(tmp_path / "s3.toml", TOML + f'session_token = "{token}"\n')
    source = CredentialsFile(path)
    chain = KeyChain(source, SteppingClock())
    command = CredentialsCommand(("vault", f"--token={SECRET}"))
    shown = [repr(chain), repr(chain.current()), repr(source), repr(command)]
    shown.append(repr(S3Options(credentials=command)))
    with caplog.at_level(logging.DEBUG), FaultProxy(s3_server.endpoint) as proxy:
        options = replace(
            s3_server.options(endpoint=proxy.endpoint, retry=RetryPolicy(budget_s=0.0)), credentials=source
        )
        store = s3_server.open(s3_server.store_url(), options)
        shown.append(repr(store))
        for fault in (None, s3_error(403, "SignatureDoesNotMatch"), s3_error(503, "SlowDown")):
            if fault is not None:
                proxy.inject(fault, times=1)
            with pytest.raises(WalarchiverError) as caught:
                store.put_new("v1/a", b"x")
            shown.append("".join(traceback.format_exception(caught.value)))
        assert proxy.log[0].headers["x-amz-security-token"] == token
    everything = caplog.text + "".join(shown)
    assert SECRET not in everything
    assert token not in everything
