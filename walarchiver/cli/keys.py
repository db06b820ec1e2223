"""`walarchiver keys`: the keys of a repository, made, added, removed, wrapped anew and tried.

The verbs are in modules of their own: keysinit.py, keysmembers.py (who is trusted), keyscustody.py
(who can open what).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from walarchiver.cli import keyscustody, keysinit, keysmembers
from walarchiver.cli.context import Context

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `keys` and its verbs."""
    parser = subparsers.add_parser("keys", help="make, add, remove, rotate and test keys")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    keysinit.add(verbs)
    keysmembers.add(verbs)
    keyscustody.add(verbs)


def run(context: Context, args: argparse.Namespace) -> int:
    match args.verb:
        case "init":
            return keysinit.run(context, args)
        case "rotate":
            return keyscustody.run_rotate(context, args)
        case "test":
            return keyscustody.run_test(context, args)
        case "new":
            return keysmembers.run_new(context, args)
        case "export-public":
            return keysmembers.run_export(context, args)
        case "list":
            return keysmembers.run_list(context, args)
        case _:
            return keysmembers.run_change(context, args)
