"""Custodians: whoever should open an epoch key does, nobody else, and nowhere else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.format.world import (
    ALICE,
    BOB,
    MEMBERS,
    NOW_US,
    REPO,
    RING_1,
    SYSTEM,
    WRITER,
    keyring_bytes,
    seed,
)
from tests.keys.chance import FixedChance
from walarchiver.errors import ConfigError, KeyCannotOpen, MalformedObject, Untrusted
from walarchiver.format.epoch import EpochKeyObject, Stanza, epoch_check, verify_epoch_object
from walarchiver.format.keyring import MASTER_KEY, KeyringMember, Role, parse_keyring
from walarchiver.keys.epochs import NewEpoch, new_epoch, open_epoch, recipients_of
from walarchiver.keys.masterkey import MasterKey, parse_master_key, read_master_key
from walarchiver.keys.xwing import WRAPPED_BYTES, XWingIdentity, XWingRecipient
from walarchiver.ports import Identity, Recipient

MALLORY = XWingIdentity.from_seed(seed("mallory"))
MASTER = MasterKey.from_bytes(seed("master"))
KEY = seed("epoch key")


def test_the_key_pair_of_a_seed_is_that_of_the_x_wing_draft() -> None:
    """First and last bytes of the public key in the draft's first test vector."""
    identity = XWingIdentity.from_seed(
        bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
    )
    assert identity.public[:16].hex() == "e2236b35a8c24b39b10aa1323a96a919"
    expanded = hashlib.shake_256(seed("x")).digest(96)
    public = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).public_key().public_bytes_raw()
    public += X25519PrivateKey.from_private_bytes(expanded[64:]).public_key().public_bytes_raw()
    assert XWingIdentity.from_seed(seed("x")).public == public


@pytest.mark.parametrize(
    ("recipient", "identity"),
    [(XWingRecipient.from_public(ALICE.public), ALICE), (MASTER, MASTER)],
    ids=["hpke-xwing", "master-key"],
)
def test_a_wrap_opens_for_its_recipient_in_its_place_only(recipient: Recipient, identity: Identity) -> None:
    body = recipient.wrap(KEY, b"here")
    assert recipient.recipient == identity.recipient
    assert identity.unwrap(body, b"here") == KEY
    other: Identity = MALLORY if identity is ALICE else MasterKey.from_bytes(seed("another"))
    for unwrap in (
        lambda: identity.unwrap(body, b"there"),
        lambda: other.unwrap(body, b"here"),
        lambda: identity.unwrap(body[:-2], b"here"),
        lambda: identity.unwrap(body + "00", b"here"),
        lambda: identity.unwrap("", b"here"),
        lambda: identity.unwrap("zz" + body[2:], b"here"),
    ):
        with pytest.raises(KeyCannotOpen):
            unwrap()
    for place in range(0, len(body), max(1, len(body) // 60)):
        changed = body[:place] + ("0" if body[place] != "0" else "1") + body[place + 1 :]
        with pytest.raises(KeyCannotOpen):
            identity.unwrap(changed, b"here")


def test_wraps_to_a_public_key_are_never_twice_the_same() -> None:
    recipient = XWingRecipient.from_public(ALICE.public)
    one, two = recipient.wrap(KEY, b""), recipient.wrap(KEY, b"")
    assert one != two
    assert len(one) == 2 * WRAPPED_BYTES


@pytest.mark.parametrize("public", [b"", ALICE.public[:-1], ALICE.public + b"\0", b"\xff" * 1216])
def test_what_is_not_a_public_key_is_refused(public: bytes) -> None:
    with pytest.raises(MalformedObject):
        XWingRecipient.from_public(public)


def epoch_for(recipients: list[Recipient], *, label: str = "epoch") -> tuple[NewEpoch, EpochKeyObject]:
    drawn = new_epoch(
        recipients, repo=REPO, system=SYSTEM, signer=WRITER, from_us=NOW_US, random=FixedChance(label)
    )
    read = verify_epoch_object(drawn.raw, [RING_1], system=SYSTEM, epoch=drawn.epoch, revision=0)
    return drawn, read


def test_any_single_custodian_opens_what_a_writer_sealed_and_others_do_not() -> None:
    drawn, read = epoch_for([*recipients_of(RING_1, SYSTEM), MASTER])
    assert read.sha256 == drawn.sha256
    for identity in (ALICE, BOB, MASTER):
        assert open_epoch(read, [identity]) == drawn.key
    assert open_epoch(read, [MALLORY, BOB]) == drawn.key
    with pytest.raises(KeyCannotOpen, match=ALICE.recipient):
        open_epoch(read, [MALLORY])
    with pytest.raises(KeyCannotOpen, match="none"):
        open_epoch(read, [])
    assert drawn.key.hex() not in drawn.raw.decode()
    assert drawn.key.hex() not in repr(drawn)
    assert repr(drawn.key) not in repr(drawn)


def test_every_custodian_in_scope_is_wrapped_to_and_none_is_left_out() -> None:
    assert {to.recipient for to in recipients_of(RING_1, SYSTEM)} == {ALICE.recipient, BOB.recipient}
    elsewhere = replace(MEMBERS[1], systems=("1",))
    ring = parse_keyring(keyring_bytes(members=(MEMBERS[0], elsewhere, *MEMBERS[2:])))
    assert [to.recipient for to in recipients_of(ring, SYSTEM)] == [ALICE.recipient]
    nobody = parse_keyring(keyring_bytes(members=(elsewhere, *MEMBERS[2:])))
    with pytest.raises(ConfigError, match="no custodian"):
        recipients_of(nobody, SYSTEM)


def test_a_master_key_in_the_keyring_must_be_at_hand() -> None:
    member = KeyringMember(Role.CUSTODIAN, MASTER.recipient, MASTER_KEY, "team")
    ring = parse_keyring(keyring_bytes(members=(*MEMBERS, member)))
    found = recipients_of(ring, SYSTEM, master_keys={MASTER.recipient: MASTER})
    assert {to.type for to in found} == {"hpke-xwing", "master-key"}
    with pytest.raises(ConfigError, match=MASTER.recipient):
        recipients_of(ring, SYSTEM)


def test_a_stanza_moved_to_another_epoch_does_not_open() -> None:
    _, one = epoch_for([MASTER], label="one")
    _, two = epoch_for([MASTER], label="two")
    with pytest.raises(KeyCannotOpen):
        open_epoch(replace(two, stanzas=one.stanzas), [MASTER])


def test_an_unwrapped_key_that_is_not_proven_is_refused() -> None:
    _, read = epoch_for([MASTER])
    other = MASTER.wrap(seed("other"), read.info(MASTER.recipient))
    stanza = Stanza(MASTER.recipient, MASTER_KEY, other)
    with pytest.raises(Untrusted, match="another key"):
        open_epoch(replace(read, stanzas=(stanza,)), [MASTER])
    assert epoch_check(seed("other")) != read.check


@pytest.mark.parametrize(
    "content", [seed("k"), seed("k").hex().encode(), b" \n" + seed("k").hex().upper().encode() + b"\r\n"]
)
def test_a_master_key_is_read_raw_or_in_hex(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(0o600)
    found = read_master_key(path)
    assert found == parse_master_key(content) == MasterKey.from_bytes(seed("k"))
    assert seed("k").hex() not in repr(found)
    assert repr(seed("k")) not in repr(found)


@pytest.mark.parametrize("content", [b"", b"secret", b"0" * 63, b"g" * 64, b"0" * 65, bytes(33)])
def test_what_is_not_a_master_key_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_master_key(content)
