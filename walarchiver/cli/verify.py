"""`walarchiver verify [--deep]`: read every recorded byte again and compare it; needs no key unless deep."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from walarchiver.assembly import Archive, Host, open_archive
from walarchiver.cli.context import Context
from walarchiver.errors import KeyCannotOpen, TargetInGap, Untrusted
from walarchiver.operate.verify import Progress, Verification, VerifyRequest, verify
from walarchiver.operate.verifyjournal import Journal

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

DEGRADED = 3


def register(subparsers: Subparsers) -> None:
    """Add `verify`."""
    parser = subparsers.add_parser("verify", help="read every stored byte again and compare its hash")
    parser.add_argument("--deep", action="store_true", help="also open everything with this host's identity")
    parser.add_argument("--repository", metavar="NAME", help="default: the cluster's first")
    parser.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")
    parser.add_argument("--restart", action="store_true", help="do not go on with an interrupted run")


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    if args.repository is not None:
        host.settings.repository(args.repository)
    archive = open_archive(host, context.cluster, system=args.system, repository_name=args.repository)
    journal = Journal(
        _journal_path(host, archive, deep=args.deep), deep=args.deep, clock=host.clock, restart=args.restart
    )
    if journal.resumed:
        context.progress(f"verify: going on with an interrupted run, {len(journal.done)} items are done")

    def progress(state: Progress) -> None:
        context.progress(f"verify: {_progress_text(state)}")

    found = verify(
        archive,
        VerifyRequest(
            deep=args.deep,
            workers=host.settings.server.workers,
            memory=host.settings.server.memory,
            journal=journal,
            clock=host.clock,
            progress=progress,
        ),
    )
    journal.finish()
    context.result(_text(archive, found), _members(archive, found))
    if found.damaged:
        return Untrusted.exit_status
    if found.unopened:
        return KeyCannotOpen.exit_status
    return DEGRADED if found.gaps else 0


def _journal_path(host: Host, archive: Archive, *, deep: bool) -> Path:
    name = f"{archive.repository.repo}-{archive.system}{'-deep' if deep else ''}.journal"
    return host.settings.server.state / "verify" / name


def _progress_text(state: Progress) -> str:
    left = "" if state.seconds_left is None else f", {state.seconds_left:,.0f} s left"
    return (
        f"{state.items:,} of {state.items_total:,} items, {state.bytes / 1e6:,.1f} of "
        f"{state.bytes_total / 1e6:,.1f} MB{left}"
    )


def _text(archive: Archive, found: Verification) -> str:
    how = "opened and compared with their digests" if found.deep else "compared with their hashes"
    lines = [
        f"cluster {archive.cluster.name} (system {archive.system}) in {archive.repository.store.url}",
        f"{found.items:,} items, {found.bytes / 1e6:,.1f} MB {how} in {found.seconds:,.1f} s"
        + (f", {found.skipped:,} of them by the interrupted run before" if found.skipped else ""),
    ]
    for damage in found.damaged:
        lines.append(f"damaged  {damage.name}: {damage.message} ({damage.code})")
        lines += [f"         object {key}" for key in damage.keys]
        lines.append(f"         affects: {damage.affects}")
    lines += [f"unopened {one.items:,} items, compared by hash only: {one.message}" for one in found.unopened]
    lines += [f"gap      WAL is missing from {first} to {last}" for first, last in found.gaps]
    if found.damaged:
        lines.append("next: look for other versions or copies of these objects; take a base backup now")
    elif found.unopened:
        lines.append(
            "next: every recorded byte is there; open the rest with the key of one that it is wrapped to"
        )
    elif found.gaps:
        lines.append("every recorded byte is there; but WAL is missing: see `walarchiver timeline`")
    else:
        lines.append("every recorded byte is there, and no WAL is missing")
    return "\n".join(lines)


def _members(archive: Archive, found: Verification) -> dict[str, object]:
    return {
        "cluster": archive.cluster.name,
        "system": archive.system,
        "repository": archive.repository.store.url,
        "deep": found.deep,
        "items": found.items,
        "bytes": found.bytes,
        "skipped": found.skipped,
        "seconds": round(found.seconds, 3),
        "damaged": [
            {
                "name": damage.name,
                "objects": list(damage.keys),
                "code": damage.code,
                "message": damage.message,
                "affects": damage.affects,
            }
            for damage in found.damaged
        ],
        "unopened": [{"items": one.items, "message": one.message} for one in found.unopened],
        "gaps": [{"first": first, "last": last} for first, last in found.gaps],
        "code": _code(found),
    }


def _code(found: Verification) -> str | None:
    if found.damaged:
        return Untrusted.code
    if found.unopened:
        return KeyCannotOpen.code
    return TargetInGap.code if found.gaps else None
