"""What the integration tests share: stages over real servers, waiting for facts, reading the archive.

Rules:
- `until` waits for a fact and fails loudly when it does not come; nothing here sleeps for luck.
- What is compared with PostgreSQL's own files is opened as an empty machine would: with the
  repository and one custodian's key.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from restore.plainfile import write_plain
from tests.kit.postgres import PostgresFactory
from tests.kit.readystage import ReadyStage
from tests.kit.s3 import S3Server
from walarchiver.assembly import Archive, Host, open_archive
from walarchiver.catalog import PROJECTED_TABLES
from walarchiver.core.moment import CommitTime, parse_rfc3339
from walarchiver.demo.stage import Stage, ask, environment
from walarchiver.embedded.postgres import MIB, EmbeddedCluster
from walarchiver.settings import load_settings

Fact = TypeVar("Fact")
Json = dict[str, Any]

PATIENCE_S = 120.0
"""Only a failure waits so long; PostgreSQL's archiver alone may sleep for a minute after three failures."""


def until(ask: Callable[[], Fact], what: str, *, patience_s: float = PATIENCE_S) -> Fact:
    """The first true answer of `ask`."""
    ends = time.monotonic() + patience_s
    rest = threading.Event()
    while not (found := ask()):
        assert time.monotonic() < ends, f"did not happen within {patience_s} s: {what}"
        rest.wait(0.05)
    return found


@dataclass
class Told:
    """What a command answered."""

    exit_status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Json:
        document = json.loads(self.stdout)
        assert isinstance(document, dict)
        return document

    @property
    def error(self) -> Json:
        """The error that a command with --output json ended with."""
        document = json.loads(self.stderr.strip().splitlines()[-1])["error"]
        assert isinstance(document, dict)
        return document


@dataclass
class Scene:
    """One play: PostgreSQL archives through the hook to `walarchiver serve`."""

    stage: Stage
    cluster: EmbeddedCluster
    _readers: int = 0

    # --- commands --------------------------------------------------------------------------------

    def call(self, *words: str, config: Path | None = None) -> Told:
        """Run a command, whatever its exit status."""
        done = self.stage.run(*words, config=config, check=False)
        return Told(done.returncode, done.stdout, done.stderr)

    def json(self, *words: str, config: Path | None = None) -> Json:
        """Run a command that must succeed; its JSON."""
        told = self.call(*words, "--output", "json", config=config)
        assert told.exit_status == 0, told.stderr
        return told.json

    def reader(self, *, custodian: str = "ann", **server: str) -> Path:
        """The configuration of an empty machine: the repository and one custodian's key."""
        self._readers += 1
        name = f"reader{self._readers}"
        config = self.stage.write_reader_config(
            self.stage.folder / f"{name}.toml", state=self.stage.folder / name, custodian=custodian
        )
        more = "".join(f"{key} = {value}\n" for key, value in server.items())
        config.write_text(config.read_text().replace("[server]\n", f"[server]\n{more}", 1))
        return config

    def restore_words(self, at: str, into: Path, *more: str) -> list[str]:
        words = ["restore", "--at", at, "--into", str(into), "--output", "json", *more]
        words += ["--hook", str(self.stage.hook), "--bin-dir", str(self.cluster.bin_dir)]
        return words + (["--owner", "nobody"] if os.geteuid() == 0 else [])

    def restore(self, at: str, into: Path, *more: str, config: Path) -> Json:
        """Restore, start, and leave the instance running; what the command told."""
        told = self.call(*self.restore_words(at, into, "--start", *more), config=config)
        assert told.exit_status == 0, told.stderr
        return told.json

    # --- archiving -------------------------------------------------------------------------------

    def counted(self, column: str) -> int:
        return int(self.cluster.psql(f"SELECT {column} FROM pg_stat_archiver"))

    def reload(self, settings: Mapping[str, str]) -> None:
        """Change the server's settings, and return once its processes were told."""
        self.cluster.configure(settings)
        self.cluster.reload()
        # The postmaster tells its children before it lets the next connection in.
        for name, value in settings.items():
            until(lambda: self.cluster.psql(f"SHOW {name}") == value, f"the reload of {name}")  # noqa: B023

    def archived(self, name: str) -> bool:
        """Whether PostgreSQL believes that this segment (or a later one) is archived."""
        last = self.cluster.psql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")
        return last[:24] >= name and not self.waiting(name)

    def waiting(self, name: str = "") -> bool:
        """Whether files up to this name (or any) are still to be archived."""
        ready = self.status_files(".ready")
        return any(not name or one <= name for one in ready)

    def status_files(self, suffix: str) -> list[str]:
        folder = self.cluster.data_dir / "pg_wal" / "archive_status"
        return sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))

    def switch(self) -> str:
        """Commit something, then switch; the name of the segment that is complete now."""
        self.cluster.psql("SELECT pg_logical_emit_message(true, 'test', 'x')")
        return self.cluster.psql("SELECT pg_walfile_name(pg_switch_wal() - 1)")

    def archive_all(self, *, patience_s: float = PATIENCE_S) -> str:
        """Switch, and return once PostgreSQL was told that this segment is archived; its name."""
        name = self.switch()
        until(lambda: self.archived(name), f"{name} archived", patience_s=patience_s)
        return name

    def serves(self) -> None:
        """Return once a server that was started by hand answers on its socket, whatever it says."""
        until(lambda: ask(self.stage.socket, "/livez"), "a server that answers")

    def logged(self, words: str) -> None:
        """Return once the server's log has these words."""
        until(lambda: words in self.stage.log_path.read_text(), f"{words} in the server's log")

    def postgresql_logged(self, words: str) -> None:
        """Return once PostgreSQL's log has these words: hooks write it, after the server's own log."""
        until(lambda: words in self.cluster.log_text(), f"{words} in PostgreSQL's log")

    def restorable(self) -> Json:
        """What status tells once some second is proven restorable."""

        def ask() -> Json | None:
            told = self.call("status", "--output", "json")
            return told.json if told.exit_status == 0 else None

        found = until(ask, "a restorable second")
        assert found is not None
        return found

    # --- the archive -----------------------------------------------------------------------------

    def open(self, config: Path | None = None) -> Archive:
        """The archive as an empty machine sees it."""
        return open_archive(Host.here(load_settings(config or self.reader())), None)

    def prove_archived(self) -> int:
        """Every file that PostgreSQL believes archived opens byte-equal; how many they are."""
        archive = self.open()
        done = self.status_files(".done")
        for name in done:
            record = archive.catalog.file(name)
            assert record is not None, f"{name} is archived for PostgreSQL, but not in the ledger"
            plain = io.BytesIO()
            write_plain(archive.repository, archive.system, record, plain)
            original = (self.cluster.data_dir / "pg_wal" / name).read_bytes()
            assert plain.getvalue() == original, f"{name} opens to other bytes"
        assert done, "PostgreSQL believes nothing archived: this proves nothing"
        return len(done)

    def prove_rebuild(self) -> None:
        """The catalog made again from the repository equals the server's own."""
        config = self.reader()
        self.json("catalog", "rebuild", config=config)
        live, again = self.stage.folder / "state", self.stage.folder / config.stem
        assert rows_of(live) == rows_of(again)

    def close(self) -> None:
        self.cluster.kill()
        self.stage.stop_server(kill=True)


