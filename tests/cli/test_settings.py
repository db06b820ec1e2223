"""The configuration: every fault is found, none is guessed around, no secret gets in."""

from __future__ import annotations

import contextlib
import string
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.errors import ConfigError, UnknownCluster
from walarchiver.settings import Settings, keys_of, load_settings, parse_settings
from walarchiver.settings_kinds import DURATION, SIZE, TEXT, TEXTS, Address, Kind, quote
from walarchiver.settings_schema import (
    BackupSettings,
    BucketSettings,
    ClusterSettings,
    RepositorySettings,
    RetentionSettings,
    ServerSettings,
)
from walarchiver.settings_text import effective, effective_json, reference

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path("/etc/walarchiver/walarchiver.toml")
ENOUGH = '[repository.main]\nurl = "file:///srv/wa"\n[cluster.main]\n'
SECTIONS = (
    ServerSettings,
    RepositorySettings,
    ClusterSettings,
    BackupSettings,
    RetentionSettings,
    BucketSettings,
)


def parsed(text: str) -> Settings:
    return parse_settings(text, source=SOURCE)


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    return caught.value.message.split("\n  ")[1:]


def test_four_lines_are_enough_to_read_and_restore() -> None:
    settings = parsed(ENOUGH)
    assert settings.cluster(None).repositories == ("main",)
    assert settings.cluster("main").dsn is None
    assert settings.repository("main").url == "file:///srv/wa"
    assert settings.server.socket == Path("/run/walarchiver/walarchiver.sock")


def test_a_second_place_is_a_folder_or_a_section_of_its_own() -> None:
    section = '[repository.elsewhere]\nurl = "s3://b"\n'
    both = f'{section}{ENOUGH}repository = "main"\n'
    for text, wanted in ((ENOUGH, "file:///mnt/x"), (both, "elsewhere")):
        assert parsed(f'{text}checkpoints = "{wanted}"\n').cluster(None).checkpoints == wanted


def test_the_example_of_the_product_is_valid() -> None:
    settings = parsed(
        """
        [server]
        socket = "/run/walarchiver/walarchiver.sock"
        listen = "127.0.0.1:9187"
        state  = "/var/lib/walarchiver"
        workers = 2
        timezone = "Europe/Berlin"
        [repository.main]
        url = "s3://backups/walarchiver"
        endpoint = "http://127.0.0.1:8333"
        region = "us-east-1"
        credentials_file = "/etc/walarchiver/s3.toml"
        root = "wa-root1"
        signing_key = "/etc/walarchiver/writer.key"
        identity = "/etc/walarchiver/custodian.key"
        [cluster.main]
        dsn = "host=/var/run/postgresql dbname=postgres"
        data_directory = "/var/lib/postgresql/15/main"
        repository = "main"
        [cluster.main.retention]
        window = "35d"
        daily = "30d"
        weekly = "52w"
        monthly = "7y"
        [cluster.main.bucket]
        url = "s3://evidence"
        references = "SELECT storage_key, sha256 FROM evidence"
        """
    )
    assert settings.server.listen == Address("127.0.0.1", 9187)
    assert settings.cluster(None).retention.weekly == timedelta(weeks=52)
    assert settings.cluster(None).retention.monthly >= timedelta(days=7 * 365 + 2)
    bucket = settings.cluster(None).bucket
    assert bucket is not None
    assert bucket.url == "s3://evidence"


def test_all_faults_are_reported_together() -> None:
    text = """
    [server]
    sokcet = "/x"
    workers = "2"
    [repository.a]
    endpoint = "ftp://h"
    [cluster.x]
    data_directory = "relative"
    repository = "b"
    [cluster.x.retention]
    window = "35 days"
    [sever]
    """
    assert faults(text) == [
        "sever: is unknown; did you mean 'server'?",
        "server.sokcet: is unknown; did you mean 'socket'?",
        "server.workers: should be a whole number, not text",
        "repository.a.url: is missing",
        "repository.a.endpoint: 'ftp://h' is not of the form https://... or http://...",
        "cluster.x.data_directory: 'relative' is not an absolute path",
        'cluster.x.retention.window: \'35 days\' is not a duration such as "90s", "15m", "12h", "35d", "52w" '
        'or "7y"',
        "cluster.x.repository: names 'b', which is not configured",
    ]


