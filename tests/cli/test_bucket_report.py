"""What is told of the bucket's part of a restore when not all of it went as planned."""

from __future__ import annotations

from restore.bucketjournal import Outcome, Result
from restore.bucketrestore import Report
from restore.core.bucketactions import Kind
from walarchiver.cli.bucketreport import left_lines, report_status


def test_what_failed_or_was_left_is_named() -> None:
    report = Report()
    for key, kind, outcome in (
        ("well", Kind.COPY, Outcome.DONE),
        ("bad", Kind.COPY, Outcome.FAILED),
        ("gone", Kind.LOST, Outcome.LEFT),
    ):
        report.add(Result(line=0, to=key, kind=kind, outcome=outcome, why=f"why {key}"))
    lines = left_lines(report)
    assert report_status(report) == 1
    assert "1  FAILED" in lines
    assert [line for line in lines if "bad: copy: why bad" in line or "gone: lost: why gone" in line]
