"""The options of `restore` for the bucket; what carries them out is loaded only when they are given."""

from __future__ import annotations

import argparse

from walarchiver.assembly import Host
from walarchiver.errors import UsageError


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `restore` takes for the bucket."""
    group = parser.add_argument_group("the application's bucket")
    place = group.add_mutually_exclusive_group()
    place.add_argument(
        "--bucket-into",
        metavar="BUCKET[/PREFIX]",
        help="restore the bucket to the same moment, into this one",
    )
    place.add_argument(
        "--bucket-in-place",
        action="store_true",
        help="restore the bucket itself to the same moment; no version is removed",
    )
    group.add_argument(
        "--bucket-delete-newer",
        action="store_true",
        help="with --bucket-in-place: delete markers for what did not exist then (default: it is left)",
    )
    group.add_argument(
        "--bucket-accept-older",
        action="store_true",
        help="restore an object from far off the moment when only that has the bytes the database means",
    )
    group.add_argument(
        "--bucket-accept-incomplete", action="store_true", help="although the bucket's window is not complete"
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether the bucket is to be restored, too."""
    return args.bucket_into is not None or args.bucket_in_place


def check_usage(host: Host, cluster: str | None, args: argparse.Namespace) -> None:
    """Everything that can be refused before anything is restored. Raises UsageError, NoBucket, and more."""
    if not wanted(args):
        for name in ("delete_newer", "accept_older", "accept_incomplete"):
            if getattr(args, f"bucket_{name}"):
                option = f"--bucket-{name.replace('_', '-')}"
                raise UsageError(f"{option} goes with --bucket-into or --bucket-in-place")
        return
    if args.bucket_delete_newer and not args.bucket_in_place:
        raise UsageError("--bucket-delete-newer goes with --bucket-in-place")
    from walarchiver.cli.restorebucket import check_places  # all of restoring a bucket, and its index

    check_places(host, cluster, args)
