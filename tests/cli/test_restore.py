"""`restore`: what it refuses before anything is written, what it leaves when interrupted, what it prints."""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from restore import pacing, pipeline
from restore.streamwriter import StreamWriter
from restore.workplace import Workplace
from tests.kit.chance import RealClock
from walarchiver.assembly import Archive
from walarchiver.cli import restore
from walarchiver.cli.context import Context
from walarchiver.cli.main import main
from walarchiver.cli.restorelines import commands_of
from walarchiver.errors import RestoreFailed
from walarchiver.format.records import BackupPart, StoredObject


def job(context: Context, place: Workplace) -> restore._Job:
    """A restore whose files are in place."""
    played = SimpleNamespace(
        context=context,
        place=place,
        host=SimpleNamespace(clock=RealClock()),
        owner=None,
        plan=SimpleNamespace(id="p-1", backup="b-1", major=15),
        found=SimpleNamespace(
            archive=None,
            requested="noon",
            understood=SimpleNamespace(text="noon"),
            decision=SimpleNamespace(reason="because", backup=SimpleNamespace(raw_in_all=1000)),
        ),
        args=SimpleNamespace(bin_dir=None, timeout=1),
    )
    return cast(restore._Job, played)


def test_the_commands_to_go_on_with_survive_a_shell() -> None:
    place = Workplace.beside(Path('/nowhere/it\'s 100% "new"'))
    out = io.StringIO()
    context = replace(
        Context.plain(), config=Path("/etc/my config.toml"), stdout=out, stderr=io.StringIO(), quiet=True
    )
    bin_dir = Path("/usr/lib/postgresql/15 beta/bin")
    commands = commands_of(place, context.config, owner="a user", bin_dir=bin_dir)
    assert restore._tell_how_to_start(job(context, place), commands, 1.0, None) == 0
    serve, start = (line.strip().removesuffix(" &") for line in out.getvalue().splitlines()[2:4])
    assert shlex.split(serve)[1:] == [
        "--config",
        "/etc/my config.toml",
        "serve",
        "--plan",
        str(place.plan_path),
    ]
    words = shlex.split(start)
    assert words[:7] == ["runuser", "-u", "a user", "--", f"{bin_dir}/pg_ctl", "-D", str(place.target)]
    assert words[-1] == "start"
    mine = commands_of(place, context.config, owner=None, bin_dir=None)
    assert shlex.split(mine.start)[:3] == ["pg_ctl", "-D", str(place.target)]
    options = shlex.split(shlex.split(mine.start)[shlex.split(mine.start).index("-o") + 1])
    assert options == ["-c", f"data_directory={place.target}"]  # whatever a restored configuration says


@pytest.mark.parametrize("recovering", [False, True])
def test_a_recovery_that_stopped_on_the_way_says_how_to_go_on_and_one_that_ended_wrongly_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recovering: bool
) -> None:
    async def stopped(*_given: object) -> int:
        place.target.mkdir()
        if recovering:
            (place.target / "recovery.signal").touch()
        raise RestoreFailed("PostgreSQL stopped during recovery: it could not restore a file")

    words, place = ready_to_start(tmp_path, monkeypatch, stopped)
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "error[WA-RESTORE]" in said
    assert ("To go on:\n" in said) is recovering
    assert (str(place.plan_path) in said) is recovering


class Placed:
    """A placement that is played."""

    report = None

    def __init__(self, *_given: object) -> None:
        pass

    def carry_out(self) -> None:
        pass


def ready_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_to_target: Callable[..., Awaitable[int]]
) -> tuple[list[str], Workplace]:
    """A `restore --start` whose every step before the start is played; its words and place."""
    place = Workplace.beside(tmp_path / "new")
    config = tmp_path / "walarchiver.toml"
    config.write_text(f'[repository.main]\nurl = "file://{tmp_path}/none"\n[cluster.main]\n')
    found = job(Context.plain(), place)
    monkeypatch.setattr(restore, "check_work_dir", lambda _folder: None)  # the test's may be a deep one
    monkeypatch.setattr(restore, "check_hook", lambda *_given: None)
    monkeypatch.setattr(restore, "answer", lambda *_given: found.found)
    monkeypatch.setattr(restore, "refusal_of", lambda _found: None)
    monkeypatch.setattr(restore, "plan_of", lambda *_given: found.plan)
    monkeypatch.setattr(restore, "find_programs", lambda *_given, **_named: tmp_path / "bin")
    monkeypatch.setattr(restore, "note_plan", lambda *_given: True)
    monkeypatch.setattr(restore, "Placement", Placed)
    monkeypatch.setattr(restore, "_run_to_target", run_to_target)
    owner = ["--owner", "nobody"] if os.geteuid() == 0 else []
    words = ["--config", str(config), "restore", "--at", "latest", "--into", str(place.target), "--start"]
    return [*words, "--hook", "/any", *owner], place


