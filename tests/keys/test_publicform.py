"""The public form: what a keyring needs of a key, and nothing that opens or signs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.format.world import REPO, ROOT, seed
from walarchiver.errors import ConfigError, UsageError
from walarchiver.keys.init import member_of
from walarchiver.keys.keyfile import KeyFile, KeyRole
from walarchiver.keys.publicform import parse_public_key, public_key_of


def key_of(role: KeyRole) -> KeyFile:
    secret = seed("root") if role is KeyRole.ROOT else seed("alice")
    return KeyFile(role, "alice", REPO, ROOT.public, secret)


@pytest.mark.parametrize("role", KeyRole)
def test_it_survives_its_text_and_names_the_same_member(role: KeyRole) -> None:
    key = key_of(role)
    public = public_key_of(key)
    assert parse_public_key(public.encode()) == public
    assert key.secret.hex() not in public.encode()
    if role is KeyRole.ROOT:
        with pytest.raises(UsageError):
            public.member()
    else:
        assert public.member() == member_of(key)


def test_a_private_key_is_told_apart_and_never_repeated() -> None:
    key = key_of(KeyRole.CUSTODIAN)
    with pytest.raises(ConfigError, match="private key") as refused:
        parse_public_key(key.encode())
    assert key.secret.hex() not in refused.value.message + refused.value.next_step


def test_anything_else_is_refused() -> None:
    good = public_key_of(key_of(KeyRole.WRITER))
    text = good.encode()
    for wrong in (
        "",
        text.replace("name: alice", "name: alicf"),
        text.replace("role: writer\n", ""),
        text.replace("key 1", "key 2"),
        text.replace("role: writer\nname: alice", "name: alice\nrole: writer"),
        text + "more\n",
    ):
        with pytest.raises(ConfigError):
            parse_public_key(wrong)
    for changed in (
        replace(good, public=good.public[:-1]),
        replace(good, repo="x" * 32),
        replace(good, role=KeyRole.CUSTODIAN),
        replace(good, role=KeyRole.CUSTODIAN, public=b"\xff" * 1216),
    ):
        with pytest.raises(ConfigError):
            changed.encode()  # checks what it wrote
