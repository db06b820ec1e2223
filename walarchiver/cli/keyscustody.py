"""`walarchiver keys rotate | test`: who can open what."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from walarchiver.assembly import master_key_of
from walarchiver.cli.context import Context
from walarchiver.cli.keysmembers import OLD_REVISIONS
from walarchiver.cli.keysplace import add_repository, open_place
from walarchiver.errors import KeyCannotOpen, UsageError
from walarchiver.keys.epochs import recipients_of
from walarchiver.keys.keyfile import KeyRole
from walarchiver.keytest import ClusterCustody, Custody, try_keys
from walarchiver.rotation import ClusterRotation, Rotating, rotate

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

_LISTED = 20


def add(verbs: Subparsers) -> None:
    """Add the verbs."""
    rotating = verbs.add_parser("rotate", help="wrap every epoch key to the custodians of today")
    rotating.add_argument("--admin-key", type=Path, metavar="FILE", help="an admin's key file; it signs")
    rotating.add_argument("--dry-run", action="store_true", help="say what would be done")
    testing = verbs.add_parser("test", help="open the newest epoch key of every cluster")
    testing.add_argument("--all", action="store_true", help="every epoch key, not just the newest")
    for each in (rotating, testing):
        add_repository(each)
        each.add_argument(
            "--identity",
            type=Path,
            action="append",
            metavar="FILE",
            help="a custodian's key file; may be repeated; default: the configured ones",
        )


# --- rotate --------------------------------------------------------------------------------------


def run_rotate(context: Context, args: argparse.Namespace) -> int:
    if args.admin_key is None:
        raise UsageError("an admin's key file is needed to sign", hint="Name it with --admin-key.")
    place = open_place(context, args.repository, identities=args.identity or (), changing=True)
    master = master_key_of(place.section)
    masters = {} if master is None else {master.recipient: master}

    def progress(found: ClusterRotation, done: int) -> None:
        context.progress(f"keys rotate: cluster {found.cluster}, {done:,} of {found.epochs:,} epoch keys")

    try:
        found = rotate(
            Rotating(
                repository=place.repository,
                clock=place.host.clock,
                random=place.host.random,
                catalogs=place.catalog,
                admin=place.key(args.admin_key, KeyRole.ADMIN).signer(),
                recipients=lambda keyring, system: recipients_of(keyring, system, master_keys=masters),
                dry_run=args.dry_run,
                progress=progress,
            )
        )
    finally:
        place.repository.store.close()
    context.result(_rotated(found, dry_run=args.dry_run), _rotation_members(found, dry_run=args.dry_run))
    return KeyCannotOpen.exit_status if any(cluster.failed for cluster in found) else 0


def _rotated(found: list[ClusterRotation], *, dry_run: bool) -> str:
    lines = []
    for one in found:
        lines.append(
            f"cluster {one.cluster} (system {one.system}): {one.epochs:,} epoch keys, keyring {one.keyring}; "
            f"{one.current:,} were wrapped to its custodians already, {one.written:,} "
            + ("would be wrapped anew" if dry_run else "wrapped anew and read back")
        )
        if not dry_run and one.opened < one.written:
            lines.append(
                f"  {one.written - one.opened:,} of them not opened again: no key at hand is a custodian's "
                "any more. Let a custodian run `walarchiver keys test --all`"
            )
        lines += [
            f"  NOT ROTATED {left.epoch}: {left.message} ({left.code})" for left in one.failed[:_LISTED]
        ]
        if len(one.failed) > _LISTED:
            lines.append(f"  … and {len(one.failed) - _LISTED:,} more")
    if not found:
        lines.append("nothing was ever archived here: there is no epoch key")
    if not dry_run:
        lines.append("No data was moved. " + OLD_REVISIONS)
    return "\n".join(lines)


def _rotation_members(found: list[ClusterRotation], *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "code": KeyCannotOpen.code if any(cluster.failed for cluster in found) else None,
        "clusters": [
            {
                "system": one.system,
                "cluster": one.cluster,
                "keyring": one.keyring,
                "epochs": one.epochs,
                "current": one.current,
                "written": one.written,
                "opened": one.opened,
                "failed": [
                    {"epoch": left.epoch, "code": left.code, "message": left.message} for left in one.failed
                ],
            }
            for one in found
        ],
    }


# --- test ----------------------------------------------------------------------------------------


def run_test(context: Context, args: argparse.Namespace) -> int:
    place = open_place(context, args.repository, identities=args.identity or ())
    try:
        found = try_keys(place.repository, place.catalog, every=args.all)
    finally:
        place.repository.store.close()
    failed = any(cluster.failed for cluster in found)
    lines = [line for cluster in found for line in _tested(cluster)]
    if not found:
        lines.append("nothing was ever archived here: there is nothing to open")
    if failed:
        lines.append("next: a key just added opens older epochs only after `walarchiver keys rotate`")
    context.result("\n".join(lines), _test_members(found, failed=failed))
    return KeyCannotOpen.exit_status if failed else 0


def _tested(cluster: ClusterCustody) -> list[str]:
    if not cluster.epochs_total:
        return [f"cluster {cluster.cluster} (system {cluster.system}): nothing was ever sealed"]
    tried = len(cluster.epochs)
    what = f"{tried:,} of {cluster.epochs_total:,} epoch keys" if tried > 1 else "the newest epoch key"
    lines = [f"cluster {cluster.cluster} (system {cluster.system}), keyring {cluster.keyring}: {what} tried"]
    lines += [f"  {_proven(one, tried)}" for one in cluster.custodians]
    lines += [f"  PROBLEM {problem}" for problem in cluster.problems]
    return lines


def _proven(one: Custody, tried: int) -> str:
    who = f"{one.name or 'key of no custodian of this keyring'} ({one.id})"
    if one.at_hand:
        verdict = "PROVEN" if one.opened == tried else "FAILED"
        return f"{verdict} {who}: opened {one.opened:,} of {tried:,}"
    if one.wrapped == tried:
        return f"not tried {who}: wrapped to it, but its key is not at hand"
    return f"not tried {who}: {one.wrapped:,} of {tried:,} wrapped to it; run `walarchiver keys rotate`"


def _test_members(found: list[ClusterCustody], *, failed: bool) -> dict[str, object]:
    return {
        "code": KeyCannotOpen.code if failed else None,
        "clusters": [
            {
                "system": cluster.system,
                "cluster": cluster.cluster,
                "keyring": cluster.keyring,
                "epochs": cluster.epochs_total,
                "tried": list(cluster.epochs),
                "custodians": [
                    {
                        "name": one.name,
                        "id": one.id,
                        "at_hand": one.at_hand,
                        "wrapped": one.wrapped,
                        "opened": one.opened,
                    }
                    for one in cluster.custodians
                ],
                "problems": cluster.problems,
            }
            for cluster in found
        ],
    }
