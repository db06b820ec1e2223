"""Reads every vector with the stand-alone reader: `python -I by_reader.py READER_FOLDER VECTORS_FOLDER`.

Prints a line for each case that was not read as it says, and how many there were; a program of its
own, so that nothing of walarchiver, and no library that knows the sealed stream, can help.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import zstandard

sys.path.insert(0, sys.argv[1])
import reader
import seal
import trust

VECTORS = Path(sys.argv[2])
HELPING = ("walarchiver", "cryptography.cobblestone")


def sealed(case, _rings):
    plain = seal.unsealed(
        bytes.fromhex(case["stored"]), case["expected"], lambda _: bytes.fromhex(case["key"])
    )
    reader.digested(plain, case["digest"])


def chain(case, rings):
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "v1/c" / case["system"] / "ledger"
        ledger.mkdir(parents=True)
        for seq, entry in enumerate(case["entries"]):
            (ledger / f"{seq:016x}.json").write_bytes(bytes.fromhex(entry))
        entries, alarms, state = trust.chain(Path(folder), case["repo"], case["system"], rings)
    valid = {entry["seq"] for entry in entries}
    verdicts = ["valid" if seq in valid else "void" for seq in range(len(case["entries"]))]
    assert (verdicts, state["prev"]) == (case["verdicts"], case["head"]), f"{verdicts} {alarms}"
    assert len(alarms) == verdicts.count("void")
    files = {name: reader.in_force(entries, name)["digest"] for name in case["files"]}
    assert files == case["files"], f"{files} are in force"


def rollup(case, rings):
    """Section 5: unpacked, split by its first line, and each piece judged in its place."""
    stored, first = bytes.fromhex(case["stored"]), case["first"]
    try:
        raw = zstandard.get_frame_parameters(stored).content_size
    except zstandard.ZstdError:
        raise ValueError("not a zstd frame") from None
    trust.need(len(stored) <= 64 << 20 and raw <= 64 << 20, "larger than a roll-up can be")
    line, found, rest = seal.inflated(stored, raw).partition(b"\n")
    trust.need(found and len(line) <= 64 << 10, "no first line")
    head = trust.parsed(line)
    trust.need(isinstance(head, dict) and set(head) == {"first", "lengths", "repo", "system"}, "members")
    trust.need(all(head[name] == case[name] for name in ("first", "repo", "system")), "another place's")
    sizes = head["lengths"]
    trust.need(isinstance(sizes, list) and len(sizes) == case["block"], "number of lengths")
    trust.need(all(type(size) is int and 0 <= size <= 1 << 24 for size in sizes), "a length")
    trust.need(sum(sizes) == len(rest), "lengths do not add up")
    state = {"repo": case["repo"], "system": case["system"], "prev": "0" * 64, "keyring": 0, "void": []}
    verdicts, pieces = [], [bytes.fromhex(entry) for entry in case["before"]]
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    for seq, piece in enumerate(pieces):
        try:
            entry = trust.judged(piece, {**state, "seq": seq}, rings)
            state |= {"prev": trust.sha(piece), "keyring": entry["keyring"], "void": []}
            verdicts.append("valid")
        except ValueError:
            state["void"] = [*state["void"], {"seq": seq, "sha256": trust.sha(piece)}]
            verdicts.append("void")
    trust.need(verdicts[-1] == "valid", "nothing vouches for the last entry")
    assert verdicts[first:] == case["verdicts"]
    assert [piece.hex() for piece in pieces[first:]] == case["entries"]


def checkpoint(case, rings):
    raw = bytes.fromhex(case["stored"])
    said, by = trust.signed("checkpoint", raw)
    trust.need(all(said[name] == case[name] for name in ("repo", "system", "seq")), "another place's")
    trust.need(said["keyring"] in rings, "unknown keyring")
    held = trust.roles(rings[said["keyring"]], said["writer"], case["system"])
    trust.need({"writer", "pruner"} & held.keys(), "role of the signer")
    by(next(iter(held.values())))
    assert said["sha256"] == case["sha256"]


def keyring(case, _rings):
    trust.keyrings(bytes.fromhex(case["root"]), [bytes.fromhex(raw) for raw in case["keyrings"]])


def epoch(case, rings):
    raw, identity = bytes.fromhex(case["object"]), case["identity"]
    place = {"epoch": case["epoch"], "repo": rings[1]["repo"], "system": case["system"]}
    secret = bytes.fromhex(identity["secret"])
    key = seal.epoch_key(
        {case["rev"]: raw}, place, {case["rev"]: trust.sha(raw)}, rings, identity["type"], secret
    )
    assert key.hex() == case["key"], "another key"


def keyfile(case, _rings):
    if case["form"] == "file":  # printed forms are typed in with `format.md` at hand
        assert seal.key_file(case["text"])[1].hex() == case["secret"], "another secret"
    elif case["expect"] != "ok":
        raise ValueError("the reader takes no printed form")


READ: dict[str, Callable] = {
    "canonical": lambda case, _rings: trust.parsed(bytes.fromhex(case["json"])),
    "chain": chain,
    "checkpoint": checkpoint,
    "epoch": epoch,
    "keyfile": keyfile,
    "keyring": keyring,
    "rollup": rollup,
    "sealed": sealed,
}


def main() -> int:
    count = wrong = 0
    for name, read in READ.items():
        content = json.loads((VECTORS / f"{name}.json").read_text("ascii"))
        raws = [bytes.fromhex(raw) for raw in content.get("keyrings", ())]
        rings = trust.keyrings(bytes.fromhex(content["root"]), raws) if raws else {}
        for case in content["cases"]:
            count += 1
            try:
                read(case, rings)
                good, why = True, ""
            except ValueError as error:
                good, why = False, str(error)
            if good != (case["expect"] == "ok"):
                wrong += 1
                print(f"{name}: {case['name']}: expected {case['expect']}, {why or 'read as good'}")
    helped = [name for name in sys.modules if name.startswith(HELPING)]
    print(f"{count} vectors, {wrong} not as they say, helped by {helped}")
    return 1 if wrong or helped else 0


if __name__ == "__main__":
    sys.exit(main())
