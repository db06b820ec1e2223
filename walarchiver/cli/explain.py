"""`walarchiver explain [CODE]`: what an error code means and what to do; also makes docs/errors.md."""

from __future__ import annotations

import argparse
import difflib
import inspect
from typing import TYPE_CHECKING

from walarchiver.cli.context import Context
from walarchiver.errors import UnknownCode, WalarchiverError, all_errors

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `explain`."""
    parser = subparsers.add_parser("explain", help="what an error code means and what to do")
    parser.add_argument("code", nargs="?", metavar="CODE", help="for example WA-GAP; without it: all codes")


def run(context: Context, args: argparse.Namespace) -> int:
    if args.code is None:
        width = max(len(cls.code) for cls in all_errors())
        lines = [f"{cls.code:{width}}  {meaning(cls)}" for cls in all_errors()]
        context.result("\n".join(lines), {"errors": [_members(cls) for cls in all_errors()]})
        return 0
    cls = _find(args.code)
    context.result(
        f"{cls.code}: {meaning(cls)}\nhint: {cls.hint}\nexit status: {cls.exit_status}", _members(cls)
    )
    return 0


def meaning(cls: type[WalarchiverError]) -> str:
    """The fact that the class stands for, on one line."""
    return " ".join((inspect.getdoc(cls) or "").split())


def reference() -> str:
    """The text of docs/errors.md."""
    lines = [
        "# Error codes",
        "",
        "Written by `./dev generated` from walarchiver/errors/. Codes never change their meaning.",
        "",
        "| code | exit | what it says | next step |",
        "| --- | --- | --- | --- |",
    ]
    for cls in all_errors():
        cells = (cls.code, str(cls.exit_status), meaning(cls), cls.hint)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _find(code: str) -> type[WalarchiverError]:
    wanted = code.upper() if code.upper().startswith("WA-") else f"WA-{code.upper()}"
    known = {cls.code: cls for cls in all_errors()}
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=1)
        raise UnknownCode(f"no code {code!r}" + (f"; did you mean {close[0]}?" if close else ""))
    return known[wanted]


def _members(cls: type[WalarchiverError]) -> dict[str, object]:
    return {"code": cls.code, "meaning": meaning(cls), "hint": cls.hint, "exit_status": cls.exit_status}
