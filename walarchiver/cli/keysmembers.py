"""`walarchiver keys new | export-public | list | recipient | member | root`: whom a repository trusts.

Rules:
- Only public forms travel. The root key is read for the one command that signs a keyring.
- A removal says what it does not take away.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from walarchiver.assembly import master_key_of
from walarchiver.cli.context import Context
from walarchiver.cli.keysplace import Place, add_repository, open_place
from walarchiver.clock import SystemRandom
from walarchiver.errors import ConfigError, UsageError
from walarchiver.format.keyring import MASTER_KEY, KeyringMember, Role
from walarchiver.format.signed import Signer
from walarchiver.keyringchange import ChangeOutcome, Changing, change_keyring
from walarchiver.keys.change import Wish, concerns, described, find_member, root_in_force, with_scope
from walarchiver.keys.keyfile import KeyFile, KeyRole, new_key_file, read_key_file
from walarchiver.keys.printable import printable_form
from walarchiver.keys.publicform import PublicKey, public_key_of, read_public_key
from walarchiver.keys.rootkey import parse_root_text, root_text

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

OLD_REVISIONS = (
    "A removed custodian's key still opens what was sealed before, for whoever can read the bucket or kept a "
    "copy: older revisions of the epoch keys stay stored, and no command of this release purges them."
)
_OTHER_ROLES = [role.value for role in Role if role is not Role.CUSTODIAN]


def add(verbs: Subparsers) -> None:
    """Add the verbs."""
    new = verbs.add_parser("new", help="make a new private key, and its public form beside it")
    new.add_argument("--role", required=True, choices=[role.value for role in KeyRole])
    new.add_argument("--name", required=True, help="the person or host that it belongs to")
    new.add_argument("--out", required=True, type=Path, metavar="FILE", help="FILE.pub gets the public form")
    new.add_argument("--printable", action="store_true", help="write its printable form to FILE.txt too")
    add_repository(new)
    new.add_argument("--repo", metavar="ID", help="with --root: needs neither configuration nor store")
    new.add_argument("--root", metavar="wa-root1...", help="the root key to trust")
    export = verbs.add_parser("export-public", help="print the public form of a private key")
    export.add_argument("file", type=Path, metavar="FILE")
    add_repository(verbs.add_parser("list", help="who is in the keyring, and where it is in force"))
    _add_changes(verbs.add_parser("recipient", help="custodians, who can open backups"), recipients=True)
    _add_changes(verbs.add_parser("member", help="writers, admins and programs"), recipients=False)
    root = verbs.add_parser("root", help="let another root key sign from now on")
    root.add_argument("file", type=Path, metavar="FILE", help="the public form of the next root key")
    _add_signing(root)


def _add_changes(parser: argparse.ArgumentParser, *, recipients: bool) -> None:
    acts = parser.add_subparsers(dest="act", metavar="add|remove", required=True)
    adding = acts.add_parser("add", help="add a key by its public form")
    adding.add_argument(
        "file",
        type=Path,
        nargs="?" if recipients else None,
        metavar="FILE",
        help="what `keys export-public` printed",
    )
    if recipients:
        adding.add_argument(
            "--master-key", action="store_true", help="instead: the master key that the section names"
        )
    adding.add_argument(
        "--system", metavar="ID", action="append", help="only for this system identifier; may be repeated"
    )
    removing = acts.add_parser("remove", help="remove a key by its name or id")
    removing.add_argument("who", metavar="NAME")
    if not recipients:
        removing.add_argument("--role", choices=_OTHER_ROLES)
    for each in (adding, removing):
        _add_signing(each)


def _add_signing(parser: argparse.ArgumentParser) -> None:
    add_repository(parser)
    parser.add_argument("--root-key", type=Path, metavar="FILE", help="the root's key file, for this command")
    parser.add_argument(
        "--sign-key", type=Path, metavar="FILE", help="an admin's (or writer's) key; default: signing_key"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


# --- keys as files -------------------------------------------------------------------------------


def run_new(context: Context, args: argparse.Namespace) -> int:
    role = KeyRole(args.role)
    if not args.name.isascii() or not args.name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"{args.name!r} cannot name a key", hint="Use letters, digits, - and _.")
    repo, root = _belonging(context, args)
    secret = SystemRandom().token(32)
    if role is KeyRole.ROOT:
        root = Signer.from_seed(secret).public
    key = KeyFile(role, args.name, repo, root, secret)
    public = public_key_of(key)
    texts = {args.out: key.encode(), args.out.with_name(f"{args.out.name}.pub"): public.encode()}
    if args.printable:
        texts[args.out.with_name(f"{args.out.name}.txt")] = printable_form(key)
    taken = [str(path) for path in texts if path.exists()]
    if taken:
        raise UsageError(f"{', '.join(taken)} exists already", hint="Key files are never overwritten.")
    for path, text in texts.items():
        new_key_file(path, text)
    files = [str(path) for path in texts]
    context.result(
        "\n".join([f"{role} {args.name} ({public.id})", *(f"  {file}" for file in files), _next_of(role)]),
        {"role": role.value, "name": args.name, "id": public.id, "files": files},
    )
    return 0


def _belonging(context: Context, args: argparse.Namespace) -> tuple[str, bytes]:
    """Repository id and root key, from the options or from the configured repository."""
    if (args.repo is None) != (args.root is None):
        raise UsageError("--repo and --root go together")
    if args.repo is not None:
        return args.repo, parse_root_text(args.root)
    place = open_place(context, args.repository)
    try:
        return place.repository.repo, root_in_force(place.repository.keyrings, place.repository.root)
    finally:
        place.repository.store.close()


def _next_of(role: KeyRole) -> str:
    commands = {KeyRole.CUSTODIAN: "recipient add", KeyRole.ROOT: "root"}
    verb = commands.get(role, "member add")
    return f"It counts once whoever holds the root key has run `walarchiver keys {verb}` with the .pub file."


def run_export(context: Context, args: argparse.Namespace) -> int:
    public = public_key_of(read_key_file(args.file))
    members = {"role": public.role.value, "name": public.name, "id": public.id, "public": public.public.hex()}
    context.result(public.encode(), members)
    return 0


# --- the keyring ---------------------------------------------------------------------------------


def run_list(context: Context, args: argparse.Namespace) -> int:
    place = open_place(context, args.repository)
    repository = place.repository
    try:
        newest, systems = repository.newest_keyring, repository.systems()
        chains = []
        for system in systems:
            catalog = place.catalog(system)
            try:
                state = repository.ledger(system, catalog).refresh()
                chains.append((system, state.cluster.name if state.cluster else "", state.keyring_n))
            finally:
                catalog.close()
    finally:
        repository.store.close()
    lines = [f"keyring {newest.n} of repository {repository.repo}"]
    lines += [f"  {member.role:<10} {described(member)}" for member in newest.members]
    for system, cluster, n in chains:
        late = "" if n == newest.n or not n else ": BEHIND, give the command that made the newest one again"
        lines.append(f"cluster {cluster or '(not begun)'} (system {system}): keyring {n} is in force{late}")
    notes = concerns(newest, systems)
    lines += [f"WARNING {note}" for note in notes]
    members: dict[str, object] = {
        "keyring": newest.n,
        "sha256": newest.sha256,
        "root": root_text(root_in_force(repository.keyrings, repository.root)),
        "members": [_member_json(member) for member in newest.members],
        "chains": [{"system": s, "cluster": c, "keyring": n} for s, c, n in chains],
        "concerns": notes,
    }
    context.result("\n".join(lines), members)
    return 0


def _member_json(member: KeyringMember) -> dict[str, object]:
    return {
        "role": member.role.value,
        "id": member.id,
        "name": member.name,
        "type": member.type,
        "systems": None if member.systems is None else list(member.systems),
    }


def run_change(context: Context, args: argparse.Namespace) -> int:
    """`recipient add/remove`, `member add/remove`, `root`."""
    place = open_place(context, args.repository, changing=True)
    try:
        wish = _wish(place, args)
        root = None if args.root_key is None else place.key(args.root_key, KeyRole.ROOT).signer()
        changing = Changing(
            repository=place.repository,
            clock=place.host.clock,
            random=place.host.random,
            catalogs=place.catalog,
            signers=place.signers(args.sign_key),
        )
        outcome = change_keyring(changing, wish, root, dry_run=args.dry_run)
    finally:
        place.repository.store.close()
    context.result(_text(wish, outcome, dry_run=args.dry_run), _members(outcome, dry_run=args.dry_run))
    for chain in outcome.failures:
        assert chain.failure is not None
        context.failure(chain.failure)
        return chain.failure.exit_status
    return 0


def _wish(place: Place, args: argparse.Namespace) -> Wish:
    keyrings = place.repository.keyrings
    if args.verb == "root":
        public = _public(place, args.file)
        if public.role is not KeyRole.ROOT:
            raise UsageError(f"{args.file} is of role {public.role}, and root is needed")
        return Wish(next_root=public.public)
    custodians = args.verb == "recipient"
    if args.act == "remove":
        role = Role.CUSTODIAN if custodians else Role(args.role) if args.role else None
        member = find_member(keyrings, role, args.who)
        if not custodians and member.role is Role.CUSTODIAN:
            raise UsageError(f"{args.who} is a custodian", hint="Use `walarchiver keys recipient remove`.")
        return Wish(remove=member)
    if custodians and args.master_key:
        master = master_key_of(place.section)
        if master is None or args.file is not None:
            raise ConfigError("--master-key takes the key that the section names, and no file")
        return Wish(
            add=with_scope(
                KeyringMember(Role.CUSTODIAN, master.recipient, MASTER_KEY, "master key"), args.system or ()
            )
        )
    if args.file is None:
        raise UsageError("name the file with the public form, or --master-key")
    member = _public(place, args.file).member()
    if (member.role is Role.CUSTODIAN) != custodians:
        raise UsageError(
            f"{args.file} is of role {member.role}",
            hint=f"Use `walarchiver keys {'member' if custodians else 'recipient'} add`.",
        )
    return Wish(add=with_scope(member, args.system or ()))


def _public(place: Place, path: Path) -> PublicKey:
    public = read_public_key(path)
    if public.repo != place.repository.repo:
        raise UsageError(f"{path} is of repository {public.repo}, this one is {place.repository.repo}")
    return public


def _text(wish: Wish, outcome: ChangeOutcome, *, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    if outcome.made:
        lines = [f"keyring {outcome.keyring.n} {would}made"]
    else:
        lines = [f"keyring {outcome.keyring.n} is so already"]
    for chain in outcome.chains:
        where = f"cluster {chain.cluster} (system {chain.system})"
        if chain.failure is not None:
            lines.append(f"{where}: NOT RECORDED: {chain.failure.message}")
        elif not chain.cluster:
            lines.append(f"system {chain.system}: not begun; it begins with the newest keyring")
        elif chain.before >= outcome.keyring.n:
            lines.append(f"{where}: in force already")
        else:
            lines.append(f"{where}: {would}in force, before it keyring {chain.before}")
    if outcome.failures:
        lines.append("The change is NOT done: give the same command again once that is repaired.")
    lines += [f"WARNING {note}" for note in outcome.concerns]
    return "\n".join(lines + _consequences(wish))


def _consequences(wish: Wish) -> list[str]:
    if wish.next_root is not None:
        return [
            f'From the next change on the new root signs: root = "{root_text(wish.next_root)}"',
            "Configurations that pin the old root go on to work; pin the new one where you can.",
        ]
    if wish.add is not None and wish.add.type == MASTER_KEY:
        return [
            "Every archiving host must name this master key in its section, and then can read backups too; "
            "a host without it refuses to archive. Run `walarchiver keys rotate` for everything until now.",
        ]
    if wish.add is not None and wish.add.role is Role.CUSTODIAN:
        return [
            f"{wish.add.name} opens what is sealed from now on. For everything until now run "
            "`walarchiver keys rotate`; then try the key with `walarchiver keys test`.",
        ]
    if wish.remove is not None and wish.remove.role is Role.CUSTODIAN:
        return [
            f"{wish.remove.name} opens nothing that hosts begin to seal from now on. Run `walarchiver keys "
            "rotate` next, so that the keys in force are not wrapped to it either.",
            OLD_REVISIONS,
        ]
    if wish.remove is not None:
        return [f"What {wish.remove.name} signed until now stays valid; what it signs from now on is void."]
    return []


def _members(outcome: ChangeOutcome, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "made": outcome.made,
        "keyring": outcome.keyring.n,
        "sha256": outcome.keyring.sha256,
        "members": [_member_json(member) for member in outcome.keyring.members],
        "chains": [
            {
                "system": chain.system,
                "cluster": chain.cluster,
                "before": chain.before,
                "code": None if chain.failure is None else chain.failure.code,
            }
            for chain in outcome.chains
        ],
        "concerns": list(outcome.concerns),
    }
