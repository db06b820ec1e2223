"""Changes of the keyring: who comes, who goes, and what is never allowed.

Rules (docs/format.md, "Keyring"):
- Pure: a keyring and a wish come in, the next keyring's bytes come out.
- Never without a custodian or a writer, and no cluster without a custodian: what is sealed to nobody
  is lost. Fewer than two custodians is allowed, and said aloud.
- A wish that the keyring fulfils already makes no keyring: that is how an interrupted change goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from walarchiver.errors import LastKeyHolder, Untrusted, UsageError
from walarchiver.format.keyring import Keyring, KeyringMember, Role, sign_keyring
from walarchiver.format.signed import Signer

CUSTODIANS_WANTED = 2


@dataclass(frozen=True, slots=True)
class Wish:
    """What the next keyring shall be like."""

    add: KeyringMember | None = None
    remove: KeyringMember | None = None
    next_root: bytes | None = None


def fulfilled(wish: Wish, keyrings: Mapping[int, Keyring], pinned_root: bytes) -> bool:
    """Whether the newest keyring is already as wished. Raises UsageError when it contradicts the wish:
    another key of that role has the name."""
    newest = keyrings[max(keyrings)]
    if wish.next_root is not None and wish.next_root != root_in_force(keyrings, pinned_root):
        return False
    if wish.remove is not None and wish.remove in newest.members:
        return False
    if wish.add is None:
        return True
    for member in newest.members:
        if (member.role, member.id) == (wish.add.role, wish.add.id):
            if member == wish.add:
                return True
            raise UsageError(
                f"{wish.add.role} {wish.add.id} is in keyring {newest.n} already, as {described(member)}",
                hint="Remove it first: a member is never changed in place.",
            )
        if (member.role, member.name) == (wish.add.role, wish.add.name):
            raise UsageError(
                f"keyring {newest.n} has another {member.role} called {member.name!r}: {member.id}",
                hint="Give the new key another name, or remove the old one first.",
            )
    return False


def next_keyring(
    wish: Wish,
    keyrings: Mapping[int, Keyring],
    *,
    pinned_root: bytes,
    root: Signer,
    systems: Sequence[str],
    mark: str,
    now_us: int,
) -> bytes:
    """The bytes of the keyring behind the newest one, with the wish fulfilled.

    `systems`: clusters that the repository has; `mark`: the hash of its mark. Raises LastKeyHolder,
    Untrusted when `root` is not the root in force.
    """
    newest = keyrings[max(keyrings)]
    if root.public != root_in_force(keyrings, pinned_root):
        raise Untrusted(
            f"key {root.id} is not the root in force of this repository",
            hint="Name the root key file that `keys init` made, or the one that took over by `keys root`.",
        )
    members = tuple(member for member in newest.members if member != wish.remove)
    if wish.add is not None:
        members = (*members, wish.add)
    following = Keyring(
        n=newest.n + 1,
        repo=newest.repo,
        time=now_us,
        members=members,
        prev=newest.sha256,
        next_root=wish.next_root,
        mark=mark,
    )
    _check_holders(following, systems)
    return sign_keyring(following, root)


def root_in_force(keyrings: Mapping[int, Keyring], pinned: bytes) -> bytes:
    """The root that has to sign the next keyring: the one named last, or the pinned one."""
    named = [ring.next_root for _, ring in sorted(keyrings.items()) if ring.next_root is not None]
    return named[-1] if named else pinned


def find_member(keyrings: Mapping[int, Keyring], role: Role | None, called: str) -> KeyringMember:
    """The member with this name or id in the newest keyring that has one.

    Raises UsageError when none ever had, or several have and `role` does not tell which.
    """
    for _, keyring in sorted(keyrings.items(), reverse=True):
        found = [
            member
            for member in keyring.members
            if called in (member.id, member.name) and role in (None, member.role)
        ]
        if len(found) > 1:
            listed = "; ".join(f"{member.role} {described(member)}" for member in found)
            raise UsageError(f"{called!r} is not one member but {listed}", hint="Give --role, or the id.")
        if found:
            return found[0]
    what = role.value if role is not None else "member"
    raise UsageError(f"no keyring has a {what} {called!r}", hint="See `walarchiver keys list`.")


def concerns(keyring: Keyring, systems: Sequence[str]) -> list[str]:
    """What somebody should know of this keyring although it is allowed; a sentence each."""
    found = []
    for system in systems:
        custodians = keyring.having(Role.CUSTODIAN, system)
        if len(custodians) < CUSTODIANS_WANTED:
            names = ", ".join(member.name for member in custodians)
            found.append(
                f"only {len(custodians)} custodian ({names}) can open cluster {system}: "
                "with that key every backup is lost"
            )
        if not keyring.having(Role.WRITER, system):
            found.append(f"nobody may archive cluster {system}")
    if not any(member.role is Role.ADMIN for member in keyring.members):
        found.append("no admin: nobody can rotate keys until the root adds one")
    if not systems and sum(member.role is Role.CUSTODIAN for member in keyring.members) < CUSTODIANS_WANTED:
        found.append("only one custodian: with that key every backup is lost")
    return found


def described(member: KeyringMember) -> str:
    """`alice (hpke-xwing 01ab…)`, with the clusters when it has not all."""
    scope = "" if member.systems is None else f", clusters {' '.join(member.systems)}"
    return f"{member.name} ({member.type} {member.id}{scope})"


def _check_holders(keyring: Keyring, systems: Sequence[str]) -> None:
    for role in (Role.CUSTODIAN, Role.WRITER):
        if not any(member.role is role for member in keyring.members):
            raise LastKeyHolder(f"keyring {keyring.n} would have no {role}")
    for system in systems:
        if not keyring.having(Role.CUSTODIAN, system):
            raise LastKeyHolder(f"keyring {keyring.n} would leave cluster {system} without a custodian")


def with_scope(member: KeyringMember, systems: Sequence[str]) -> KeyringMember:
    """The member, kept to these clusters; none means all."""
    return replace(member, systems=tuple(sorted(set(systems))) or None)
