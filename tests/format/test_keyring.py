"""Keyrings: from the pinned root to the newest one, or not at all."""

from __future__ import annotations

import pytest

from tests.format.world import (
    ALICE,
    KEYRING_1,
    KEYRING_2,
    MEMBERS,
    NOW_US,
    REPO,
    RING_1,
    RING_2,
    ROOT,
    STRANGER,
    SYSTEM,
    WRITER,
    custodian,
    keyring_bytes,
    seed,
    signing,
)
from walarchiver.errors import KeyringBroken, MalformedObject
from walarchiver.format.keyring import (
    MASTER_KEY,
    Keyring,
    KeyringMember,
    Role,
    parse_keyring,
    sign_keyring,
    verify_keyring_chain,
    verify_keyrings,
)
from walarchiver.format.signed import SignedKind, Signer

NEXT_ROOT = Signer.from_seed(seed("next root"))


def test_a_keyring_survives_its_bytes() -> None:
    ring = parse_keyring(KEYRING_1)
    assert set(ring.members) == set(MEMBERS)
    assert (ring.n, ring.repo, ring.time, ring.prev, ring.next_root) == (1, REPO, NOW_US, None, None)
    assert sign_keyring(ring, ROOT) == KEYRING_1
    assert ring.having(Role.CUSTODIAN, SYSTEM) == tuple(m for m in ring.members if m.role == "custodian")
    assert [member.role for member in ring.signer(WRITER.id, SYSTEM)] == [Role.WRITER]
    assert ring.signer(ALICE.recipient, SYSTEM) == ()


def test_keyrings_verify_from_the_root_to_the_newest() -> None:
    assert verify_keyrings(ROOT.public, [KEYRING_1, KEYRING_2]) == {1: RING_1, 2: RING_2}
    assert verify_keyring_chain(ROOT.public, [KEYRING_1]) == RING_1
    assert verify_keyring_chain(ROOT.public, [KEYRING_1, KEYRING_2]) == RING_2


def handed_over() -> list[bytes]:
    one = keyring_bytes(next_root=NEXT_ROOT.public)
    two = keyring_bytes(2, prev=parse_keyring(one).sha256, root=NEXT_ROOT)
    three = keyring_bytes(3, prev=parse_keyring(two).sha256, root=NEXT_ROOT)
    return [one, two, three]


def test_a_named_next_root_signs_from_the_following_keyring_on() -> None:
    raws = handed_over()
    assert verify_keyring_chain(ROOT.public, raws).n == 3
    # who pins the new root already trusts the older ones by their hashes
    assert set(verify_keyrings(NEXT_ROOT.public, raws)) == {1, 2, 3}


def test_the_old_root_is_out_once_it_handed_over() -> None:
    one = keyring_bytes(next_root=NEXT_ROOT.public)
    two = keyring_bytes(2, prev=parse_keyring(one).sha256, root=ROOT)
    with pytest.raises(KeyringBroken):
        verify_keyrings(ROOT.public, [one, two])


@pytest.mark.parametrize(
    "raws",
    [
        [],
        [KEYRING_2],
        [KEYRING_2, KEYRING_1],
        [KEYRING_1, KEYRING_1],
        [keyring_bytes(root=STRANGER)],
        [KEYRING_1, keyring_bytes(2, prev=RING_1.sha256, root=STRANGER)],
        [KEYRING_1, keyring_bytes(2, prev="f" * 64)],
        [KEYRING_1, keyring_bytes(2)],
        [keyring_bytes(prev="f" * 64)],
        [KEYRING_1, keyring_bytes(2, prev=RING_1.sha256, repo="f" * 32)],
        [KEYRING_1, KEYRING_2, keyring_bytes(4, prev=RING_2.sha256)],
    ],
)
def test_any_other_line_of_keyrings_is_broken(raws: list[bytes]) -> None:
    with pytest.raises(KeyringBroken):
        verify_keyrings(ROOT.public, raws)


def test_every_flipped_bit_breaks_a_keyring() -> None:
    small = keyring_bytes(
        members=(KeyringMember(Role.CUSTODIAN, "a" * 16, MASTER_KEY, "m"), signing(Role.WRITER, WRITER))
    )
    assert verify_keyrings(ROOT.public, [small])
    for place in range(len(small)):
        for bit in range(8):
            raw = bytearray(small)
            raw[place] ^= 1 << bit
            with pytest.raises((KeyringBroken, MalformedObject)):
                verify_keyrings(ROOT.public, [bytes(raw)])


def two_writers_in_one_place() -> tuple[KeyringMember, ...]:
    return (*MEMBERS, signing(Role.WRITER, WRITER))


@pytest.mark.parametrize(
    "members",
    [
        (),
        MEMBERS[:2],
        MEMBERS[2:],
        two_writers_in_one_place(),
        (*MEMBERS, KeyringMember(Role.WRITER, "0" * 16, "ed25519", "x", STRANGER.public)),
        (*MEMBERS, KeyringMember(Role.WRITER, STRANGER.id, "ed25519", "x", STRANGER.public[:31])),
        (*MEMBERS, KeyringMember(Role.WRITER, STRANGER.id, "hpke-xwing", "x", STRANGER.public)),
        (*MEMBERS, KeyringMember(Role.CUSTODIAN, STRANGER.id, "ed25519", "x", STRANGER.public)),
        (*MEMBERS, KeyringMember(Role.CUSTODIAN, "a" * 16, MASTER_KEY, "x", bytes(32))),
        (*MEMBERS, KeyringMember(Role.CUSTODIAN, ALICE.recipient[::-1], "hpke-xwing", "x", ALICE.public)),
        (*MEMBERS, signing(Role.ADMIN, STRANGER, systems=("01",))),
    ],
)
def test_a_keyring_that_makes_no_sense_is_neither_written_nor_read(
    members: tuple[KeyringMember, ...],
) -> None:
    with pytest.raises(MalformedObject):
        sign_keyring(Keyring(1, REPO, NOW_US, members), ROOT)


def test_members_out_of_order_are_refused_though_signed() -> None:
    members = [member.to_json() for member in sorted(MEMBERS, key=lambda m: (m.role, m.id), reverse=True)]
    value = {"members": members, "n": 1, "repo": REPO, "time": "2026-11-22T14:32:06.000000Z"}
    with pytest.raises(MalformedObject):
        parse_keyring(ROOT.sign(SignedKind.KEYRING, value))


def test_a_scope_is_part_of_a_member() -> None:
    ring = parse_keyring(keyring_bytes(members=(*MEMBERS, signing(Role.WRITER, STRANGER, systems=(SYSTEM,)))))
    assert ring.signer(STRANGER.id, SYSTEM)
    assert not ring.signer(STRANGER.id, "1")
    assert custodian(ALICE, "x").covers("1")
