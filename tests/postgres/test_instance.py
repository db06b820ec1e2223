"""A restored cluster runs privately, and where its recovery ended is told from evidence."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from restore.instance import Instance, Outcome, find_programs, find_server_programs
from restore.recoverylog import parse_history_end, parse_log
from restore.workplace import Workplace
from tests.postgres.taken import DIGEST, Taken, owner, recover_from, unpack
from walarchiver.cli.restorelines import commands_of, pg_ctl_line
from walarchiver.clock import SystemClock
from walarchiver.core.lsn import Lsn, format_lsn, parse_lsn
from walarchiver.errors import BinariesMissing, DeadlineExceeded, RestoreFailed
from walarchiver.postgres.probe import RecoveryState, resume_recovery
from walarchiver.postgres.process import run_program

CLOCK = SystemClock()
QUICK = {"fsync": "off", "shared_buffers": "16MB"}


def restored(taken: Taken, folder: Path, settings: dict[str, str]) -> Instance:
    target = folder / "restored"
    made = unpack(taken, target)
    recover_from(taken, target, settings)
    made.publish()
    return Instance(taken.bin_dir, target, folder / "run", settings=QUICK)


def rows(instance: Instance, table: str) -> str:
    with psycopg.connect(instance.dsn()) as connection:
        row = connection.execute(DIGEST.format(table).encode()).fetchone()
        assert row is not None
        return str(row[0])


def test_rows_are_those_of_the_moment_before_the_delete(taken: Taken, pg_folder: Path) -> None:
    target = {
        "recovery_target_lsn": format_lsn(taken.delete_at),
        "recovery_target_inclusive": "off",
        "recovery_target_action": "promote",
    }
    seen: list[RecoveryState] = []
    with restored(taken, pg_folder, target) as instance:
        reached = instance.start().watch(CLOCK, timeout_s=60, progress=seen.append)
        assert reached.outcome is Outcome.PROMOTED
        assert reached.met_target
        assert reached.log.stop_lsn is not None
        assert reached.log.stop_lsn >= taken.delete_at
        assert reached.log.inclusive is False
        assert reached.log.new_timeline == 2
        assert reached.log.fatal is None
        assert reached.log.redo_start == taken.result.start_lsn
        assert reached.history is not None
        assert (reached.history.timeline, reached.history.parent) == (2, 1)
        assert reached.history.reason.startswith("before LSN")
        # Before the record that met the target: it was read, not replayed, and the fork is there.
        assert reached.log.redo_done == reached.log.stop_lsn == reached.history.switch
        assert taken.result.stop_lsn < reached.history.switch
        assert reached.replay_lsn == reached.history.switch
        assert {table: rows(instance, table) for table in taken.contents} == taken.contents
        assert not seen[-1].in_recovery
        assert seen[-1].timeline == 2
        with psycopg.connect(instance.dsn(), autocommit=True) as connection:
            shown = [
                connection.execute(f"SHOW {name}").fetchone()  # type: ignore[arg-type]
                for name in ("listen_addresses", "archive_mode", "max_logical_replication_workers")
            ]
        assert shown == [("",), ("off",), ("0",)]
    assert instance.pid is None


def last_commit(taken: Taken) -> tuple[Lsn, datetime]:
    """Start and time of the last COMMIT record in the archive, by pg_waldump."""
    first, *_, last = sorted(path.name for path in taken.archive.iterdir() if len(path.name) == 24)
    arguments = ("-r", "Transaction", "-p", str(taken.archive), first, last)
    done = run_program(
        taken.bin_dir, "pg_waldump", *arguments, run_as=owner(), cwd=taken.archive, timeout_s=60
    )
    line = [line for line in done.stdout.splitlines() if "desc: COMMIT" in line][-1]
    found = re.search(r"lsn: ([0-9A-F/]+),.*COMMIT (\S+ \S+) UTC", line)
    assert found is not None
    return parse_lsn(found[1]), datetime.fromisoformat(found[2] + "+00:00")


def test_an_inclusive_stop_at_a_commit_has_it_but_the_log_shows_the_time_before(
    taken: Taken, pg_folder: Path
) -> None:
    lsn, time = last_commit(taken)
    target = {"recovery_target_lsn": format_lsn(lsn), "recovery_target_action": "promote"}
    with restored(taken, pg_folder, target) as instance:
        reached = instance.start().watch(CLOCK, timeout_s=60)
        assert reached.outcome is Outcome.PROMOTED
        assert (reached.log.stop_lsn, reached.log.inclusive) == (lsn, True)
        assert reached.log.redo_done == lsn
        assert reached.history is not None
        assert reached.history.switch > lsn
        assert rows(instance, "big") == "None"  # the DELETE is part of the state
        assert reached.log.last_commit is not None
        assert datetime.fromisoformat(reached.log.last_commit) < time


def test_a_pause_at_the_target_is_told_and_can_be_ended(taken: Taken, pg_folder: Path) -> None:
    target = {"recovery_target": "immediate", "recovery_target_action": "pause"}
    with restored(taken, pg_folder, target) as instance:
        reached = instance.start().watch(CLOCK, timeout_s=60)
        assert reached.outcome is Outcome.PAUSED
        assert reached.met_target
        assert reached.history is None
        assert reached.log.new_timeline is None
        assert reached.replay_lsn is not None
        assert reached.replay_lsn >= taken.result.stop_lsn
        resume_recovery(instance.dsn())
        assert instance.watch(CLOCK, timeout_s=60).outcome is Outcome.PROMOTED


def test_a_target_that_is_never_met_stops_the_server_with_its_reason(taken: Taken, pg_folder: Path) -> None:
    target = {"recovery_target_lsn": "F/0", "recovery_target_action": "promote"}
    with restored(taken, pg_folder, target) as instance:
        reached = instance.start().watch(CLOCK, timeout_s=60)
        assert reached.outcome is Outcome.STOPPED
        assert not reached.met_target
        assert reached.log.fatal == "recovery ended before configured recovery target was reached"
        assert (instance.data_dir / "recovery.signal").exists()


def test_a_recovery_that_waits_for_ever_is_bounded_by_the_caller(taken: Taken, pg_folder: Path) -> None:
    with restored(taken, pg_folder, {"restore_command": "sleep 1000"}) as instance:
        with pytest.raises(DeadlineExceeded):
            instance.start().watch(CLOCK, timeout_s=1)
        assert instance.pid is not None
        instance.kill()


def test_a_role_that_the_cluster_does_not_have_is_named_at_once(taken: Taken, pg_folder: Path) -> None:
    """Not at the end of the patience with which recovery is watched, which is a day."""
    target = {"recovery_target": "immediate", "recovery_target_action": "promote"}
    with restored(taken, pg_folder, target) as instance:
        with pytest.raises(RestoreFailed, match="no role 'nobody-here'") as told:
            instance.start().watch(CLOCK, timeout_s=3600, user="nobody-here")
        assert "--user" in told.value.next_step


def test_configuration_that_lay_outside_is_replaced(taken: Taken, pg_folder: Path) -> None:
    target = pg_folder / "restored"
    made = unpack(taken, target)
    recover_from(taken, target, {"recovery_target": "immediate", "recovery_target_action": "promote"})
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (target / name).unlink()
    made.publish()
    with Instance(taken.bin_dir, target, pg_folder / "run", settings=QUICK) as instance:
        assert instance.start().watch(CLOCK, timeout_s=60).outcome is Outcome.PROMOTED


def test_a_cluster_without_its_configuration_starts_with_the_printed_line(
    taken: Taken, pg_folder: Path
) -> None:
    place = Workplace(pg_folder / "restored")
    made = unpack(taken, place.target)
    recover_from(taken, place.target, {"recovery_target": "immediate", "recovery_target_action": "promote"})
    (place.target / "postgresql.conf").unlink()
    made.publish()
    place.make(owner())
    settings = Instance(taken.bin_dir, place.target, place.instance, settings=QUICK).prepare()
    user = pwd.getpwuid(place.target.stat().st_uid).pw_name if os.geteuid() == 0 else None
    lines = commands_of(place, Path("x.toml"), owner=user, bin_dir=taken.bin_dir, settings=settings)
    subprocess.run(["/bin/sh", "-c", lines.start], check=True, timeout=60, cwd="/")
    stop = pg_ctl_line(taken.bin_dir, place, user, "-m", "immediate", "stop")
    subprocess.run(["/bin/sh", "-c", stop], check=True, timeout=60, cwd="/")
    assert "listening on Unix socket" in place.log.read_text()


def test_configuration_that_names_another_data_directory_does_not_start_that_one(
    taken: Taken, pg_folder: Path
) -> None:
    """It may be the original's, which nobody may start but its owner."""
    target = {"recovery_target": "immediate", "recovery_target_action": "promote"}
    instance = restored(taken, pg_folder, target)
    with (instance.data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"data_directory = '{pg_folder}/original'\n")
    with instance:
        assert instance.start().watch(CLOCK, timeout_s=60).outcome is Outcome.PROMOTED
        with psycopg.connect(instance.dsn()) as connection:
            assert connection.execute("SHOW data_directory").fetchone() == (str(instance.data_dir),)