ONE_FAULT = {
    "nothing": ("", "repository: is missing: at least one [repository.NAME] is needed"),
    "a value for a section": ("server = 3\n" + ENOUGH, "server: should be a section"),
    "a key outside": (ENOUGH.replace(".main]\nurl", "]\nurl"), "stands outside a section"),
    "a bad name": (ENOUGH + '[cluster."a b"]\n', "cluster.a b: is not a name"),
    "a boolean number": (ENOUGH + "[server]\nworkers = true\n", "not true or false"),
    "out of bounds": (ENOUGH + "[server]\nworkers = 0\n", "0 is not between 1 and 256"),
    "no such zone": (ENOUGH + '[server]\ntimezone = "Europe/Berlim"\n', "is not a time zone"),
    "a zone that is a path": (ENOUGH + '[server]\ntimezone = "../../etc/passwd"\n', "is not a time zone"),
    "no port": (ENOUGH + '[server]\nlisten = "127.0.0.1"\n', "is not HOST:PORT"),
    "a port too high": (ENOUGH + '[server]\nlisten = "127.0.0.1:65536"\n', "is not HOST:PORT"),
    "a size without unit": (ENOUGH + "[server]\nmemory = 1000\n", "should be text"),
    "an upward path": (ENOUGH + '[server]\nstate = "/var/../etc"\n', "steps upwards"),
    "an unencrypted store": (
        '[repository.main]\nurl = "s3://b"\nendpoint = "http://store.example"\n',
        "repository.main.endpoint: is not encrypted and not on this host",
    ),
    "an endpoint for files": (
        '[repository.main]\nurl = "file:///srv"\nendpoint = "https://x"\n',
        "has no meaning for a file:// repository",
    ),
    "a relative file": ('[repository.main]\nurl = "file://srv"\n', "is not of the form file:///PATH"),
    "no bucket": ('[repository.main]\nurl = "s3:///x"\n', "names no host or bucket"),
    "two sources of credentials": (
        '[repository.main]\nurl = "s3://b"\ncredentials_file = "/a"\ncredentials_command = ["/b"]\n',
        "names both credentials_file and credentials_command",
    ),
    "checkpoints in the repository": (
        ENOUGH + 'checkpoints = "main"\n',
        "checkpoints: names 'main', where the ledger itself is",
    ),
    "checkpoints at the repository's url": (
        ENOUGH + 'checkpoints = "file:///srv/wa"\n',
        "checkpoints: is where the ledger itself is",
    ),
    "checkpoints in no section": (
        ENOUGH + 'checkpoints = "mian"\n',
        "checkpoints: names 'mian', which is not configured; did you mean 'main'?",
    ),
    "checkpoints in a bucket without credentials": (
        ENOUGH + 'checkpoints = "s3://elsewhere"\n',
        "is not of the form file:///PATH",
    ),
    "a command as text": (
        '[repository.main]\nurl = "s3://b"\ncredentials_command = "/b"\n',
        "should be a list of words",
    ),
    "a command on PATH": (
        '[repository.main]\nurl = "s3://b"\ncredentials_command = ["b"]\n',
        "is not an absolute path",
    ),
    "one repository twice": (ENOUGH + 'repository = ["main", "main"]\n', "names something twice"),
    "no repository named": (ENOUGH + "repository = []\n", "cluster.main.repository: is empty"),
    "several, none named": (ENOUGH + '[repository.b]\nurl = "s3://b"\n', "is missing; there is main, b"),
    "an unset credential": (
        '[repository.main]\nurl = "s3://b"\nidentity = "credential:key"\n',
        "CREDENTIALS_DIRECTORY is not set",
    ),
}


