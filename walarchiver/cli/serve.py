"""`walarchiver serve`: the daemon; with --plan it serves one restored instance."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING

from walarchiver.assembly import Host
from walarchiver.cli.context import Context
from walarchiver.leaving import leave
from walarchiver.log import LogFormat, configure_logging
from walarchiver.systemd import Notifier, passed_socket

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `serve`."""
    parser = subparsers.add_parser("serve", help="the daemon behind archive_command and restore_command")
    parser.add_argument(
        "--plan", metavar="ID", help="serve one restored instance: a plan's id, or the path of its plan.json"
    )


def run(context: Context, args: argparse.Namespace) -> int:
    host = Host.here(context.settings())
    server = host.settings.server
    configure_logging(host.clock, level=server.log_level, form=LogFormat(server.log_format))
    if args.plan is not None:
        from restore.planserver import serve_plan

        asyncio.run(serve_plan(host, args.plan))
        return leave(host.clock)

    import importlib.metadata

    from walarchiver.service import Service  # `--help` and `--plan` do without the archiver

    notifier = Notifier.of(os.environ)
    passed = passed_socket(os.environ, server.socket)

    async def serve() -> None:
        service = Service(host, version=importlib.metadata.version("walarchiver"))
        await service.run(notifier=notifier, passed=passed)

    asyncio.run(serve())
    return leave(host.clock)
