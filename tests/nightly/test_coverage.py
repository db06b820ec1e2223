"""What `./dev coverage` says is measured on a copy, and fails loudly."""

from __future__ import annotations

import pytest

from tests.nightly import coverage
from tests.nightly.coverage import Counts, Measured, measured, table


@pytest.mark.nightly
def test_a_piece_is_measured_with_its_lines_and_branches() -> None:
    found = measured(["tests/core/test_crc32c.py"])
    assert found.failed == []
    assert found.files["walarchiver/core/crc32c.py"].lines > 0
    assert found.files["restore/fetcher.py"].branches == 0


@pytest.mark.nightly
def test_what_fails_or_does_not_end_is_named_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = coverage.PAGE.read_text()
    assert measured(["tests/core/test_crc32c.py"], limit_s=0.01).failed == ["tests/core/test_crc32c.py"]
    monkeypatch.setattr(coverage, "PIECES", ["tests/core/no_such_file.py"])
    assert coverage.main(["--write"]) == 1
    assert "tests/core/no_such_file.py" in capsys.readouterr().err
    assert coverage.PAGE.read_text() == page


def test_modules_below_the_bound_are_listed() -> None:
    files = {
        "walarchiver/core/good.py": Counts(96, 100, 10, 10),
        "walarchiver/core/low.py": Counts(50, 100, 0, 0),
        "walarchiver/elsewhere.py": Counts(0, 100, 0, 0),
    }
    text = table(Measured("abc", files, []))
    assert "| core | 73.0 % of 200 | 100.0 % of 10 |" in text
    assert "| `walarchiver/core/low.py` | 50.0 % of 100 | 100.0 % of 0 |" in text
    assert "good.py" not in text
    assert "elsewhere" not in text
