"""A small repository with fixed keys, for tests of the format."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.format import records as r
from walarchiver.format.chain import Accepted, ChainState, Void, accept, build_entry
from walarchiver.format.header import Header
from walarchiver.format.keyring import (
    ED25519,
    HPKE_XWING,
    Keyring,
    KeyringMember,
    Role,
    parse_keyring,
    sign_keyring,
)
from walarchiver.format.signed import Signer
from walarchiver.keys.xwing import XWingIdentity

REPO = "0123456789abcdef" * 2
SYSTEM = "7300000000000000001"
NOW_US = 1_795_357_926_000_000
BOOT = "b007b007b007b007"
EPOCH = "e0e0e0e0e0e0e0e0"
EPOCH_KEY = bytes(range(32))


def seed(label: str) -> bytes:
    """A fixed 32-byte secret."""
    return hashlib.sha256(b"test seed " + label.encode()).digest()


ROOT = Signer.from_seed(seed("root"))
WRITER = Signer.from_seed(seed("writer"))
OTHER_WRITER = Signer.from_seed(seed("other writer"))
ADMIN = Signer.from_seed(seed("admin"))
PRUNER = Signer.from_seed(seed("pruner"))
DRILLER = Signer.from_seed(seed("driller"))
STRANGER = Signer.from_seed(seed("stranger"))
ALICE = XWingIdentity.from_seed(seed("alice"))
BOB = XWingIdentity.from_seed(seed("bob"))

CLUSTER = r.ClusterRecord("main", SYSTEM, 15, 16 << 20, True)


def signing(role: Role, signer: Signer, *, systems: tuple[str, ...] | None = None) -> KeyringMember:
    return KeyringMember(role, signer.id, ED25519, role.value, signer.public, systems)


def custodian(identity: XWingIdentity, name: str) -> KeyringMember:
    return KeyringMember(Role.CUSTODIAN, identity.recipient, HPKE_XWING, name, identity.public)


MEMBERS = (
    custodian(ALICE, "alice"),
    custodian(BOB, "bob"),
    signing(Role.WRITER, WRITER),
    signing(Role.ADMIN, ADMIN),
    signing(Role.PRUNER, PRUNER),
    signing(Role.DRILLER, DRILLER),
)


def keyring_bytes(
    n: int = 1,
    *,
    members: tuple[KeyringMember, ...] = MEMBERS,
    prev: str | None = None,
    next_root: bytes | None = None,
    root: Signer = ROOT,
    repo: str = REPO,
    mark: str | None = None,
) -> bytes:
    return sign_keyring(Keyring(n, repo, NOW_US, members, prev, next_root, mark=mark), root)


KEYRING_1 = keyring_bytes()
RING_1 = parse_keyring(KEYRING_1)
KEYRING_2 = keyring_bytes(
    2, prev=RING_1.sha256, members=(*MEMBERS[:2], signing(Role.WRITER, OTHER_WRITER), MEMBERS[3])
)
RING_2 = parse_keyring(KEYRING_2)
RINGS = {1: RING_1, 2: RING_2}
RECORD_1 = r.KeyringRecord(1, RING_1.sha256)
RECORD_2 = r.KeyringRecord(2, RING_2.sha256)


def gap(cause: str = "lost") -> r.GapRecord:
    return r.GapRecord("000000010000000000000007", "000000010000000000000009", cause)


def horizon(seconds: int = 0) -> r.HorizonRecord:
    return r.HorizonRecord(CommitTime(NOW_US + seconds * 1_000_000), Lsn(0x3000148), 1)


def header(raw: int, **changed: object) -> Header:
    members: dict[str, object] = {
        "kind": "wal",
        "repo": REPO,
        "system": SYSTEM,
        "tli": 1,
        "name": "000000010000000000000007",
        "part": 0,
        "raw": raw,
        "epoch": EPOCH,
        "writer": WRITER.id,
        "parts": 1,
    }
    return Header(**{**members, **changed})  # type: ignore[arg-type]


@dataclass
class Chain:
    """A ledger being written: every object ever put at a number, and what readers make of it."""

    state: ChainState = field(default_factory=lambda: ChainState(REPO, SYSTEM))
    raws: list[bytes] = field(default_factory=list)

    def put(self, raw: bytes) -> Accepted | Void:
        judged = accept(self.state, self.state.next_seq, raw, RINGS)
        self.state = judged.state
        self.raws.append(raw)
        return judged

    def build(self, *records: r.Record, signer: Signer = WRITER, boot: str = BOOT) -> bytes:
        return build_entry(self.state, records, time_us=NOW_US, boot=boot, signer=signer)

    def begin(self) -> Accepted | Void:
        return self.put(self.build(CLUSTER, RECORD_1))
