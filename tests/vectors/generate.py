"""Writes tests/vectors/*.json: `python -m tests.vectors.generate`.

All keys are fixed and no secret. Sealed objects are made by `spelled_out.py` with a fixed salt,
so that they do not change from run to run; only wraps to X-Wing custodians do.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from tests.format import test_canonical, test_chain, test_seal
from tests.format import test_chain_roles as roles
from tests.format import world as w
from tests.vectors import beside, spelled_out
from walarchiver.errors import KeyringBroken, MalformedObject, ObjectDamaged, ObjectMisplaced, Untrusted
from walarchiver.format import records as r
from walarchiver.format.canonical import canonical_json
from walarchiver.format.chain import Accepted, ChainState, build_entry
from walarchiver.format.entry import parse_entry
from walarchiver.format.epoch import EpochKeyObject, Stanza, epoch_check, sign_epoch_object, wrap_info
from walarchiver.format.header import PREFIX_BYTES
from walarchiver.format.keyring import parse_keyring
from walarchiver.format.seal import plain_digest
from walarchiver.format.signed import SignedKind, Signer
from walarchiver.format.standing import in_force
from walarchiver.keys.keyfile import KeyFile, KeyRole
from walarchiver.keys.masterkey import MasterKey
from walarchiver.keys.printable import printable_form
from walarchiver.keys.publicform import public_key_of
from walarchiver.keys.xwing import XWingRecipient

HERE = Path(__file__).parent
SALT = bytes(range(24))
MASTER = MasterKey.from_bytes(w.seed("master"))
Case = dict[str, object]


HOSTILE_BYTES_MAX = 64 << 10


def case(name: str, expect: str | type[Exception], **inputs: object) -> Case:
    return {
        "name": name,
        "expect": expect if isinstance(expect, str) else expect.__name__,
        **{key: value.hex() if isinstance(value, bytes) else value for key, value in inputs.items()},
    }


def sealed() -> list[Case]:
    wanted = {"repo": w.REPO, "system": w.SYSTEM, "kind": "wal", "name": w.header(0).name, "part": 0}
    cases = []

    def add(name: str, expect: str | type[Exception], stored: bytes, **more: object) -> None:
        cases.append(case(name, expect, key=w.EPOCH_KEY, expected=wanted, stored=stored, **more))

    def made(plain: bytes, **changed: object) -> bytes:
        beginning = w.header(len(plain), **changed).encode()
        return spelled_out.seal(w.EPOCH_KEY, SALT, beginning, spelled_out.frame(plain))

    for size in (0, 1, 16383, 16384, 16385, 40_000):
        plain = bytes(n * n % 251 for n in range(size))
        add(
            f"{size} bytes",
            "ok",
            made(plain),
            plain=plain if size < 100 else None,
            digest=plain_digest([plain]),
        )
    full = made(_fills_one_chunk())
    add("one full chunk and an empty one", "ok", full, digest=plain_digest([_fills_one_chunk()]))
    good = made(b"segment")
    border = PREFIX_BYTES + int.from_bytes(good[8:12], "big")
    for name, place in (("salt", 0), ("commitment", 24), ("chunk", 56), ("tag", len(good) - border - 1)):
        changed = bytearray(good)
        changed[border + place] ^= 1
        add(f"flipped bit in {name}", ObjectDamaged, bytes(changed))
    for length in (0, 7, 11, 12, border - 1):
        add(f"cut to {length} bytes", MalformedObject, good[:length])
    for length in (border, border + 55, border + 56, len(good) - 1):
        add(f"cut to {length} bytes", ObjectDamaged, good[:length])
    add("cut before the last, empty chunk", ObjectDamaged, full[:-16])
    add("a byte too many", ObjectDamaged, good + b"\0")
    for name, changes in (
        ("name", {"name": "000000010000000000000008"}),
        ("system", {"system": "1"}),
        ("repository", {"repo": "f" * 32}),
        ("part", {"part": 1, "parts": 2}),
        ("kind", {"kind": "label"}),
    ):
        add(f"another {name}", ObjectMisplaced, made(b"segment", **changes))
    for name, beginning in test_seal.HEADS.items():
        inner = test_seal.frame(b"12345")
        add(name, MalformedObject, spelled_out.seal(w.EPOCH_KEY, SALT, beginning, inner))
    for name, hostile in test_seal.HOSTILE.items():
        inner, raw = hostile()
        if len(inner) > HOSTILE_BYTES_MAX:
            continue  # every repository carries the vectors; the tests of the format still have it
        add(name, ObjectDamaged, spelled_out.seal(w.EPOCH_KEY, SALT, w.header(raw).encode(), inner))
    return cases


def _fills_one_chunk() -> bytes:
    """Plain bytes whose zstd frame is exactly 16384 bytes long."""
    noise = hashlib.shake_128(b"noise").digest(16384)
    return next(noise[:size] for size in range(16300, 16384) if len(spelled_out.frame(noise[:size])) == 16384)


def chains() -> list[Case]:
    cases = []

    def add(name: str, chain: w.Chain, verdicts: list[str]) -> None:
        entries = [raw.hex() for raw in chain.raws]
        files = _files(chain, verdicts)
        cases.append(
            case(
                name,
                "ok",
                repo=w.REPO,
                system=w.SYSTEM,
                entries=entries,
                verdicts=verdicts,
                head=chain.state.prev,
                files=files,
            )
        )

    grown = w.Chain()
    grown.begin()
    for kind, record in roles.EXAMPLES.items():
        signer = w.ADMIN if kind == "supersede" else w.WRITER
        assert isinstance(grown.put(grown.build(record, signer=signer)), Accepted)
    grown.put(grown.build(_incremental()))
    grown.put(grown.build(test_chain.revision(1), signer=w.ADMIN))
    grown.put(grown.build(w.RECORD_2, signer=w.ADMIN))
    grown.put(grown.build(w.gap(), signer=w.OTHER_WRITER))
    add("every record kind, and a change of keyring", grown, ["valid"] * len(grown.raws))
    for name, build in test_chain.VOIDS.items():
        chain = w.Chain()
        chain.begin()
        chain.put(build(chain))
        chain.put(chain.build(w.horizon()))
        add(f"void: {name}", chain, ["valid", "void", "valid"])
    for name, records in SUPERSEDED.items():
        chain = w.Chain()
        chain.begin()
        for one in records:
            by = w.ADMIN if isinstance(one, r.SupersedeRecord) else w.WRITER
            assert isinstance(chain.put(chain.build(one, signer=by)), Accepted)
        add(f"superseded: {name}", chain, ["valid"] * len(chain.raws))
    hidden = w.Chain()
    hidden.begin()
    before = hidden.state
    hidden.put(b"junk")
    hidden.put(_silent_about_void(before))
    hidden.put(hidden.build(w.gap()))
    add("void: a void entry is not named", hidden, ["valid", "void", "void", "valid"])
    return cases


OLD, NEW, OTHER = (digit * 64 for digit in "24d")


def _incremental() -> r.BackupRecord:
    """A base backup that builds on the example's."""
    full = roles.EXAMPLES["backup"]
    assert isinstance(full, r.BackupRecord)
    start = r.Lsn(full.start_lsn + 0x1000000)
    return replace(
        full, backup="20261123T143206Z-1f2e3d4c", method="incremental", prior=full.backup, start_lsn=start
    )


