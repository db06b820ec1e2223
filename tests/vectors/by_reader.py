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
    "epoch": epoch,
    "keyfile": keyfile,
    "keyring": keyring,
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
