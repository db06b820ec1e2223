"""The store fails: archiving waits and loses nothing, recovery stops and never opens early."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from restore.instance import Instance, Outcome, Reached
from tests.integration.scene import PATIENCE_S, Scene, Scenes, Told, until
from tests.kit.faultproxy import Change, Fault, FaultProxy, Hang, ResetAfter, ResetBefore, Response, s3_error
from tests.kit.s3 import S3Server
from walarchiver.clock import SystemClock
from walarchiver.core.lsn import format_lsn, parse_lsn
from walarchiver.core.segment import parse_wal_file
from walarchiver.demo.stage import ask

OUTAGES: dict[str, Fault] = {
    "500": s3_error(500, "InternalError"),
    "503": s3_error(503, "SlowDown"),
    "403": s3_error(403, "AccessDenied"),
    "silence": Hang(),
    "reset": ResetBefore(),
}
SEVERAL = pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(("503", "silence"), id="two kinds"),
        pytest.param(tuple(OUTAGES), id="every kind", marks=pytest.mark.nightly),
    ],
)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@SEVERAL
def test_segments_arrive_in_order_after_every_kind_of_outage(
    scenes: Scenes, proxy: FaultProxy, kinds: tuple[str, ...]
) -> None:
    scene = scenes.make(
        store="s3",
        endpoint=proxy.endpoint,
        server={"push_deadline": '"1s"'},
        settings={"wal_keep_size": "1GB"},
    )
    first = scene.archive_all()
    outages = {kind: OUTAGES[kind] for kind in kinds}
    for name, fault in {**outages, "answer lost": ResetAfter()}.items():
        failed, stored = scene.counted("failed_count"), scene.counted("archived_count")
        proxy.inject(fault, times=None)
        held = scene.switch()
        until(lambda: scene.counted("failed_count") > failed, f"a failure counted ({name})")  # noqa: B023
        assert scene.counted("archived_count") == stored
        assert scene.waiting(held)
        proxy.heal()
        scene.archive_all()
    scene.postgresql_logged("walarchiver-hook push: server answered 503")
    assert "archiver process" not in scene.cluster.log_text()  # it dies when a hook ends above 125
    last = scene.archive_all()
    scene.prove_archived()
    archive = scene.open()
    ((_, low, high),) = archive.catalog.runs()
    segments = [parse_wal_file(one, archive.segment_size) for one in (first, last)]
    assert [low, high] == [one.segment.number for one in segments]  # type: ignore[union-attr]
    scene.stage.stop_server()
    scene.prove_rebuild()


@dataclass
class Recovery:
    """A restored directory whose server has not run to its target yet."""

    scene: Scene
    into: Path
    plan: str
    stop_lsn: str
    last_segment: str
    missing_segment: str
    server: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.into.with_name(f"{self.into.name}.walarchiver") / "wa.sock"

    def run(self) -> tuple[Instance, Reached]:
        """Start PostgreSQL and watch it until it is through, or has given up."""
        instance = Instance(self.scene.cluster.bin_dir, self.into, self.into.with_name("instance"))
        instance.start()
        return instance, instance.watch(SystemClock(), timeout_s=PATIENCE_S)

    def hook(self, *words: str) -> Told:
        command = [str(self.scene.stage.hook), "--socket", str(self.socket), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.into, timeout=PATIENCE_S, check=False
        )
        return Told(done.returncode, done.stdout, done.stderr)

    def nothing_ready(self) -> bool:
        """Take the plan's last file, which may have come ahead once the fault was gone."""
        took = self.hook("fetch", "--plan", self.plan, self.last_segment, "pg_wal/RECOVERYXLOG")
        return took.exit_status == 0


