"""`walarchiver check`: prove archiving end to end, with a line per condition or one for a monitor.

Rules:
- `--nagios` prints one line and exits 0, 1 or 2 (monitoring plugins' OK, WARNING, CRITICAL), whatever
  happens, also when the configuration cannot be read.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from walarchiver.cli.asking import prove_horizon
from walarchiver.cli.context import Context
from walarchiver.errors import WalarchiverError
from walarchiver.operate.check import CheckReport, CheckRequest, Thresholds, run_check
from walarchiver.operate.findings import Level, exit_of, findings_text, worst
from walarchiver.settings_kinds import DURATION

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

_DEFAULTS = Thresholds()
_NAGIOS = {Level.OK: (0, "OK"), Level.WARN: (1, "WARNING"), Level.FAIL: (2, "CRITICAL")}


def register(subparsers: Subparsers) -> None:
    """Add `check`."""
    parser = subparsers.add_parser("check", help="prove archiving end to end with a forced WAL switch")
    parser.add_argument("--nagios", action="store_true", help="one line and exit 0, 1 or 2, with perfdata")
    parser.add_argument(
        "--wait", type=_seconds, default=60.0, metavar="SECONDS", help="for the forced segment (default 60)"
    )
    for option, value, what in (
        ("restorable-warning", _DEFAULTS.restorable_warning, "the latest restorable second"),
        ("restorable-critical", _DEFAULTS.restorable_critical, "the latest restorable second"),
        ("backup-warning", _DEFAULTS.backup_warning, "the newest base backup"),
        ("backup-critical", _DEFAULTS.backup_critical, "the newest base backup"),
    ):
        parser.add_argument(
            f"--{option}",
            type=_duration,
            default=value,
            metavar="AGE",
            help=f"age of {what}, such as 15m or 8d (default {DURATION.show(value)[1:-1]})",
        )


def run(context: Context, args: argparse.Namespace) -> int:
    if args.nagios:
        return _nagios(context, args)
    report = _report(context, args)
    text = findings_text(report.findings)
    context.result(text, _members(report))
    return exit_of(report.findings)


def _report(context: Context, args: argparse.Namespace) -> CheckReport:
    host = context.host()
    cluster = host.settings.cluster_name(context.cluster)
    request = CheckRequest(
        cluster=cluster,
        wait_s=args.wait,
        thresholds=Thresholds(
            restorable_warning=args.restorable_warning,
            restorable_critical=args.restorable_critical,
            backup_warning=args.backup_warning,
            backup_critical=args.backup_critical,
        ),
        progress=context.progress,
        prove_horizon=lambda: prove_horizon(host, cluster),
    )
    return run_check(host, request)


def _members(report: CheckReport) -> dict[str, object]:
    return {
        "level": worst(report.findings).value,
        "segment": report.segment,
        "archive_seconds": report.archive_s,
        "restorable_age_seconds": report.restorable_age_s,
        "backup_age_seconds": report.backup_age_s,
        "findings": [finding.members() for finding in report.findings],
    }


def _nagios(context: Context, args: argparse.Namespace) -> int:
    try:
        report = _report(context, args)
    except WalarchiverError as error:
        status, word = _NAGIOS[Level.FAIL]
        context.result(
            f"WALARCHIVER {word}: {_one_line(error.message)}", {"level": "fail", "code": error.code}
        )
        return status
    status, word = _NAGIOS[worst(report.findings)]
    faults = [finding for finding in report.findings if finding.level is not Level.OK]
    faults.sort(key=lambda finding: finding.level is not Level.FAIL)
    said = "; ".join(_one_line(finding.text) for finding in faults) or _all_well(report)
    context.result(f"WALARCHIVER {word}: {said} | {_perfdata(report, args)}", _members(report))
    return status


def _all_well(report: CheckReport) -> str:
    assert report.restorable_age_s is not None
    return f"latest restorable second {report.restorable_age_s:.0f} s ago, {report.segment} archived"


@dataclass(frozen=True, slots=True)
class _Measure:
    label: str
    value: float | None
    warning: timedelta | None = None
    critical: timedelta | None = None

    def __str__(self) -> str:
        value = "U" if self.value is None else f"{self.value:.3f}s"
        limits = [
            "" if limit is None else f"{limit.total_seconds():.0f}" for limit in (self.warning, self.critical)
        ]
        return f"{self.label}={value};{limits[0]};{limits[1]};0"


def _perfdata(report: CheckReport, args: argparse.Namespace) -> str:
    measures = (
        _Measure(
            "restorable_age", report.restorable_age_s, args.restorable_warning, args.restorable_critical
        ),
        _Measure("backup_age", report.backup_age_s, args.backup_warning, args.backup_critical),
        _Measure("archive_time", report.archive_s),
    )
    return " ".join(str(measure) for measure in measures)


def _one_line(text: str) -> str:
    """Without what ends the text of a plugin's line: a line end, or the bar before perfdata."""
    return " ".join(text.replace("|", "/").split())


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise ValueError(text)
    return value


def _duration(text: str) -> timedelta:
    return DURATION.read(text)