@pytest.mark.parametrize(("text", "expected"), ONE_FAULT.values(), ids=ONE_FAULT.keys())
def test_a_fault_is_named(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    found = faults(text)
    assert len(found) == 1
    assert expected in found[0]


SECRETS = {
    "in the dsn": ENOUGH + 'dsn = "host=x password=hunter2"\n',
    "in a dsn URL": ENOUGH + 'dsn = "postgresql://u:hunter2@h/db"\n',
    "in a dsn URL's query": ENOUGH + 'dsn = "postgresql://h/db?sslpassword=hunter2"\n',
    "in the endpoint": '[repository.main]\nurl = "s3://b"\nendpoint = "https://u:hunter2@h"\n',
    "in the url": '[repository.main]\nurl = "s3://u:hunter2@b"\n',
    "as a key": '[repository.main]\nurl = "s3://b"\nsigning_key = "hunter2"\n',
    "as an unknown key": '[repository.main]\nurl = "s3://b"\nsecret_access_key = "hunter2"\n',
}


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert "hunter2" not in str(caught.value)


def test_arguments_of_commands_are_masked() -> None:
    settings = parsed(
        '[repository.main]\nurl = "s3://b"\ncredentials_command = ["/bin/get", "hunter2"]\n'
        'master_key_command = ["/bin/key", "hunter2"]\n'
    )
    for shown in (effective(settings), str(effective_json(settings)), repr(settings)):
        assert "hunter2" not in shown
    assert 'credentials_command = ["/bin/get", "***"]' in effective(settings)


def test_a_systemd_credential_is_a_file_in_systemds_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/walarchiver.service")
    settings = parsed('[repository.main]\nurl = "s3://b"\nidentity = "credential:custodian"\n')
    assert settings.repository("main").identity == Path("/run/credentials/walarchiver.service/custodian")


def test_a_loopback_store_needs_no_encryption() -> None:
    for endpoint in ("http://127.0.0.1:8333", "http://[::1]:1", "http://localhost"):
        parsed(f'[repository.main]\nurl = "s3://b"\nendpoint = "{endpoint}"\n')
    parsed('[repository.main]\nurl = "s3://b"\nendpoint = "http://store.example"\nallow_http = true\n')


def test_an_unknown_name_lists_the_known_ones() -> None:
    settings = parsed(ENOUGH + "[cluster.shop]\n")
    for name in (None, "shpo"):
        with pytest.raises(UnknownCluster, match="main, shop"):
            settings.cluster(name)
    with pytest.raises(ConfigError, match="there is main"):
        settings.repository("mian")


@pytest.mark.parametrize(
    "content", [b"\xff", b"[server", b"x" * (2 << 20), b"[server]\nworkers = 2\nworkers = 3\n"]
)
def test_a_file_that_is_not_toml_is_a_configuration_fault(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "walarchiver.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"walarchiver\.toml"):
        load_settings(path)


def test_a_missing_file_is_a_configuration_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings(tmp_path / "none.toml")


def test_the_reference_file_is_what_the_declarations_say() -> None:
    """When this fails: ./dev generated"""
    assert (ROOT / "config/walarchiver.toml").read_text() == reference()


def test_the_reference_file_is_valid_also_with_every_key_uncommented() -> None:
    parsed(reference())
    lines = [
        line[1:] if line.startswith("#") and line[1:2] not in (" ", "") else line
        for line in reference().splitlines()
    ]
    alternatives = ("credentials_command", "master_key_command")
    text = "\n".join(line for line in lines if not line.startswith(alternatives))
    text = text.replace('"credential:walarchiver-master"', '"/etc/walarchiver/master.key"')
    settings = parsed(text)
    shown = effective(settings)
    for section in SECTIONS:
        for key in keys_of(section):
            assert key in alternatives or f"\n{key} = " in shown


def test_the_examples_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    examples = sorted((ROOT / "config/examples").glob("*.toml"))
    assert len(examples) >= 3
    for example in examples:
        load_settings(example)


def test_what_is_shown_reads_back_to_the_same_settings() -> None:
    settings = parsed(
        ENOUGH + '[server]\nworkers = 3\ndrain = "90s"\nlisten = "[::1]:80"\nusers = ["a", "b"]\n'
    )
    assert parsed(effective(settings)) == settings


def test_every_key_is_documented() -> None:
    for section in SECTIONS:
        for name, declared in keys_of(section).items():
            assert str(declared.metadata["doc"]).endswith((".", ").")), name


def _round_trip(kind: Kind[object], value: object) -> None:
    assert kind.read(tomllib.loads(f"x = {kind.show(value)}")["x"]) == value


@given(st.integers(0, 10**8).map(lambda seconds: timedelta(seconds=seconds)))
def test_a_duration_survives_being_shown(value: timedelta) -> None:
    _round_trip(DURATION, value)


@given(st.integers(1, 10**12 - 1))
def test_a_size_survives_being_shown(value: int) -> None:
    _round_trip(SIZE, value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_survives_being_shown(value: str) -> None:
    if value.strip():
        _round_trip(TEXT, value)
        _round_trip(TEXTS, (value, value + "x"))
    assert quote(value).isprintable() or not value.isprintable()


@given(st.text(string.printable, max_size=30))
def test_no_text_breaks_the_reader(value: str) -> None:
    with contextlib.suppress(ConfigError):
        parsed(ENOUGH + value)
