"""The contestants: how each is set up, and the commands that PostgreSQL or a person would call.

Rules:
- All speak S3 over TLS to the same server. walarchiver verifies its certificate; pgBackRest is spared that
  (`repo1-storage-verify-tls=n`), barman verifies.
- walarchiver and pgBackRest encrypt on the client; barman-cloud cannot, and pays nothing for it.
- Each session begins with an empty repository under a prefix of its own.
- walarchiver is used as its user would: configuration file, `serve`, the hook, `backup`, `restore`; its
  modules are compiled beforehand, as pip does it when it installs them.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

from benchmarks.bench.driver import CallFailed
from benchmarks.bench.peers import Program
from benchmarks.bench.place import BUCKET, REGION, Place
from benchmarks.bench.usage import die_with_parent
from walarchiver.demo.stage import ask, environment, read_root

READY_S = 30.0
CIPHER_PASS = "not-a-secret-but-32-bytes-long-ok"
SHM = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Target:
    """What a client is set up for: a data directory, and the running server of the same system.

    walarchiver asks a server once about its cluster, and then for its position each second.
    """

    place: Place
    data: Path
    dsn: str
    socket_dir: Path
    back_up: bool = False
    """Base backups of that server will be asked for."""


@dataclass(frozen=True, slots=True)
class Session:
    """One client ready to work on one data directory; commands are shell text with %p and %f."""

    prefix: str
    archive: str
    fetch: str
    environment: dict[str, str] = field(default_factory=dict)
    watched: tuple[int, ...] = ()
    fill: str = ""
    """As `archive`, the fastest way there is; empty when that is it."""
    backup: str = ""
    restore: str = ""
    """With {into}."""
    delta: str = ""
    """The same into a directory that has an older copy; empty when the client cannot."""


class Client(Protocol):
    """Somebody who archives."""

    @property
    def label(self) -> str: ...

    @property
    def segments_max(self) -> int:
        """More than so many segments would only take long."""
        ...

    def session(self, target: Target) -> contextlib.AbstractContextManager[Session]:
        """Set up, ready to be called."""
        ...


def shell(*words: object) -> str:
    """Words as shell text; none of ours needs more than double quotes."""
    return " ".join(f'"{word}"' for word in words)


# --- walarchiver -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Walarchiver:
    """Ours. `in_memory`: the repository is a folder in shared memory instead of S3."""

    label: str = "walarchiver"
    workers: int = 2
    settings: tuple[tuple[str, str], ...] = ()
    """More lines for [server], as TOML."""
    in_memory: bool = False
    segments_max: int = 1 << 20
    reading: bool = True
    """A custodian's key is configured, so that WAL can be fetched."""

    @contextmanager
    def session(self, target: Target) -> Iterator[Session]:
        place = target.place
        folder = place.work("wa")
        shm = SHM / f"{place.folder.name}-{folder.name}"
        config = folder / "wa.toml"
        url = f"file://{shm}" if self.in_memory else f"s3://{BUCKET}/{folder.name}"
        _compile_modules()
        server: subprocess.Popen[bytes] | None = None
        try:
            self._configure(target, folder, config, url)
            server = _serve(folder, config)
            command = shell(*_ours(config))
            words = f'--at latest --into "{{into}}" --hook "{place.hook}"'
            if os.geteuid() == 0:
                words += " --owner nobody"
            yield Session(
                prefix=folder.name,
                archive=f'"{place.hook}" --socket "{folder}/wa.sock" push %p',
                fetch=f'"{place.hook}" --socket "{folder}/wa.sock" fetch %f %p',
                environment={"PYTHONPATH": environment()["PYTHONPATH"]},
                watched=(server.pid,),
                backup=f"{command} backup --output json",
                restore=f"{command} restore {words}",
                delta=f"{command} restore --delta {words}" if _knows_delta() else "",
            )
        finally:
            if server is not None:
                _end(server)
            if self.in_memory:
                subprocess.run(["rm", "-rf", str(shm)], check=False)

    def _configure(self, target: Target, folder: Path, config: Path, url: str) -> None:
        """Write the configuration and make the repository, as a user would."""
        keys, place = folder / "keys", target.place
        lines = ["[server]", f'socket = "{folder}/wa.sock"', f'state = "{folder}/state"']
        lines += [f"workers = {self.workers}", 'log_level = "warning"']
        lines += [f"{name} = {value}" for name, value in self.settings]
        lines += ["", "[repository.main]", f'url = "{url}"']
        if not self.in_memory:
            lines += [
                f'endpoint = "{place.endpoint}"',
                f'region = "{REGION}"',
                f'ca_file = "{place.ca_file}"',
            ]
            lines += [f'credentials_file = "{place.server.credentials_file}"']
        else:
            Path(url.removeprefix("file://")).mkdir()
        cluster = ["", "[cluster.main]", f'data_directory = "{target.data}"']
        cluster += [f'dsn = "{target.dsn}"']
        config.write_text("\n".join([*lines, *cluster]) + "\n")
        words = ("keys", "init", "--out", str(keys), "--custodian", "ann", "--custodian", "bob")
        done = subprocess.run(
            [*_ours(config), *words], capture_output=True, text=True, check=False, env=environment()
        )
        if done.returncode != 0:
            raise CallFailed(f"keys init: {done.stderr}")
        lines += [f'root = "{read_root(keys)}"', f'signing_key = "{keys / "writer.key"}"']
        if self.reading:
            lines += [f'identity = "{keys / "custodian-ann.key"}"']
        config.write_text("\n".join([*lines, *cluster]) + "\n")


