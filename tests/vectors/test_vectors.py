"""Every vector is read as it says, and nothing else is read as good (docs/format.md, section 6)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.format.world import EPOCH_KEY, header
from tests.vectors import spelled_out
from walarchiver.errors import ConfigError, KeyCannotOpen, Untrusted, WalarchiverError, all_errors
from walarchiver.format.canonical import parse_canonical
from walarchiver.format.chain import Accepted, ChainState, Void, accept
from walarchiver.format.checkpoint import verify_checkpoint
from walarchiver.format.codec import KNOWN_KINDS
from walarchiver.format.epoch import verify_epoch_object
from walarchiver.format.header import Expected
from walarchiver.format.keyring import Keyring, verify_keyrings
from walarchiver.format.records import SupersedeRecord
from walarchiver.format.rollup import judge_rollup, split_rollup
from walarchiver.format.seal import open_sealed, plain_digest, seal
from walarchiver.format.standing import FileRecord, in_force
from walarchiver.keys.epochs import open_epoch
from walarchiver.keys.keyfile import parse_key_file
from walarchiver.keys.masterkey import MasterKey
from walarchiver.keys.printable import parse_printable
from walarchiver.keys.publicform import parse_public_key
from walarchiver.keys.xwing import XWingIdentity

HERE = Path(__file__).parent
NAMES = ("canonical", "sealed", "chain", "keyring", "epoch", "keyfile", "rollup", "checkpoint")
Case = dict[str, Any]


def cases(name: str) -> list[Case]:
    found: list[Case] = json.loads((HERE / f"{name}.json").read_text("ascii"))["cases"]
    return found


def trusted(name: str) -> dict[int, Keyring]:
    """The keyrings that all cases of a file share."""
    content = json.loads((HERE / f"{name}.json").read_text("ascii"))
    return verify_keyrings(
        bytes.fromhex(content["root"]), [bytes.fromhex(raw) for raw in content["keyrings"]]
    )


def every(name: str) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases(name)])


def failure_of(expect: str) -> type[WalarchiverError]:
    return next(error for error in all_errors() if error.__name__ == expect)


def check(case: Case, read: Any) -> Any:
    """What was read, or None when it was refused as the vector says."""
    if case["expect"] == "ok":
        return read()
    wanted = failure_of(case["expect"])
    with pytest.raises(wanted) as refused:
        read()
    assert isinstance(refused.value, Untrusted | KeyCannotOpen | ConfigError)
    return None


@every("canonical")
def test_canonical(case: Case) -> None:
    check(case, lambda: parse_canonical(bytes.fromhex(case["json"])))


@every("sealed")
def test_sealed(case: Case) -> None:
    stored = bytes.fromhex(case["stored"])
    expected = Expected(**case["expected"])
    plain = check(
        case, lambda: b"".join(open_sealed(lambda _: bytes.fromhex(case["key"]), [stored], expected))
    )
    if plain is not None:
        assert plain_digest([plain]) == case["digest"]
        assert spelled_out.unseal(bytes.fromhex(case["key"]), stored) == plain


@every("chain")
def test_chain(case: Case) -> None:
    rings = trusted("chain")
    state, verdicts = ChainState(case["repo"], case["system"]), []
    known: list[FileRecord | SupersedeRecord] = []
    for seq, entry in enumerate(case["entries"]):
        judged = accept(state, seq, bytes.fromhex(entry), rings)
        verdicts.append("valid" if isinstance(judged, Accepted) else "void")
        if isinstance(judged, Accepted):
            known += [one for one in judged.entry.records if isinstance(one, FileRecord | SupersedeRecord)]
        state = judged.state
    assert verdicts == case["verdicts"]
    assert state.prev == case["head"]
    files = {name: in_force([one for one in known if one.name == name]) for name in case["files"]}
    assert {name: one and one.digest for name, one in files.items()} == case["files"]


@every("rollup")
def test_rollup(case: Case) -> None:
    rings, state = trusted("rollup"), ChainState(case["repo"], case["system"])
    for seq, raw in enumerate(case["before"]):
        state = accept(state, seq, bytes.fromhex(raw), rings).state

    def read() -> list[Accepted | Void]:
        place = {name: case[name] for name in ("repo", "system", "first", "block")}
        pieces = split_rollup(bytes.fromhex(case["stored"]), **place)
        return list(judge_rollup(state, pieces, lambda *one: accept(*one, rings), first=case["first"]))

    judged = check(case, read)
    if judged is not None:
        assert ["valid" if isinstance(one, Accepted) else "void" for one in judged] == case["verdicts"]
        hashes = [one.entry.sha256 if isinstance(one, Accepted) else one.sha256 for one in judged]
        assert hashes == [hashlib.sha256(bytes.fromhex(raw)).hexdigest() for raw in case["entries"]]


@every("checkpoint")
def test_checkpoint(case: Case) -> None:
    place = {name: case[name] for name in ("repo", "system", "seq", "in_force") if name in case}
    stored = bytes.fromhex(case["stored"])
    found = check(case, lambda: verify_checkpoint(stored, trusted("checkpoint"), **place))
    if found is not None:
        assert (found.seq, found.sha256) == (case["seq"], case["sha256"])


@every("keyring")
def test_keyring(case: Case) -> None:
    raws = [bytes.fromhex(raw) for raw in case["keyrings"]]
    check(case, lambda: verify_keyrings(bytes.fromhex(case["root"]), raws))


@every("epoch")
def test_epoch(case: Case) -> None:
    secret = bytes.fromhex(case["identity"]["secret"])
    master = case["identity"]["type"] == "master-key"
    identity = MasterKey.from_bytes(secret) if master else XWingIdentity.from_seed(secret)

    def read() -> bytes:
        epoch = verify_epoch_object(
            bytes.fromhex(case["object"]),
            trusted("epoch").values(),
            system=case["system"],
            epoch=case["epoch"],
            revision=case["rev"],
        )
        return open_epoch(epoch, [identity])

    key = check(case, read)
    assert key is None or key.hex() == case["key"]


@every("keyfile")
def test_keyfile(case: Case) -> None:
    text = case["text"]
    if case["form"] == "public":
        public = check(case, lambda: parse_public_key(text))
        assert public is None or public.public.hex() == case["public"]
        return
    paper = case["form"] == "printable"
    key = check(case, lambda: parse_printable(text, name="alice") if paper else parse_key_file(text))
    if key is not None:
        assert (key.role, key.secret.hex(), key.name) == (case["role"], case["secret"], "alice")


def test_each_file_has_good_cases_and_cases_that_must_be_refused() -> None:
    for name in NAMES:
        expects = {case["expect"] for case in cases(name)}
        verdicts = {verdict for case in cases(name) for verdict in case.get("verdicts", ())}
        assert "ok" in expects
        assert len(expects) > 1 or "void" in verdicts
        assert len({case["name"] for case in cases(name)}) == len(cases(name))


def test_every_kind_of_record_occurs_in_a_valid_entry() -> None:
    text = json.dumps([bytes.fromhex(raw).decode() for raw in cases("chain")[0]["entries"]])
    assert all(f'\\"kind\\":\\"{kind}\\"' in text for kind in KNOWN_KINDS)


@pytest.mark.parametrize("size", [0, 1, 16384, 100_000])
def test_what_we_seal_opens_by_the_text_of_the_format_alone(size: int) -> None:
    plain = bytes(n * n % 251 for n in range(size))
    stored = bytes(seal(EPOCH_KEY, header(size), [plain]).body)
    assert spelled_out.unseal(EPOCH_KEY, stored) == plain
    with pytest.raises(spelled_out.DoesNotOpen):
        spelled_out.unseal(EPOCH_KEY, stored[:-1] + bytes([stored[-1] ^ 1]))
