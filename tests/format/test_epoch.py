"""Epoch key objects and the repository mark."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.format.world import (
    ADMIN,
    DRILLER,
    EPOCH,
    EPOCH_KEY,
    NOW_US,
    OTHER_WRITER,
    REPO,
    RING_1,
    RING_2,
    STRANGER,
    SYSTEM,
    WRITER,
    seed,
)
from walarchiver.errors import MalformedObject, ObjectMisplaced, Untrusted
from walarchiver.format.epoch import (
    EpochKeyObject,
    Stanza,
    epoch_check,
    parse_epoch_object,
    sign_epoch_object,
    verify_epoch_object,
    wrap_info,
)
from walarchiver.format.mark import RepositoryMark, parse_mark
from walarchiver.format.signed import Signer

OBJECT = EpochKeyObject(
    epoch=EPOCH,
    system=SYSTEM,
    repo=REPO,
    writer=WRITER.id,
    from_us=NOW_US,
    check=epoch_check(EPOCH_KEY),
    stanzas=(Stanza("b" * 16, "master-key", "0b"), Stanza("a" * 16, "hpke-xwing", "0a")),
    by=WRITER.id,
)
RAW = sign_epoch_object(OBJECT, WRITER)
ROTATED = replace(OBJECT, revision=1, by=ADMIN.id)


def verified(raw: bytes, *, revision: int = 0, system: str = SYSTEM, epoch: str = EPOCH) -> EpochKeyObject:
    return verify_epoch_object(raw, [RING_1, RING_2], system=system, epoch=epoch, revision=revision)


def test_a_key_object_survives_its_bytes() -> None:
    found = verified(RAW)
    assert replace(found, sha256="", stanzas=OBJECT.stanzas) == OBJECT
    assert [stanza.recipient for stanza in found.stanzas] == ["a" * 16, "b" * 16]
    assert found.sha256
    assert verified(sign_epoch_object(ROTATED, ADMIN), revision=1).by == ADMIN.id


def test_a_key_is_told_from_another_by_its_check() -> None:
    assert OBJECT.proves(EPOCH_KEY)
    assert not OBJECT.proves(seed("another"))


def test_the_info_of_a_wrap_is_as_the_format_says() -> None:
    assert wrap_info("e", "r", "p", "s", "w") == (
        b'{"epoch":"e","recipient":"r","repo":"p","system":"s","writer":"w"}'
    )
    assert OBJECT.info("a" * 16) == wrap_info(EPOCH, "a" * 16, REPO, SYSTEM, WRITER.id)


@pytest.mark.parametrize(
    ("change", "signer"),
    [
        ({"by": ADMIN.id}, ADMIN),  # revision 0 belongs to its writer
        ({"stanzas": ()}, WRITER),
        ({"stanzas": (OBJECT.stanzas[0], OBJECT.stanzas[0])}, WRITER),
        ({"stanzas": (Stanza("a" * 16, "x", "not hex"),)}, WRITER),
        ({"check": "00"}, WRITER),
        ({"epoch": "E" * 16}, WRITER),
        ({"revision": 10_000}, WRITER),
    ],
)
def test_a_key_object_that_makes_no_sense_is_never_written(change: dict[str, object], signer: Signer) -> None:
    with pytest.raises(MalformedObject):
        sign_epoch_object(replace(OBJECT, **change), signer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "revision"),
    [
        (sign_epoch_object(OBJECT, STRANGER), 0),  # not by whom it names
        (sign_epoch_object(replace(OBJECT, writer=STRANGER.id, by=STRANGER.id), STRANGER), 0),
        (sign_epoch_object(replace(OBJECT, writer=DRILLER.id, by=DRILLER.id), DRILLER), 0),
        (sign_epoch_object(replace(OBJECT, writer=ADMIN.id, by=ADMIN.id), ADMIN), 0),
        (sign_epoch_object(replace(ROTATED, by=WRITER.id), WRITER), 1),  # a writer does not rotate
        (sign_epoch_object(replace(OBJECT, repo="f" * 32), WRITER), 0),
    ],
)
def test_nobody_without_the_role_makes_a_key_object(raw: bytes, revision: int) -> None:
    with pytest.raises(Untrusted):
        verified(raw, revision=revision)


def test_a_writer_of_any_keyring_of_the_chain_counts() -> None:
    raw = sign_epoch_object(replace(OBJECT, writer=OTHER_WRITER.id, by=OTHER_WRITER.id), OTHER_WRITER)
    assert verified(raw).writer == OTHER_WRITER.id
    with pytest.raises(Untrusted):
        verify_epoch_object(raw, [RING_1], system=SYSTEM, epoch=EPOCH, revision=0)


@pytest.mark.parametrize("place", [{"revision": 1}, {"epoch": "0" * 16}])
def test_a_key_object_in_anothers_place_is_refused(place: dict[str, object]) -> None:
    with pytest.raises(ObjectMisplaced):
        verified(RAW, **place)  # type: ignore[arg-type]


def test_every_flipped_bit_is_found() -> None:
    for place in range(len(RAW)):
        raw = bytearray(RAW)
        raw[place] ^= 1 << place % 8
        with pytest.raises(Untrusted):
            verified(bytes(raw))
    assert parse_epoch_object(RAW)


def test_the_mark_survives_and_another_format_is_refused() -> None:
    mark = RepositoryMark(REPO, "näme", NOW_US)
    raw = mark.encode()
    assert parse_mark(raw) == mark
    for other in (
        raw.replace(b'"format":1', b'"format":2'),
        raw[:-1],
        raw + b"\n",
        raw.replace(b'"format":1', b'"format":1,"x":1'),
        b"",
    ):
        with pytest.raises(MalformedObject):
            parse_mark(other)
    with pytest.raises(MalformedObject, match="format 2"):
        parse_mark(raw.replace(b'"format":1', b'"format":2'))