def rows_of(state: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything in the one catalog of a state folder."""
    (path,) = (state / "catalog").glob("*.sqlite")
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {name: sorted(db.execute(f"SELECT * FROM {name}"), key=repr) for name in PROJECTED_TABLES}
    finally:
        db.close()


@dataclass
class Scenes:
    """Makes stages; `close` ends them all."""

    folder: Path
    postgres: PostgresFactory
    s3: Callable[[], S3Server]
    made: list[Scene] = field(default_factory=list)
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def make(
        self,
        major: int | None = None,
        *,
        store: str = "file",
        endpoint: str | None = None,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        server: Mapping[str, str] | None = None,
        archive_timeout_s: int = 0,
        fresh: bool = False,
        segment_bytes: int = MIB,
        serve: bool = True,
        plain: bool = False,
    ) -> Scene:
        """A running PostgreSQL with a repository; `store` is "file" or "s3", `endpoint` a proxy's.

        `plain`: programs are started as users start them, which takes them longer than their work.
        """
        folder = self.folder / f"wa{len(self.made)}"
        kind = Stage if plain else ReadyStage
        stage = kind(folder, f"file://{folder}/repository", extra_server_settings=server or {})
        if store == "file":
            (folder / "repository").mkdir(parents=True)
        else:
            s3 = self.s3()
            stage.url = s3.store_url()
            stage.endpoint = endpoint or s3.endpoint
            stage.credentials_file = s3.credentials_file
        stage.install_hook()
        cluster = self.postgres(
            major,
            settings={**stage.archive_settings(timeout_s=archive_timeout_s), **(settings or {})},
            environment=environment,
            fresh=fresh,
            segment_bytes=segment_bytes,
            start=False,
        )
        stage.cluster = cluster
        scene = Scene(stage, cluster)
        self.made.append(scene)
        stage.make_repository()
        cluster.start()
        if serve:
            stage.serve()
        return scene

    def run(self, command: list[str], log: Path, *, as_user: int | None = None) -> subprocess.Popen[bytes]:
        """Start a program in the background; it is ended with the scenes."""
        with log.open("ab") as out:
            program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(),
                start_new_session=True,
                user=as_user,
            )
        self.programs.append(program)
        return program

    def close(self) -> None:
        for program in self.programs:
            if program.poll() is None:
                program.kill()
                program.wait(PATIENCE_S)
        for scene in self.made:
            scene.close()


def end(pid: int, data_directory: Path) -> None:
    """Stop a restored server at once (it is nobody's child any more) and wait until it is gone."""
    os.kill(pid, signal.SIGQUIT)
    until(lambda: not os.path.exists(f"/proc/{pid}") or _is_zombie(pid), f"the end of {data_directory}")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def instant(text: str) -> CommitTime:
    return parse_rfc3339(text)