def _wal(digest: str) -> r.WalRecord:
    return r.WalRecord("0" * 24, digest, 1, roles.STORED, roles.PAGE)


SUPERSEDED = {
    "the first record stands": [_wal(OLD), _wal(NEW)],
    "another takes its place": [_wal(OLD), _wal(NEW), test_chain.superseded(OLD, NEW)],
    "and gives it back": [
        *(_wal(OLD), _wal(NEW), test_chain.superseded(OLD, NEW)),
        *(_wal(OTHER), test_chain.superseded(NEW, OLD)),
    ],
    "not before the other is recorded": [_wal(OLD), test_chain.superseded(OLD, NEW), _wal(NEW)],
    "not when another is in force": [_wal(OLD), _wal(NEW), _wal(OTHER), test_chain.superseded(NEW, OTHER)],
    "a history file": [
        *(r.HistoryRecord("00000002.history", digest, 1, roles.STORED, ()) for digest in (OLD, NEW)),
        test_chain.superseded(OLD, NEW, "00000002.history"),
    ],
}


def _files(chain: w.Chain, verdicts: list[str]) -> dict[str, str]:
    """The digest in force of every file name."""
    valid = [raw for raw, verdict in zip(chain.raws, verdicts, strict=True) if verdict == "valid"]
    kinds = r.WalRecord | r.HistoryRecord | r.LabelRecord | r.SupersedeRecord
    known = [one for raw in valid for one in parse_entry(raw).records if isinstance(one, kinds)]
    standing = {
        name: in_force([one for one in known if one.name == name]) for name in {one.name for one in known}
    }
    return {name: record.digest for name, record in standing.items() if record is not None}