@pytest.mark.parametrize("started", [False, True])
def test_ctrl_c_says_in_which_state_it_left_the_directory_and_how_to_go_on_or_undo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], started: bool
) -> None:
    def interrupted(*_given: object, **_named: object) -> None:
        make()
        raise KeyboardInterrupt

    async def interrupted_later(*_given: object) -> int:
        raise KeyboardInterrupt

    def make(*_given: object, **_named: object) -> None:
        place.target.mkdir()
        place.folder.mkdir()
        (place.target / "postgresql.conf").touch()

    words, place = ready_to_start(tmp_path, monkeypatch, interrupted_later)
    monkeypatch.setattr(Placed, "carry_out", make if started else interrupted)
    assert main(words) == 130
    said = capsys.readouterr().err
    assert "error[WA-INTERRUPTED]" in said
    assert f"rm -r -- {place.target} {place.folder}" in said
    assert ("is unfinished" in said, "To go on: the same restore again, with --delta" in said) == (
        not started,
    ) * 2
    assert "To go on" in said
    if started:
        assert str(tmp_path / "bin" / "pg_ctl") in said


def test_the_place_of_an_earlier_restore_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "walarchiver.toml"
    config.write_text(f'[repository.main]\nurl = "file://{tmp_path}/none"\n[cluster.main]\n')
    place = Workplace.beside(tmp_path / "new")
    place.make(None)
    place.plan_path.write_text("{}")
    words = ["--config", str(config), "restore", "--at", "latest", "--into", str(place.target)]
    assert main(words) == 2
    assert "an earlier restore into" in capsys.readouterr().err
    assert not place.target.exists()


def test_a_hook_that_cannot_be_run_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For instance one in root's own environment, when another user is to own the new cluster."""
    config = tmp_path / "walarchiver.toml"
    config.write_text(f'[repository.main]\nurl = "file://{tmp_path}/none"\n[cluster.main]\n')
    hook = tmp_path / "walarchiver-hook"
    words = ["--config", str(config), "restore", "--at", "latest", "--into", str(tmp_path / "new")]
    for mode in (0o755, 0o644):
        hook.write_text("#!/bin/sh\necho no module named walarchiver >&2\nexit 200\n")
        hook.chmod(mode)
        assert main([*words, "--hook", str(hook)]) == 2
        assert f"cannot run {hook}: " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_server_that_was_just_being_started_is_stopped_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[str] = []
    go_on = threading.Event()
    entered = threading.Event()

    class Played:
        def __init__(self, *_given: object) -> None:
            pass

        def start(self) -> None:
            entered.set()
            go_on.wait(30)
            acts.append("started")

        def stop(self) -> None:
            acts.append("stopped")

    @asynccontextmanager
    async def served(*_given: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(fetched=0)

    monkeypatch.setattr(restore, "Instance", Played)
    monkeypatch.setattr(restore, "plan_served", served)
    monkeypatch.setattr(restore, "find_programs", lambda *_given, **_named: tmp_path)

    async def story() -> None:
        running = asyncio.create_task(
            restore._run_to_target(job(Context.plain(), Workplace.beside(tmp_path / "new")))
        )
        await asyncio.to_thread(entered.wait, 30)
        running.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(story())
    assert acts == ["started", "stopped"]


def test_an_interrupted_unpacking_ends_at_once_and_not_with_the_last_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []
    closed = threading.Event()

    def fetched(_archive: object, part: BackupPart) -> bytes:
        begun.append(part.n)
        if part.n:
            closed.wait(30)
        return b"x"

    class Pace:
        def take(self, count: int) -> None:
            if len(taken) == 3:
                raise KeyboardInterrupt
            taken.append(count)

    def close(gate: pipeline._Gate, failure: BaseException) -> None:
        close_gate(gate, failure)
        closed.set()

    taken: list[int] = []
    close_gate = pipeline._Gate.close
    monkeypatch.setattr(pipeline._Gate, "close", close)
    monkeypatch.setattr(pipeline, "fetched", fetched)
    monkeypatch.setattr(pipeline, "write_part", lambda *_given: None)
    stored = StoredObject("part", 1, "0" * 64, None)
    tasks = [
        pipeline.Task("b", BackupPart(n, "tar", 0, n, 1, "", stored), cast(StreamWriter, None))
        for n in range(100)
    ]
    with pytest.raises(KeyboardInterrupt):
        pipeline.unpack_all(cast(Archive, None), tasks, workers=1, pace=cast(pacing.Pace, Pace()))
    assert set(begun) <= {0, 1, 2}, "only what was under way may end"
