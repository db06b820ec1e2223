"""What restores took on this host is kept for estimates, and nothing else depends on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from restore.core.estimate import Measured, Part, estimate, estimate_document, estimate_text
from restore.core.model import AtLatest, Decision, Verdict
from restore.core.planner import decide
from restore.rates import MEASURED_BYTES_MIN, note_rate, read_rates
from tests.restore_core.synthetic import SIZE, new_world
from walarchiver.core.history import TimelineHistory

DAY = 1_795_737_600_000_000
SLOW = Measured(bytes=10_000_000, us=5_000_000, at=DAY)


def decided(raw: int, segments: int) -> Decision:
    world, writer = new_world()
    writer.backup("b", 0)
    writer.commit(1, 700)
    writer.switch()
    writer.archive()
    found = decide(world.view(), AtLatest(), world.knowledge())
    assert found.backup is not None
    assert found.wal is not None
    wal = replace(found.wal, count=segments, bytes=segments * SIZE)
    return replace(found, backup=replace(found.backup, raw=raw), wal=wal)


def test_the_newest_measurement_of_each_part_is_kept(tmp_path: Path) -> None:
    assert read_rates(tmp_path) == {}
    note_rate(tmp_path, Part.FILES, SLOW)
    fast = replace(SLOW, us=1_000_000, at=DAY + 1)
    note_rate(tmp_path, Part.FILES, fast)
    note_rate(tmp_path, Part.REPLAY, SLOW)
    assert read_rates(tmp_path) == {Part.FILES: fast, Part.REPLAY: SLOW}
    assert [one.name for one in tmp_path.iterdir()] == ["rates.json"]


def test_what_took_next_to_nothing_is_not_kept(tmp_path: Path) -> None:
    note_rate(tmp_path, Part.FILES, replace(SLOW, bytes=MEASURED_BYTES_MIN - 1))
    note_rate(tmp_path, Part.FILES, replace(SLOW, us=0))
    assert read_rates(tmp_path) == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"files": 3}', '{"files": {"bytes": 1, "us": 0, "at": 1}}', '{"files": {}}']
)
def test_a_file_that_says_nothing_sensible_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rates.json").write_text(text)
    assert read_rates(tmp_path) == {}
    note_rate(tmp_path, Part.FILES, SLOW)
    assert read_rates(tmp_path) == {Part.FILES: SLOW}


def test_a_folder_that_cannot_be_written_or_is_not_there_stops_nobody(tmp_path: Path) -> None:
    note_rate(tmp_path / "none", Part.FILES, SLOW)
    assert read_rates(tmp_path / "none") == {}


def test_a_refusal_takes_no_time() -> None:
    refused = Decision(Verdict.GAP, "why", TimelineHistory(1))
    assert estimate(refused, {}) is None
    assert estimate_document(None) is None


def test_what_was_measured_counts_and_defaults_are_called_so() -> None:
    found = estimate(decided(raw=20_000_000, segments=100), {Part.FILES: SLOW})
    assert found is not None
    assert [round(one.seconds, 3) for one in found.parts] == [10.0, 2.097, 2.097]
    text = estimate_text(found)
    assert "files at 2.0 MB/s, measured here over 10.0 MB on 2026-11-27" in text
    assert "WAL fetch and replay by a default, not measured on this host yet" in text
    told = json.loads(json.dumps(estimate_document(found)))
    assert told["parts"]["files"] == {
        "seconds": 10,
        "bytes": 20_000_000,
        "bytes_per_second": 2_000_000,
        "measured": {"at": "2026-11-27T00:00:00.000000Z", "bytes": 10_000_000},
    }
    assert told["parts"]["replay"]["measured"] is None


def test_with_everything_measured_no_default_is_spoken_of() -> None:
    found = estimate(decided(raw=200_000_000_000, segments=1), dict.fromkeys(Part, SLOW))
    assert found is not None
    assert "default" not in estimate_text(found)
    assert estimate_text(found).startswith(
        "about 27.8 h, an estimate: files 27.8 h, WAL fetch under 1 s, replay under 1 s"
    )