def _silent_about_void(before: ChainState) -> bytes:
    state = replace(before, next_seq=before.next_seq + 1)
    return build_entry(state, [w.gap()], time_us=w.NOW_US, boot=w.BOOT, signer=w.WRITER)


def keyrings() -> list[Case]:
    next_root = Signer.from_seed(w.seed("next root"))
    one = w.keyring_bytes(next_root=next_root.public)
    two = w.keyring_bytes(2, prev=parse_keyring(one).sha256, root=next_root)
    stale = w.keyring_bytes(2, prev=parse_keyring(one).sha256)
    torn = bytearray(w.KEYRING_1)
    torn[40] ^= 1
    unordered = {
        "members": [member.to_json() for member in w.MEMBERS],
        "n": 1,
        "repo": w.REPO,
        "time": "2026-11-22T14:32:06.000000Z",
    }
    short = {**json.loads(w.KEYRING_1[:-130]), "mark": "0123456789abcdef"}

    def of(name: str, expect: str | type[Exception], *raws: bytes, root: Signer = w.ROOT) -> Case:
        return case(name, expect, root=root.public, keyrings=[raw.hex() for raw in raws])

    return [
        of("one", "ok", w.KEYRING_1),
        of("two", "ok", w.KEYRING_1, w.KEYRING_2),
        of("one that names the mark", "ok", w.keyring_bytes(mark="0123456789abcdef" * 4)),
        of("a mark's hash that is too short", MalformedObject, w.ROOT.sign(SignedKind.KEYRING, short)),
        of("a root that hands over", "ok", one, two),
        of("the later root is pinned", "ok", one, two, root=next_root),
        of("none", KeyringBroken),
        of("another root", KeyringBroken, w.KEYRING_1, root=w.STRANGER),
        of("the first is missing", KeyringBroken, w.KEYRING_2),
        of("prev does not fit", KeyringBroken, w.KEYRING_1, w.keyring_bytes(2, prev="f" * 64)),
        of("prev in the first", KeyringBroken, w.keyring_bytes(prev="f" * 64)),
        of(
            "the second is a stranger's",
            KeyringBroken,
            w.KEYRING_1,
            w.keyring_bytes(2, prev=w.RING_1.sha256, root=w.STRANGER),
        ),
        of("the old root signs on", KeyringBroken, one, stale),
        of(
            "another repository",
            KeyringBroken,
            w.KEYRING_1,
            w.keyring_bytes(2, prev=w.RING_1.sha256, repo="f" * 32),
        ),
        of("flipped bit", Untrusted, bytes(torn)),
        of("trailing byte", MalformedObject, w.KEYRING_1 + b"\n"),
        of("members not in order", MalformedObject, w.ROOT.sign(SignedKind.KEYRING, unordered)),
        of("signed as an entry", KeyringBroken, _resigned(w.KEYRING_1)),
    ]


def _resigned(raw: bytes) -> bytes:
    return w.ROOT.sign(SignedKind.ENTRY, json.loads(raw[:-130]))


def epochs() -> list[Case]:
    stanzas = []
    recipients = [XWingRecipient.from_public(who.public) for who in (w.ALICE, w.BOB)]
    for to in (*recipients, MASTER):
        info = wrap_info(w.EPOCH, to.recipient, w.REPO, w.SYSTEM, w.WRITER.id)
        stanzas.append(Stanza(to.recipient, to.type, to.wrap(w.EPOCH_KEY, info)))
    whole = EpochKeyObject(
        w.EPOCH,
        w.SYSTEM,
        w.REPO,
        w.WRITER.id,
        w.NOW_US,
        epoch_check(w.EPOCH_KEY),
        tuple(stanzas),
        w.WRITER.id,
    )
    good = sign_epoch_object(whole, w.WRITER)
    alice = {"type": "hpke-xwing", "secret": w.seed("alice").hex()}

    def of(name: str, expect: str | type[Exception], raw: bytes, **changed: object) -> Case:
        base: dict[str, object] = {
            "system": w.SYSTEM,
            "epoch": w.EPOCH,
            "rev": 0,
            "identity": alice,
            "object": raw,
            "key": w.EPOCH_KEY,
        }
        return case(name, expect, **{**base, **changed})

    moved = replace(whole, epoch="f" * 16)
    unproven = replace(whole, check=epoch_check(w.seed("other")))
    rotated = replace(whole, revision=1, by=w.ADMIN.id)
    return [
        of("by the first custodian", "ok", good),
        of("by the second", "ok", good, identity={"type": "hpke-xwing", "secret": w.seed("bob").hex()}),
        of(
            "by the master key", "ok", good, identity={"type": "master-key", "secret": w.seed("master").hex()}
        ),
        of("a later revision", "ok", sign_epoch_object(rotated, w.ADMIN), rev=1),
        of(
            "no custodian",
            "KeyCannotOpen",
            good,
            identity={"type": "hpke-xwing", "secret": w.seed("mallory").hex()},
        ),
        of("stanzas of another epoch", "KeyCannotOpen", sign_epoch_object(moved, w.WRITER), epoch="f" * 16),
        of("not proven", Untrusted, sign_epoch_object(unproven, w.WRITER)),
        of("another epoch's place", ObjectMisplaced, good, epoch="0" * 16),
        of("another revision's place", ObjectMisplaced, good, rev=1),
        of("by a stranger", Untrusted, sign_epoch_object(whole, w.STRANGER)),
        of(
            "rotated by a writer",
            Untrusted,
            sign_epoch_object(replace(rotated, by=w.WRITER.id), w.WRITER),
            rev=1,
        ),
        of("trailing byte", MalformedObject, good + b"\n"),
    ]


