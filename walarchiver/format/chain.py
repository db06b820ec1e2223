"""The ledger as one chain: which entries count, decided the same way by everyone.

Rules (docs/format.md, section 5). An entry is valid when
1. it is a signed entry of this repository, cluster and number;
2. `prev` is the last valid entry's hash and `void` names exactly the void ones since;
3. `keyring` never falls, and rises only with the record that names the new keyring's hash;
4. its signer has, in that keyring, for each record a role that may sign it;
5. the first valid entry begins with `cluster`;
6. every record of a known kind follows its schema.
Anything else at its place is void: it changes nothing and blocks nothing.

The state is a value; `accept` is pure. A judgement rests on the keyrings at hand: when `Void`
names a `missing_keyring`, read the keyrings anew and judge again before believing it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from walarchiver.errors import BadSignature, LedgerBroken, Untrusted
from walarchiver.format.entry import NO_ENTRY, Entry, VoidMark, encode_and_sign, split_entry
from walarchiver.format.keyring import Keyring, KeyringMember, Role
from walarchiver.format.records import ClusterRecord, EpochRecord, KeyringRecord, Record
from walarchiver.format.signed import SignedText, Signer

MAY_SIGN: Mapping[Role, frozenset[str]] = {
    Role.WRITER: frozenset(
        {"wal", "history", "label", "scan", "part", "backup", "epoch", "horizon", "tie", "gap", "pin"}
        | {"bucket_index", "bucket_journal", "cluster", "keyring", "checkpoint"}
    ),
    Role.DRILLER: frozenset({"drill", "scan"}),
    Role.PRUNER: frozenset({"prune", "checkpoint"}),
    Role.ADMIN: frozenset({"supersede", "hold", "keyring", "epoch", "bucket_journal"}),
}
"""Record kinds by role; a kind that is in no row may be signed by every signer."""

_RULED = frozenset().union(*MAY_SIGN.values())
_REVISION_MAX = 9999


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where a verified chain stands: everything that the next entry is judged by."""

    repo: str
    system: str
    next_seq: int = 0
    prev: str = NO_ENTRY
    """Hash of the last valid entry."""
    keyring_n: int = 0
    """The keyring in force; 0 before the first valid entry."""
    voids: tuple[VoidMark, ...] = ()
    """Void entries since the last valid one: the next writer names them."""
    head_time: int | None = None
    """`time` of the last valid entry, microseconds since 1970 on its writer's clock."""
    cluster: ClusterRecord | None = None
    """The newest `cluster` record; None before the first valid entry."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The entry is valid; `state` is behind it."""

    state: ChainState
    entry: Entry


@dataclass(frozen=True, slots=True)
class Void:
    """What stands at `seq` is no valid entry: alarm, and go on behind it."""

    state: ChainState
    seq: int
    sha256: str
    why: str
    missing_keyring: int | None = None
    """Set when the entry names a keyring that was not given: read them anew before believing."""


class _NotValid(Exception):
    """Why an entry is void; never leaves this module."""

    def __init__(self, why: str, missing_keyring: int | None = None) -> None:
        super().__init__(why)
        self.missing_keyring = missing_keyring


def accept(state: ChainState, seq: int, raw: bytes, keyrings: Mapping[int, Keyring]) -> Accepted | Void:
    """Judge the bytes that stand at ledger number `seq`.

    Raises LedgerBroken when `seq` is not the number that is due: a number in between is missing.
    """
    if seq != state.next_seq:
        raise LedgerBroken(f"entry {seq} where {state.next_seq} is due")
    try:
        entry, text = split_entry(raw)
        _check_place(state, entry)
        _check_keyring(state, entry, keyrings)
        _check_signer(entry, text, keyrings[entry.keyring])
        _check_cluster(state, entry)
    except Untrusted as error:
        return void(state, seq, hashlib.sha256(raw).hexdigest(), error.message)
    except _NotValid as error:
        digest = hashlib.sha256(raw).hexdigest()
        return void(state, seq, digest, str(error), missing_keyring=error.missing_keyring)
    clusters = [record for record in entry.records if isinstance(record, ClusterRecord)]
    following = replace(
        state,
        next_seq=seq + 1,
        prev=entry.sha256,
        keyring_n=entry.keyring,
        voids=(),
        head_time=entry.time,
        cluster=clusters[-1] if clusters else state.cluster,
    )
    return Accepted(following, entry)


def void(state: ChainState, seq: int, sha256: str, why: str, *, missing_keyring: int | None = None) -> Void:
    """The judgement that what stands at `seq` (hash `sha256`) is void, for whoever knows it from
    elsewhere: an object too long to be an entry is hashed without being held.

    Raises LedgerBroken as `accept`.
    """
    if seq != state.next_seq:
        raise LedgerBroken(f"entry {seq} where {state.next_seq} is due")
    following = replace(state, next_seq=seq + 1, voids=(*state.voids, VoidMark(seq, sha256)))
    return Void(following, seq, sha256, why, missing_keyring)


