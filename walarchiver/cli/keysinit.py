"""`walarchiver keys init`: make a repository with its keys.

Rules:
- Keys are written before the repository: one without its keys would be lost at birth.
- Key files are mode 0600 and never overwritten; secrets are never printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from walarchiver.assembly import master_key_of, store_of
from walarchiver.cli.context import Context
from walarchiver.cli.keysplace import repository_name
from walarchiver.errors import ConfigError, NoRepository, RepositoryExists, UsageError
from walarchiver.keys.carried import write_carried_files
from walarchiver.keys.init import NewRepository, prepare_repository, read_mark, write_repository
from walarchiver.keys.keyfile import new_key_file
from walarchiver.keys.masterkey import MasterKey
from walarchiver.ports import ObjectStore
from walarchiver.settings import RepositorySettings

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

_CUSTODIANS = ("first", "second")


def add(verbs: Subparsers) -> None:
    """Add the verb."""
    init = verbs.add_parser("init", help="make the repository of a [repository.NAME] section")
    init.add_argument("--repository", metavar="NAME", help="may be left out when there is only one")
    init.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder for the new key files")
    init.add_argument(
        "--custodian",
        metavar="NAME",
        action="append",
        help="whose key can open backups; give at least two (default: first, second)",
    )
    init.add_argument(
        "--writer", metavar="NAME", action="append", help="a host that archives (default: writer)"
    )
    init.add_argument(
        "--master-key", action="store_true", help="also (or only) the symmetric key that the section names"
    )
    init.add_argument("--printable", action="store_true", help="write each key's printable form beside it")


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    name = repository_name(host.settings, args.repository)
    section = host.settings.repository(name)
    store = store_of(host, section)
    try:
        _refuse_existing(store)
        new = prepare_repository(
            name,
            _custodians(args.custodian, with_master_key=args.master_key),
            now_us=host.clock.now_us(),
            random=host.random,
            master_key=_master_key(section, name) if args.master_key else None,
            writers=tuple(args.writer or ("writer",)),
        )
        files = _write_keys(args.out, new, printable=args.printable)
        write_carried_files(store)
        write_repository(store, new)
    finally:
        store.close()
    members = {"repository": name, "repo": new.repo, "root": new.root, "files": [str(file) for file in files]}
    context.result(_next_steps(name, new, store.url, files), members)
    return 0


def _custodians(given: list[str] | None, *, with_master_key: bool) -> Sequence[str]:
    if given:
        return tuple(given)
    return () if with_master_key else _CUSTODIANS


def _master_key(section: RepositorySettings, name: str) -> MasterKey:
    master = master_key_of(section)
    if master is None:
        raise ConfigError(
            f"[repository.{name}] names neither master_key_file nor master_key_command",
            hint="Make a key with `openssl rand -hex 32` in a file of mode 0600, and name it there.",
        )
    return master


def _refuse_existing(store: ObjectStore) -> None:
    try:
        mark = read_mark(store)
    except NoRepository:
        return
    raise RepositoryExists(f"{store.url} is the repository {mark.repo} already")


def _write_keys(folder: Path, new: NewRepository, *, printable: bool) -> list[Path]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}") from error
    texts = dict(new.key_files)
    if printable:
        texts |= {f"{name}.txt": text for name, text in new.printable.items()}
    taken = [name for name in texts if (folder / name).exists()]
    if taken:
        raise UsageError(
            f"{folder} holds {', '.join(taken)} already",
            hint="Key files are never overwritten; name another folder with --out.",
        )
    for name, text in texts.items():
        new_key_file(folder / name, text)
    return [folder / name for name in texts]


def _next_steps(name: str, new: NewRepository, url: str, files: list[Path]) -> str:
    listed = "\n".join(f"  {file}" for file in files)
    return f"""\
repository {new.repo} made at {url}
{listed}

Next:
1. Put this line into [repository.{name}] on every host; it says whom to trust:
   root = "{new.root}"
2. Give each archiving host its writer key and name it there as signing_key. It cannot read backups.
3. Take the custodian keys off this machine, to at least two places apart from each other and from
   the backups. Each one alone opens everything; without any, nothing can be restored.
4. Take the root and admin keys offline too. The root key is needed only to change who may do what.
"""