@cache
def _compile_modules() -> None:
    """Without this, and with PYTHONDONTWRITEBYTECODE set, every command would compile what it loads."""
    source = Path(environment()["PYTHONPATH"].partition(os.pathsep)[0])
    for package in ("walarchiver", "restore"):
        compileall.compile_dir(source / package, quiet=2)


def _knows_delta() -> bool:
    words = [*_ours(None), "restore", "--help"]
    return (
        "--delta"
        in subprocess.run(words, capture_output=True, text=True, check=False, env=environment()).stdout
    )


def _ours(config: Path | None) -> list[str]:
    words = [sys.executable, "-m", "walarchiver.cli.main"]
    return words if config is None else [*words, "--config", str(config)]


def _serve(folder: Path, config: Path) -> subprocess.Popen[bytes]:
    """The daemon, ready. Raises CallFailed."""
    with (folder / "serve.log").open("ab") as log:
        server = subprocess.Popen(
            [*_ours(config), "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509  (no thread runs here)
        )
    rest = threading.Event()
    for _ in range(int(READY_S / 0.05)):
        if server.poll() is not None or ask(folder / "wa.sock", "/readyz"):
            break
        rest.wait(0.05)
    if server.poll() is not None or not ask(folder / "wa.sock", "/readyz"):
        _end(server)
        raise CallFailed(f"serve is not ready: {(folder / 'serve.log').read_text()[-2000:]}")
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(10)


# --- pgBackRest --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PgBackRest:
    """With client-side AES-256-CBC and two processes, as in its documentation's examples."""

    program: Program
    level: int = 3
    asynchronous: bool = True
    segments_max: int = 1 << 20
    cipher: bool = True

    @property
    def label(self) -> str:
        return f"pgBackRest {'async' if self.asynchronous else 'sync'} zst {self.level}"

    @contextmanager
    def session(self, target: Target) -> Iterator[Session]:
        place = target.place
        folder = place.work("br")
        for name in ("spool", "lock", "log"):
            (folder / name).mkdir()
        config = folder / "pgbackrest.conf"
        config.write_text(self._configuration(target, folder))
        config.chmod(0o600)
        command = shell(self.program.path, f"--config={config}", "--stanza=main")
        online = "" if target.back_up else " --no-online"
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} stanza-create{online}"],
            capture_output=True,
            text=True,
            check=False,
            env=self.program.environment or None,
        )
        if done.returncode != 0:
            raise CallFailed(f"stanza-create: {done.stdout}{done.stderr}")
        restore = f'{command} --pg1-path="{{into}}" --type=immediate'
        yield Session(
            prefix=folder.name,
            archive=f"{command} archive-push %p",
            fetch=f"{command} archive-get %f %p",
            fill=f"{command} --archive-async archive-push %p",
            environment=self.program.environment,
            backup=f"{command} --type=full backup",
            restore=f"{restore} restore",
            delta=f"{restore} --delta restore",
        )

    def _configuration(self, target: Target, folder: Path) -> str:
        place = target.place
        access, secret = place.secrets()
        settings: dict[str, object] = {
            "repo1-type": "s3",
            "repo1-path": f"/{folder.name}",
            "repo1-s3-bucket": BUCKET,
            "repo1-s3-endpoint": "127.0.0.1",
            "repo1-storage-port": place.port,
            "repo1-storage-verify-tls": "n",
            "repo1-s3-region": REGION,
            "repo1-s3-key": access,
            "repo1-s3-key-secret": secret,
            "repo1-s3-uri-style": "path",
            "repo1-retention-full": 99,
            "compress-type": "zst",
            "compress-level": self.level,
            "process-max": 2,
            "archive-async": "y" if self.asynchronous else "n",
            "spool-path": folder / "spool",
            "lock-path": folder / "lock",
            "log-path": folder / "log",
            "log-level-console": "error",
            "log-level-file": "off",
            "start-fast": "y",
            "repo1-bundle": "y",
        }
        if self.cipher:
            settings |= {"repo1-cipher-type": "aes-256-cbc", "repo1-cipher-pass": CIPHER_PASS}
        lines = ["[global]", *(f"{name}={value}" for name, value in settings.items())]
        lines += ["", "[main]", f"pg1-path={target.data}"]
        if target.back_up:
            lines += [f"pg1-socket-path={target.socket_dir}", "pg1-user=postgres"]
        return "\n".join(lines) + "\n"


# --- barman-cloud ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Barman:
    """barman-cloud with zstd for WAL; few segments, for each call starts a large interpreter."""

    program: Program
    label: str = "barman-cloud zstd 3"
    segments_max: int = 4

    @contextmanager
    def session(self, target: Target) -> Iterator[Session]:
        place = target.place
        folder = place.work("bm")
        access, secret = place.secrets()
        where = f'--endpoint-url "{place.endpoint}" --addressing-style path'
        wal_archive, bucket = self.program.path, f"s3://{BUCKET}/{folder.name} main"
        wal_restore = self.program.path.with_name("barman-cloud-wal-restore")
        yield Session(
            prefix=folder.name,
            archive=f'"{wal_archive}" {where} --zstd --compression-level 3 {bucket} %p',
            fetch=f'"{wal_restore}" {where} {bucket} %f %p',
            environment={
                "AWS_ACCESS_KEY_ID": access,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_CA_BUNDLE": str(place.ca_file),
            },
        )
