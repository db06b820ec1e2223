"""`walarchiver s3 probe`: ask a store itself whether it does what a repository needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from walarchiver.cli.context import Context
from walarchiver.operate.findings import exit_of, findings_text
from walarchiver.operate.storeprobe import chosen_repository, probe_store

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `s3`."""
    parser = subparsers.add_parser("s3", help="ask a store whether it does what is needed")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    probe = verbs.add_parser("probe", help="write, read, list, create again, remove one scratch object")
    probe.add_argument("--repository", metavar="NAME", help="may be left out when there is only one")


def run(context: Context, args: argparse.Namespace) -> int:
    assert args.verb == "probe"
    host = context.host()
    name = chosen_repository(host.settings, args.repository)
    probed = probe_store(host, name)
    text = f"repository {name} at {probed.url}\n{findings_text(probed.findings)}"
    context.result(
        text,
        {
            "repository": name,
            "url": probed.url,
            "properties": [
                {"name": one.name, "finding": one.finding.value, "line": one.line}
                for one in probed.properties
            ],
            "findings": [finding.members() for finding in probed.findings],
        },
    )
    return exit_of(probed.findings)