def key_files() -> list[Case]:
    cases = []
    for role in KeyRole:
        secret = w.seed("root" if role is KeyRole.ROOT else "alice")
        key = KeyFile(role, "alice", w.REPO, w.ROOT.public, secret)
        for form, text in (("file", key.encode()), ("printable", printable_form(key))):
            cases.append(case(f"{role} {form}", "ok", form=form, text=text, role=role.value, secret=secret))
    text = cases[0]["text"]
    assert isinstance(text, str)
    paper = cases[1]["text"]
    assert isinstance(paper, str)
    for name, wrong in (
        ("check does not fit", text.replace("name: alice", "name: alicf")),
        ("line missing", text.replace("name: alice\n", "")),
        ("version 2", text.replace("key 1", "key 2")),
        ("order", text.replace("role: custodian\nname: alice", "name: alice\nrole: custodian")),
    ):
        cases.append(case(name, "ConfigError", form="file", text=wrong))
    public = public_key_of(KeyFile(KeyRole.WRITER, "alice", w.REPO, w.ROOT.public, w.seed("alice")))
    cases.append(case("public form", "ok", form="public", text=public.encode(), public=public.public))
    for name, wrong in (
        ("public form, its check does not fit", public.encode().replace("name: alice", "name: alicf")),
        ("a private key for a public form", text),
    ):
        cases.append(case(name, "ConfigError", form="public", text=wrong))
    lines = paper.splitlines()
    for name, wrong_lines in (
        ("mistyped", [lines[0][:-1] + ("0" if lines[0][-1] != "0" else "1"), *lines[1:]]),
        ("line missing on paper", lines[1:]),
        ("lines swapped", ["1" + lines[1][1:], "2" + lines[0][1:], *lines[2:]]),
    ):
        cases.append(case(name, "ConfigError", form="printable", text="\n".join(wrong_lines)))
    return cases


def spellings() -> list[Case]:
    marks = list(test_canonical.test_every_other_spelling_is_refused.pytestmark)
    refused = [raw for raw in marks[0].args[1] if len(raw) < 1000]
    value = {"b": ['\n\x01\x7f"\\/', "é", "\U0001f600"], "a": {"z": None, "y": True, "x": -(2**53) + 1}}
    good = [canonical_json(value), b"[]", b'""', b"0", b"null"]
    return [case(f"canonical {n}", "ok", json=raw) for n, raw in enumerate(good)] + [
        case(f"other spelling {n}", MalformedObject, json=raw) for n, raw in enumerate(refused)
    ]


FILES = {
    "canonical": spellings,
    "sealed": sealed,
    "chain": chains,
    "keyring": keyrings,
    "epoch": epochs,
    "keyfile": key_files,
    "rollup": beside.rollups,
    "checkpoint": beside.checkpoints,
}

TRUSTING = {"chain", "epoch", "rollup", "checkpoint"}
"""Files whose cases share one root and its keyrings."""


def main() -> None:
    for name, make in FILES.items():
        trust = {"root": w.ROOT.public.hex(), "keyrings": [w.KEYRING_1.hex(), w.KEYRING_2.hex()]}
        content = {"format": 1, "about": name, "cases": make()} | (trust if name in TRUSTING else {})
        text = json.dumps(content, indent=1, sort_keys=True)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
