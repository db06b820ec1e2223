"""`walarchiver config init | show | validate`: write, show or check the configuration file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from walarchiver.cli.context import Context
from walarchiver.errors import ConfigError
from walarchiver.settings_text import effective, effective_json, reference

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `config` and its three verbs."""
    parser = subparsers.add_parser("config", help="write, show or check the configuration")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    init = verbs.add_parser("init", help="write a file with every key; an existing file stays")
    init.add_argument("--stdout", action="store_true", help="print it instead of writing it")
    verbs.add_parser("show", help="what is in force, defaults included, secrets masked")
    verbs.add_parser("validate", help="check the file; lists every fault")


def run(context: Context, args: argparse.Namespace) -> int:
    match args.verb:
        case "init":
            _init(context, to_stdout=args.stdout)
        case "show":
            settings = context.settings()
            context.result(effective(settings), effective_json(settings))
        case _:
            settings = context.settings()
            names = {"repositories": list(settings.repositories), "clusters": list(settings.clusters)}
            context.result(
                f"{settings.source} is valid: repositories {', '.join(settings.repositories)}; "
                f"clusters {', '.join(settings.clusters) or 'none'}",
                {"valid": True, "source": str(settings.source), **names},
            )
    return 0


def _init(context: Context, *, to_stdout: bool) -> None:
    text = reference()
    if to_stdout:
        context.result(text, {"text": text})
        return
    _write_new(context.config, text)
    context.result(f"wrote {context.config}", {"wrote": str(context.config)})
    context.progress("Edit it, then run `walarchiver config validate` and `walarchiver keys init`.")


def _write_new(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigError(
            f"{path} exists already and was not changed",
            hint="Name another file with --config, or print the reference with `config init --stdout`.",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint="Name another file with --config."
        ) from error
