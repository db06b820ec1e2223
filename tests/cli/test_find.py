"""`find`: how its times are read, and what a waiting person sees."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from tests.kit.chance import SteppingClock
from walarchiver.assembly import Host
from walarchiver.cli.context import Context
from walarchiver.cli.find import _duration, _Pace
from walarchiver.cli.main import main

SEGMENT = 16 << 20


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--from", "2026-01-22 14:32:06"), "WA-WHEN-ZONE"),
        (("--from", "2025-10-26 02:30:00 Europe/Berlin"), "WA-WHEN-DST"),
        (("--from", "2999-01-01T00:00:00Z"), "WA-WHEN-FUTURE"),
        (("--from", "1 hour ago", "--to", "12/31/2025"), "WA-WHEN"),
    ],
)
def test_times_are_refused_as_those_of_a_plan_are(
    words: tuple[str, ...], code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "walarchiver.toml"
    config.write_text(f'[repository.main]\nurl = "file://{tmp_path}/none"\nroot = "x"\n[cluster.main]\n')
    assert main(["find", "--table", "t", *words, "--config", str(config), "--output", "json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == code
    assert error["hint"]


@dataclass
class Told:
    """Takes lines as a command's context does."""

    lines: list[str]

    def progress(self, line: str) -> None:
        self.lines.append(line)


@dataclass
class Clocked:
    clock: SteppingClock


def test_progress_tells_share_rate_and_time_left_and_a_second_walk() -> None:
    clock, told = SteppingClock(), Told([])
    pace = _Pace(cast(Context, told), cast(Host, Clocked(clock)), SEGMENT)
    clock.advance(1)
    pace.report(1, 400)
    assert told.lines == []  # not more often than every two seconds
    for done in (100, 101, 400):
        clock.advance(2.5)
        pace.report(done, 400)
    clock.advance(4)
    pace.report(1, 400)
    clock.advance(4)
    pace.report(2, 400)
    assert told.lines == [
        "find: 25 %, 100 of 400 segments, 479 MB/s, 10 s left",
        "find: 25 %, 101 of 400 segments, 282 MB/s, 18 s left",
        "find: 100 %, 400 of 400 segments, 790 MB/s, 0 s left",
        "find: 0 %, 1 of 400 segments once more, for files met on the way, 4 MB/s, 26 min 36 s left",
        "find: 0 %, 2 of 400 segments once more, for files met on the way, 4 MB/s, 26 min 32 s left",
    ]
    assert pace.elapsed_s() == pytest.approx(16.5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7290.0, "2 h 01 min")]
)
def test_times_left_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