def test_programs_are_found_for_the_major_of_the_data_directory(taken: Taken, tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text(f"{taken.major}\n")
    assert find_server_programs(tmp_path, bin_dir=taken.bin_dir) == taken.bin_dir
    asked: list[int] = []

    def nowhere(major: int) -> None:
        asked.append(major)

    found = find_server_programs(tmp_path, search=(nowhere, lambda _major: taken.bin_dir))
    assert found == taken.bin_dir
    assert asked == [taken.major]
    with pytest.raises(BinariesMissing, match=f"no programs of PostgreSQL {taken.major}"):
        find_server_programs(tmp_path, search=(nowhere,))


def test_programs_of_another_major_are_refused(taken: Taken, tmp_path: Path) -> None:
    with pytest.raises(
        BinariesMissing, match=f"has PostgreSQL {taken.major}, but the backup is of PostgreSQL 13"
    ):
        find_programs(13, bin_dir=taken.bin_dir)
    with pytest.raises(BinariesMissing, match="has no postgres program"):
        find_programs(13, bin_dir=tmp_path)
    with pytest.raises(RestoreFailed, match="PG_VERSION"):
        find_server_programs(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_a_data_directory_of_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="does not run as root"):
        Instance(tmp_path, tmp_path, Path("/tmp/x"))


STOPS = [
    ('recovery stopping before WAL location (LSN) "0/3000148"', Lsn(0x3000148), False),
    ('recovery stopping after WAL location (LSN) "16/B374D848"', Lsn(0x16B374D848), True),
    ("recovery stopping before commit of transaction 741, time 2026-11-22 14:32:06.1+00", None, False),
    ("recovery stopping after commit of transaction 741, time 2026-11-22 14:32:06.1+00", None, True),
    ('recovery stopping at restore point "x", time 2026-11-22 14:32:06.1+00', None, True),
    ("recovery stopping after reaching consistency", None, True),
]


@pytest.mark.parametrize(("line", "lsn", "inclusive"), STOPS)
def test_every_kind_of_stop_line_is_understood(line: str, lsn: Lsn | None, inclusive: bool) -> None:
    log = parse_log(f"2026-11-22 14:32:06.000 UTC [7] LOG:  {line}\n")
    assert (log.stop, log.stop_lsn, log.inclusive) == (line, lsn, inclusive)


def test_a_log_without_a_stop_line_claims_nothing() -> None:
    log = parse_log("x LOG:  redo done at 0/3000148 system usage: CPU\nx LOG:  archive recovery complete\n")
    assert (log.stop, log.stop_lsn, log.inclusive, log.redo_done) == (None, None, None, Lsn(0x3000148))


def test_a_history_reason_with_a_line_end_is_read_whole() -> None:
    content = b"1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2000-01-01\nUTC\n"
    end = parse_history_end(3, content)
    assert (end.parent, end.switch, end.reason) == (2, Lsn(0x5000000), "before 2000-01-01\nUTC")