@pytest.fixture
def recovery(scenes: Scenes, proxy: FaultProxy) -> Recovery:
    """A base backup, segments behind it, restored without starting; its plan is served."""
    scene = scenes.make(store="s3", endpoint=proxy.endpoint)
    scene.json("backup")
    scene.archive_all()
    scene.cluster.psql("CREATE TABLE wanted AS SELECT 1 AS n")
    last = scene.archive_all()
    config = scene.reader(fetch_deadline='"2s"')
    plan = scene.json("plan", "--at", "latest", config=config)
    into = scene.stage.folder / "r"
    told = scene.call(*scene.restore_words("latest", into), config=config).json
    words = scene.stage.command("serve", "--plan", told["plan"], config=config)
    server = scenes.run(words, scene.stage.folder / "plan.log")
    found = Recovery(scene, into, told["plan"], plan["stop"]["lsn"], last, next_name(scene, last), server)
    until(lambda: ask(found.socket, "/readyz"), "a server for the plan")
    return found


def next_name(scene: Scene, name: str) -> str:
    file = parse_wal_file(name, scene.open().segment_size)
    segment = file.segment  # type: ignore[union-attr]
    return type(segment)(segment.timeline, segment.number + 1).name(scene.open().segment_size)


def flip(response: Response) -> Response:
    middle = len(response.body) // 2
    body = response.body[:middle] + bytes([response.body[middle] ^ 1]) + response.body[middle + 1 :]
    return Response(response.status, response.headers, body)


@SEVERAL
def test_recovery_stops_at_any_doubt_goes_on_without_it_and_ends_at_the_true_end(
    recovery: Recovery, proxy: FaultProxy, kinds: tuple[str, ...]
) -> None:
    ask_by_hand(recovery, proxy)
    doubts = {**{kind: OUTAGES[kind] for kind in kinds}, "a flipped bit": Change(flip)}
    for name, fault in doubts.items():
        proxy.inject(fault, times=None, method="GET", path_contains=recovery.last_segment)
        _, reached = recovery.run()
        assert reached.outcome is Outcome.STOPPED, name
        assert reached.log.fatal is not None
        assert "could not restore file" in reached.log.fatal or "exit code 200" in reached.log.fatal
        assert (recovery.into / "recovery.signal").exists(), name
        assert not (recovery.into / "pg_wal" / "00000002.history").exists(), name
        proxy.heal()
        until(recovery.nothing_ready, "what was fetched ahead meanwhile is used up")
    instance, reached = recovery.run()
    with contextlib.ExitStack() as stack:
        stack.callback(instance.kill)
        assert reached.outcome is Outcome.PROMOTED
        assert reached.log.stop_lsn is not None
        assert format_lsn(reached.log.stop_lsn) == format_lsn(parse_lsn(recovery.stop_lsn))
        assert not (recovery.into / "recovery.signal").exists()


def ask_by_hand(recovery: Recovery, proxy: FaultProxy) -> None:
    """What the hook answers is what PostgreSQL will be told."""
    there = recovery.hook("fetch", "--plan", recovery.plan, recovery.last_segment, "pg_wal/RECOVERYXLOG")
    assert there.exit_status == 0, there.stderr
    fetched = recovery.into / "pg_wal" / "RECOVERYXLOG"
    original = recovery.scene.cluster.data_dir / "pg_wal" / recovery.last_segment
    assert fetched.read_bytes() == original.read_bytes()
    fetched.unlink()

    past = recovery.hook("fetch", "--plan", recovery.plan, recovery.missing_segment, "pg_wal/RECOVERYXLOG")
    assert past.exit_status == 1, past.stderr
    history = ("fetch", "--plan", recovery.plan, "00000002.history", "pg_wal/RECOVERYHISTORY")
    assert recovery.hook(*history).exit_status == 1

    proxy.inject(s3_error(503, "SlowDown"), times=None)
    assert recovery.hook(*history).exit_status == 200
    for name in (recovery.last_segment, recovery.missing_segment):
        doubt = recovery.hook("fetch", "--plan", recovery.plan, name, "pg_wal/RECOVERYXLOG")
        assert doubt.exit_status == 200, doubt.stderr
        assert not fetched.exists()
    proxy.heal()
    other = recovery.hook("fetch", "--plan", "0" * 16, recovery.last_segment, "pg_wal/RECOVERYXLOG")
    assert other.exit_status == 200
    outside = recovery.hook("fetch", "--plan", recovery.plan, recovery.last_segment, "postgresql.conf")
    assert outside.exit_status == 200
