"""`walarchiver doctor`: examine everything that archiving and restoring depend on; --bundle for a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from walarchiver.cli.context import Context
from walarchiver.operate.bundle import write_bundle
from walarchiver.operate.doctor import examine
from walarchiver.operate.findings import exit_of, findings_text, worst

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser("doctor", help="examine PostgreSQL, storage, clocks, disks, keys")
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="write settings (masked), findings, versions, log as tar.gz",
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="the daemon's log for the bundle (default: the journal)"
    )


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    cluster = host.settings.cluster_name(context.cluster)
    examination = examine(host, cluster, context.progress)
    text = findings_text(examination.findings)
    members: dict[str, object] = {
        "cluster": cluster,
        "level": worst(examination.findings).value,
        "findings": [finding.members() for finding in examination.findings],
    }
    if args.bundle is not None:
        files = write_bundle(
            args.bundle,
            host.settings,
            examination,
            log=args.log,
            now_s=host.clock.now_us() // 1_000_000,
        )
        text += (
            f"\n\nwrote {args.bundle}: {', '.join(files)}. Secrets are masked; read it before you send it."
        )
        members["bundle"] = {"path": str(args.bundle), "files": list(files)}
    context.result(text, members)
    return exit_of(examination.findings)
