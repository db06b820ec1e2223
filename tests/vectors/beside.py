"""The vectors of what stands beside a chain's entries: roll-ups, and checkpoints kept elsewhere.

A roll-up's case states its own number of entries in `block`, in the place of 4096, to stay short.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from tests.format import test_rollup
from tests.format import world as w
from walarchiver.errors import MalformedObject, ObjectMisplaced, Untrusted
from walarchiver.format.chain import Accepted, accept
from walarchiver.format.checkpoint import Checkpoint, sign_checkpoint
from walarchiver.format.signed import SignedKind, Signer

Case = dict[str, object]
BLOCK = test_rollup.BLOCK
LARGE = 1 << 16
"""Refused roll-ups that are longer are not stored as vectors."""


def rollups() -> list[Case]:
    chain = test_rollup.grown(2 * BLOCK, void_at=BLOCK + 1)
    state = w.Chain().state
    verdicts = []
    for seq, raw in enumerate(chain.raws):
        verdict = accept(state, seq, raw, w.RINGS)
        verdicts.append("valid" if isinstance(verdict, Accepted) else "void")
        state = verdict.state
    first, second = chain.raws[:BLOCK], chain.raws[BLOCK:]

    def of(name: str, expect: str | type[Exception], stored: bytes, start: int = 0, **more: object) -> Case:
        return {
            "name": name,
            "expect": expect if isinstance(expect, str) else expect.__name__,
            "block": BLOCK,
            "repo": w.REPO,
            "system": w.SYSTEM,
            "first": start,
            "before": [raw.hex() for raw in chain.raws[:start]],
            "stored": stored.hex(),
            **more,
        }

    def good(name: str, raws: list[bytes], start: int) -> Case:
        stored = test_rollup.encoded(raws, start)
        told = verdicts[start : start + BLOCK]
        return of(name, "ok", stored, start, entries=[raw.hex() for raw in raws], verdicts=told)

    def unvouched(name: str, raws: list[bytes], start: int) -> Case:
        return of(name, Untrusted, test_rollup.encoded(raws, start), start)

    other = chain.raws[2] + b"\n"
    return [
        good("the first block", first, 0),
        good("a block with a void entry", second, BLOCK),
        _with_an_empty_one(of),
        unvouched("the last entry is void", [*first[:-1], b"junk"], 0),
        unvouched("an entry in the middle is another", [*first[:2], other, first[3]], 0),
        unvouched("an entry in the middle is left out", [*first[:2], b"", first[3]], 0),
        unvouched("two entries changed places", [first[0], first[2], first[1], first[3]], 0),
        unvouched("the block before", first, BLOCK),
        unvouched("all is void", [b"junk"] * BLOCK, 0),
        *(
            of(name, expect, stored)
            for name, (expect, make) in test_rollup.HOSTILE.items()
            if len(stored := make()) < LARGE
        ),
    ]


def _with_an_empty_one(of: Callable[..., Case]) -> Case:
    chain = w.Chain()
    chain.begin()
    chain.put(b"")
    for seq in range(2, BLOCK):
        chain.put(chain.build(w.horizon(seq)))
    return of(
        "a void entry is empty",
        "ok",
        test_rollup.encoded(chain.raws),
        entries=[raw.hex() for raw in chain.raws],
        verdicts=["valid", "void", "valid", "valid"],
    )


def checkpoints() -> list[Case]:
    said = Checkpoint(w.REPO, w.SYSTEM, 41, "4" * 64, w.NOW_US, 1, w.WRITER.id)
    raw = sign_checkpoint(said, w.WRITER)
    flipped = bytearray(raw)
    flipped[raw.index(b'"seq":41') + 6] ^= 1

    def of(name: str, expect: str | type[Exception], stored: bytes, **changed: object) -> Case:
        return {
            "name": name,
            "expect": expect if isinstance(expect, str) else expect.__name__,
            "repo": w.REPO,
            "system": w.SYSTEM,
            "seq": 41,
            "sha256": "4" * 64,
            "stored": stored.hex(),
            **changed,
        }

    def by(signer: Signer, **changed: object) -> bytes:
        return sign_checkpoint(replace(said, writer=signer.id, **changed), signer)  # type: ignore[arg-type]

    def spelled(**changed: object) -> bytes:
        value = {
            "keyring": 1,
            "repo": w.REPO,
            "seq": 41,
            "sha256": "4" * 64,
            "system": w.SYSTEM,
            "time": "2026-11-22T14:32:06.000000Z",
            "writer": w.WRITER.id,
            **changed,
        }
        return w.WRITER.sign(SignedKind.CHECKPOINT, {k: v for k, v in value.items() if v is not None})  # type: ignore[misc]

    assert spelled() == raw
    return [
        of("by a writer", "ok", raw),
        of("by a pruner", "ok", by(w.PRUNER)),
        of("by a writer of a later keyring", "ok", by(w.OTHER_WRITER, keyring=2)),
        of("by an admin", Untrusted, by(w.ADMIN)),
        of("by a driller", Untrusted, by(w.DRILLER)),
        of("by a stranger", Untrusted, by(w.STRANGER)),
        of("by a writer that is not in that keyring yet", Untrusted, by(w.OTHER_WRITER)),
        of("by a keyring that is not there", Untrusted, by(w.WRITER, keyring=3)),
        of("of a time before its writer was removed", "ok", raw, in_force=1),
        of("by a writer that was removed", Untrusted, raw, in_force=2),
        of("by a later keyring than the chain's", "ok", by(w.OTHER_WRITER, keyring=2), in_force=1),
        of("another entry's name", ObjectMisplaced, raw, seq=40),
        of("another cluster's", ObjectMisplaced, raw, system="1"),
        of("another repository's", ObjectMisplaced, raw, repo="f" * 32),
        of("flipped bit", Untrusted, bytes(flipped), seq=int(flipped[raw.index(b'"seq":41') + 6 :][:2])),
        of("signed as an entry", Untrusted, _signed_as_an_entry(raw)),
        of("a strange member", MalformedObject, spelled(more=1)),
        of("a missing member", MalformedObject, spelled(time=None)),
        of("an ill-typed member", MalformedObject, spelled(seq="41")),
        of("trailing byte", MalformedObject, raw + b"\n"),
        of("nothing", MalformedObject, b""),
    ]


def _signed_as_an_entry(raw: bytes) -> bytes:
    return w.WRITER.sign(SignedKind.ENTRY, json.loads(raw.split(b"\n")[0]))
