"""`walarchiver timeline`: what is drawn and listed is what the archive holds."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.integration.gaps import lose_segment
from tests.integration.scene import Scene, Scenes, until
from tests.kit.postgres import seldom
from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, EventKind
from walarchiver.operate.chronicle import Chronicle, Damage, ForkPoint, Hole, Span, Stretch
from walarchiver.operate.contents import Activity, NamedPoint, PreparedSpan, Told
from walarchiver.operate.drawing import COLUMNS, Axis, draw
from walarchiver.restorable import recoverable


def promote(scene: Scene) -> None:
    """Stop the primary, start it as a standby, promote it: the next timeline begins."""
    cluster = scene.cluster
    cluster.stop()
    signal = cluster.data_dir / "standby.signal"
    signal.touch()
    if cluster.run_as is not None:
        os.chown(signal, cluster.run_as.uid, cluster.run_as.gid)
    cluster.start()
    assert cluster.psql("SELECT pg_promote()") == "t"
    until(lambda: cluster.psql("SELECT pg_is_in_recovery()") == "f", "the promotion")


@pytest.mark.usefixtures("major")
@pytest.mark.parametrize("major", [18, *seldom(15)], indirect=True)
def test_backups_gaps_forks_and_restorable_spans_are_told(scenes: Scenes) -> None:
    scene = scenes.make()
    (first,) = scene.json("backup")["backups"]
    scene.archive_all()
    status = scene.restorable()
    before = scene.json("timeline")
    assert [one["id"] for one in before["backups"]] == [first["id"]]
    (stretch,) = before["wal"]
    assert stretch["last"] == status["last_segment"]
    assert stretch["segments"] == status["segments"]
    assert before["gaps"] == before["forks"] == []
    (span,) = before["restorable"]
    assert span["from"] == first["stop_time"]
    assert status["latest_restorable"] <= span["to"] <= before["to"]
    assert before["not_known"]

    lost = lose_segment(scene)
    scene.archive_all()
    (second,) = scene.json("backup")["backups"]
    scene.cluster.psql("SELECT pg_create_restore_point('before it')")
    promote(scene)
    scene.archive_all()
    scene.stage.stop_server()  # which proves another second whenever it is asked
    after = scene.json("timeline")
    (gap,) = after["gaps"]
    assert (gap["first"], gap["last"], gap["segments"]) == (lost, lost, 1)
    (fork,) = after["forks"]
    assert (fork["timeline"], fork["parent"]) == (2, 1)
    assert parse_lsn(fork["switch_lsn"]) >= parse_lsn(second["stop_lsn"])
    assert after["timeline"] == 2
    assert {one["timeline"] for one in after["wal"]} == {1, 2}
    spans = {(one["backup"], one["timeline"]): one for one in after["restorable"]}
    assert spans.keys() == {(b, t) for b in (first["id"], second["id"]) for t in (1, 2)}
    assert spans[first["id"], 1]["last_segment"] < lost
    assert spans[second["id"], 2]["last_segment"].startswith("00000002")
    (point,) = [one for one in after["restore_points"] if one["timeline"] == 1]
    assert (point["name"], point["timeline"]) == ("before it", 1)
    assert second["stop_time"] < point["time"] < fork["recorded"]
    assert [one["timeline"] for one in after["recoverable"]] == [1, 2]
    assert scene.json("status")["recoverable"] == after["recoverable"]
    for one in after["recoverable"]:
        assert one["earliest"] == one["intervals"][0]["from"]
        assert one["latest"] == one["intervals"][-1]["to"]
    assert {one["scanned"] == one["segments"] for one in after["wal"]} == {True}
    assert sum(one["commits"] for one in after["wal"]) > 0

    text = scene.call("timeline").stdout
    lanes = dict(re.findall(rf"^(\S[^|\n]*?) +\|(.{{{COLUMNS}}})\|$", text, re.MULTILINE))
    assert lanes.keys() >= {"backups", "timeline 1", "timeline 2", "restorable"}
    assert lanes["backups"].count("B") == 2
    assert "x" in lanes["timeline 1"]
    assert "Y" in lanes["timeline 2"]
    assert f"{lost} to {lost} (1 segments) are missing" in text
    assert "No WAL was opened" in text
    assert "'before it' at " in text
    assert "*" in lanes["points 1"]
    assert "c" in lanes["commits 1"]


def test_the_axis_can_be_cut_and_odd_bounds_are_refused(scenes: Scenes) -> None:
    scene = scenes.make()
    (first,) = scene.json("backup")["backups"]
    scene.archive_all()
    early = scene.json("timeline", "--to", first["start_time"])
    assert early["restorable"] == []
    assert early["to"] == first["start_time"]
    late = scene.json("timeline", "--from", first["stop_time"])
    assert late["from"] == first["stop_time"]
    assert late["backups"]
    for words in (
        ("--from", "latest"),
        ("--from", "2026-01-01 00:00"),
        ("--from", first["stop_time"], "--to", first["start_time"]),
    ):
        told = scene.call("timeline", *words, "--output", "json")
        assert told.exit_status == 2, words
        assert told.error["hint"]


def test_an_empty_archive_is_drawn_too(scenes: Scenes) -> None:
    scene = scenes.make()
    told = scene.json("timeline")
    assert told["backups"] == told["wal"] == told["restorable"] == []
    assert scene.call("timeline").exit_status == 0


# --- drawing -------------------------------------------------------------------------------------

SECOND = 1_000_000
AXIS = Axis(0, COLUMNS * SECOND)


def chronicle(
    stretches: tuple[Stretch, ...] = (),
    holes: tuple[Hole, ...] = (),
    forks: tuple[ForkPoint, ...] = (),
    spans: tuple[Span, ...] = (),
) -> Chronicle:
    return Chronicle(1, (), stretches, holes, forks, spans)


def event(kind: EventKind, xid: int, at: int, gid: str | None = None) -> Event:
    return Event(kind, Lsn(at), Lsn(at + 8), xid, CommitTime(at), gid)


def lane(drawn: str, name: str) -> str:
    found = re.search(rf"^{name} +\|(.*)\|$", drawn, re.MULTILINE)
    assert found is not None, drawn
    return found[1]


def test_a_hole_is_drawn_between_its_neighbours_and_never_lost() -> None:
    for width in (0, 1, 5):
        left, right = 10 * SECOND, (10 + width) * SECOND
        drawn = lane(
            draw(
                chronicle(
                    (
                        Stretch(1, "A", "B", 9, 0, left),
                        Stretch(1, "D", "E", 9, right, 40 * SECOND),
                    ),
                    (Hole(1, "C", "C", 1, left, right),),
                ),
                AXIS,
            ),
            "timeline 1",
        )
        assert drawn.count("x") == max(1, width - 1)
        assert drawn.rstrip() == "=" * drawn.index("x") + "x" * drawn.count("x") + "=" * (
            41 - drawn.index("x") - drawn.count("x")
        )


def test_lanes_of_spans_tell_proven_seconds_from_a_bare_backup() -> None:
    drawn = draw(
        chronicle(
            spans=(
                Span("a", 1, CommitTime(5 * SECOND), CommitTime(9 * SECOND), "S"),
                Span("b", 1, CommitTime(20 * SECOND), None, "S"),
            )
        ),
        AXIS,
    )
    assert lane(drawn, "restorable").rstrip() == " " * 5 + "#####" + " " * 10 + "?"


def test_what_lies_outside_the_axis_is_neither_drawn_nor_listed() -> None:
    whole = chronicle(
        (Stretch(1, "A", "B", 2, 0, SECOND), Stretch(1, "D", "E", 2, 90 * SECOND, 95 * SECOND)),
        (Hole(1, "C", "C", 1, SECOND, 90 * SECOND),),
        (ForkPoint(2, 1, Lsn(5), 95 * SECOND),),
    )
    cut = whole.within(10 * SECOND, 20 * SECOND)
    assert cut.stretches == ()
    assert cut.forks == ()
    assert cut.holes == whole.holes
    drawn = draw(whole, Axis(2 * SECOND, 20 * SECOND))
    assert "=" not in lane(drawn, "timeline 1")
    assert lane(drawn, "timeline 1") == "x" * COLUMNS


def test_columns_are_in_order_for_every_moment() -> None:
    columns = [AXIS.column(us) for us in range(-SECOND, (COLUMNS + 2) * SECOND, SECOND // 3)]
    assert all(one <= other for one, other in pairwise(columns))
    assert (columns[0], columns[-1]) == (0, COLUMNS - 1)
    assert Axis(7, 7).column(7) == 0


def test_what_scans_tell_is_drawn_and_listed() -> None:
    told = Told(3, 1200, 5 * SECOND, 30 * SECOND, event(EventKind.COMMIT, 740, 30 * SECOND))
    begun = event(EventKind.PREPARE, 700, 6 * SECOND, "one")
    whole = replace(
        chronicle((Stretch(1, "A", "D", 4, 0, 40 * SECOND, told),)),
        damage=(Damage(1, "B", "record at 0/28 fails its checksum", 12 * SECOND),),
        points=(NamedPoint(1, "mark", Lsn(0x300), 20 * SECOND),),
        prepared=(
            PreparedSpan(begun, event(EventKind.ABORT_PREPARED, 700, 9 * SECOND)),
            PreparedSpan(event(EventKind.PREPARE, 701, 60 * SECOND), None),
        ),
        activity=(
            Activity(1, 5 * SECOND, 8 * SECOND, dense=False),
            Activity(1, 15 * SECOND, 17 * SECOND, dense=True),
        ),
    )
    drawn = draw(whole, AXIS)
    assert lane(drawn, "commits 1").rstrip() == " " * 5 + "c  c" + " " * 6 + "ccc"
    assert lane(drawn, "points 1").rstrip() == " " * 20 + "*"
    assert lane(drawn, "prepared") == " " * 6 + "pppp" + " " * 50 + "p" * 12
    assert lane(drawn, "timeline 1")[12] == "!"
    for words in (
        "1,200 commits, transactions from 1970-01-01 00:00:05Z to 1970-01-01 00:00:30Z; the last commit is "
        "transaction 740; 1 segments are not scanned",
        "'one', transaction 700, rolled back at 1970-01-01 00:00:09Z",
        "transaction 701, still prepared at the end of the WAL",
        "B cannot be followed: record at 0/28 fails its checksum",
        "'mark' at 0/300 on timeline 1",
    ):
        assert words in drawn, words
    cut = whole.within(50 * SECOND, 70 * SECOND)
    assert (cut.damage, cut.points, cut.activity) == ((), (), ())
    assert [one.begun.xid for one in cut.prepared] == [701]


def test_intervals_that_touch_are_one() -> None:
    def span(backup: str, timeline: int, first: int, last: int | None) -> Span:
        return Span(backup, timeline, CommitTime(first), None if last is None else CommitTime(last), "S")

    found = recoverable(
        [
            span("a", 1, 5, 9),
            span("c", 1, 20, 30),
            span("b", 1, 10, 12),
            span("d", 1, 40, None),
            span("a", 2, 5, 8),
        ]
    )
    assert [(one.timeline, one.intervals) for one in found] == [(1, ((5, 12), (20, 30))), (2, ((5, 8),))]
    assert (found[0].earliest, found[0].latest) == (5, 30)
    assert recoverable([span("d", 1, 40, None)]) == ()
