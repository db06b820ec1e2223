"""Reads every vector with the stand-alone reader: `python -I by_reader.py READER_FOLDER VECTORS_FOLDER`.

Prints a line for each case that was not read as it says, and how many there were; a program of its
own, so that nothing of walarchiver, and no library that knows the sealed stream, can help.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import reader

VECTORS = Path(sys.argv[2])
HELPING = ("walarchiver", "cryptography.cobblestone")


def sealed(case, _rings):
    key = bytes.fromhex(case["key"])
    plain = reader.unsealed(bytes.fromhex(case["stored"]), case["expected"], lambda _: key)
    assert reader.blake3.blake3(plain).hexdigest() == case["digest"], "another digest"


def chain(case, rings):
    raws = {seq: bytes.fromhex(entry) for seq, entry in enumerate(case["entries"])}
    entries, alarms, due = reader.chain(raws, {"repo": case["repo"], "system": case["system"]}, rings)
    valid = {entry["seq"] for entry in entries}
    verdicts = ["valid" if seq in valid else "void" for seq in raws]
    assert (verdicts, due["prev"]) == (case["verdicts"], case["head"]), f"{verdicts} {alarms}"
    assert len(alarms) == verdicts.count("void")
    found = reader.files([record for entry in entries for record in entry["records"]])
    digests = {name: found[name][0] for name in case.get("files", ())}
    assert digests == case.get("files", {}), f"{digests} are in force"


def rollup(case, rings):
    place = {"repo": case["repo"], "system": case["system"]}
    pieces = reader.rolled(bytes.fromhex(case["stored"]), case["first"], place, case["block"])
    raws = dict(enumerate(bytes.fromhex(entry) for entry in case["before"])) | pieces
    entries, _, _ = reader.chain(raws, {"repo": case["repo"], "system": case["system"]}, rings)
    valid = {entry["seq"] for entry in entries}
    reader.need(max(raws) in valid, "nothing vouches for the last entry")
    assert ["valid" if seq in valid else "void" for seq in pieces] == case["verdicts"]
    assert [piece.hex() for piece in pieces.values()] == case["entries"]


def checkpoint(case, rings):
    """A checkpoint lies in the second place, where the reader does not look; section 5 by its parts."""
    raw = bytes.fromhex(case["stored"])
    said = reader.parsed(raw[:-130], "checkpoint")
    reader.need(all(said[name] == case[name] for name in ("repo", "system", "seq")), "another place's")
    for number in (said["keyring"], max(said["keyring"], case.get("in_force", 1))):
        held = reader.roles(rings[number], said["writer"], case["system"])
        reader.need({"writer", "pruner"} & held.keys(), "role of the signer")
    reader.verify("checkpoint", raw, next(iter(held.values())))
    assert said["sha256"] == case["sha256"]


def keyring(case, _rings):
    reader.keyrings(case["root"], [bytes.fromhex(raw) for raw in case["keyrings"]])


def epoch(case, rings):
    raw, identity = bytes.fromhex(case["object"]), case["identity"]
    place = {"epoch": case["epoch"], "rev": case["rev"], "repo": rings[1]["repo"], "system": case["system"]}
    mine = reader.custodian(identity["type"], bytes.fromhex(identity["secret"]))
    key = reader.epoch_key(raw, place, rings, *mine)
    assert key.hex() == case["key"], "another key"


def keyfile(case, _rings):
    if case["form"] == "file":  # printed forms are typed in with `format.md` at hand
        assert reader.key_file(case["text"])[-1].hex() == case["secret"], "another secret"
    elif case["expect"] != "ok":
        raise ValueError("the reader takes no printed form")


READ: dict[str, Callable] = {
    "canonical": lambda case, _rings: reader.parsed(bytes.fromhex(case["json"])),
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
        rings = reader.keyrings(content["root"], raws) if raws else {}
        for case in content["cases"]:
            count += 1
            try:
                read(case, rings)
                good, why = True, ""
            except Exception as error:  # the reader refuses with whatever its libraries raise
                good, why = False, repr(error)
            if good != (case["expect"] == "ok"):
                wrong += 1
                print(f"{name}: {case['name']}: expected {case['expect']}, {why or 'read as good'}")
    helped = [name for name in sys.modules if name.startswith(HELPING)]
    print(f"{count} vectors, {wrong} not as they say, helped by {helped}")
    return 1 if wrong or helped else 0


if __name__ == "__main__":
    sys.exit(main())