def is_from_member(raw: bytes, *, repo: str, system: str, seq: int, keyrings: Mapping[int, Keyring]) -> bool:
    """Whether a member of any of these keyrings signed `raw` as an entry for just this place.

    Behind a missing number such an entry shows that one is lost; anything else is a stranger's.
    """
    try:
        entry, text = split_entry(raw)
    except Untrusted:
        return False
    if (entry.repo, entry.system, entry.seq) != (repo, system, seq):
        return False
    members = [member for keyring in keyrings.values() for member in keyring.signer(entry.writer, system)]
    for member in members:
        if member.public is not None:
            try:
                text.verify(member.public)
            except BadSignature:
                return False
            return True
    return False


def build_entry(
    state: ChainState, records: Sequence[Record], *, time_us: int, boot: str, signer: Signer
) -> bytes:
    """The bytes of the entry that is due, with these records.

    A `keyring` record among them puts that keyring into force. Raises MalformedObject when the
    entry cannot be written. Whether readers will accept it is for `accept` to say: ask before
    sending.
    """
    numbers = [record.n for record in records if isinstance(record, KeyringRecord)]
    entry = Entry(
        repo=state.repo,
        system=state.system,
        seq=state.next_seq,
        prev=state.prev,
        time=time_us,
        writer=signer.id,
        boot=boot,
        keyring=max([state.keyring_n, *numbers]),
        records=tuple(records),
        void=state.voids,
    )
    return encode_and_sign(entry, signer)


def _check_place(state: ChainState, entry: Entry) -> None:
    if (entry.repo, entry.system, entry.seq) != (state.repo, state.system, state.next_seq):
        raise _NotValid(f"entry is {entry.seq} of system {entry.system} in repository {entry.repo}")
    if entry.prev != state.prev:
        raise _NotValid(f"entry follows {entry.prev}, the last valid one is {state.prev}")
    if entry.void != state.voids:
        raise _NotValid(f"entry names {len(entry.void)} void entries, there are {len(state.voids)} others")


def _check_keyring(state: ChainState, entry: Entry, keyrings: Mapping[int, Keyring]) -> None:
    if entry.keyring < state.keyring_n:
        raise _NotValid(f"keyring falls from {state.keyring_n} to {entry.keyring}")
    keyring = keyrings.get(entry.keyring)
    if keyring is None:
        raise _NotValid(f"keyring {entry.keyring} is not known", entry.keyring)
    if keyring.repo != entry.repo:
        raise _NotValid(f"keyring {entry.keyring} is of repository {keyring.repo}")
    named = [record for record in entry.records if isinstance(record, KeyringRecord)]
    if any((record.n, record.sha256) != (keyring.n, keyring.sha256) for record in named):
        raise _NotValid(f"keyring record does not name keyring {keyring.n} as it is stored")
    if entry.keyring > state.keyring_n and not named:
        raise _NotValid(f"keyring rises to {entry.keyring} without its record")


def _check_signer(entry: Entry, text: SignedText, keyring: Keyring) -> None:
    members = keyring.signer(entry.writer, entry.system)
    if not members or members[0].public is None:
        raise _NotValid(f"signer {entry.writer} is not in keyring {keyring.n} for this cluster")
    text.verify(members[0].public)
    allowed = frozenset().union(*(MAY_SIGN.get(member.role, frozenset()) for member in members))
    for record in entry.records:
        if record.kind in _RULED and record.kind not in allowed:
            roles = ", ".join(member.role.value for member in members)
            raise _NotValid(f"signer {entry.writer} ({roles}) may not sign {record.kind!r}")
        if isinstance(record, EpochRecord) and not _may_record(record, members):
            raise _NotValid(f"signer {entry.writer} may not record revision {record.rev} of an epoch key")


def _may_record(record: EpochRecord, members: Sequence[KeyringMember]) -> bool:
    """Whether a revision is spelled as it must be, and recorded by an admin when it is a later one."""
    if record.rev is None:
        return True
    return 1 <= record.rev <= _REVISION_MAX and any(member.role is Role.ADMIN for member in members)


def _check_cluster(state: ChainState, entry: Entry) -> None:
    if state.keyring_n == 0 and not isinstance(entry.records[0], ClusterRecord):
        raise _NotValid(f"first record of the chain is {entry.records[0].kind!r}, not 'cluster'")
    for record in entry.records:
        if isinstance(record, ClusterRecord) and record.system != entry.system:
            raise _NotValid(f"cluster record of system {record.system} in this chain")
