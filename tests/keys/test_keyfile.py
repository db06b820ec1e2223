"""Key files and their printable form: what a person keeps must be read back, and faults found."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.format.world import ALICE, REPO, ROOT, STRANGER, WRITER, seed
from walarchiver.errors import ConfigError, KeyTaken
from walarchiver.keys.keyfile import KeyFile, KeyRole, new_key_file, parse_key_file, read_key_file
from walarchiver.keys.printable import parse_printable, printable_form
from walarchiver.keys.rootkey import parse_root_text, root_text
from walarchiver.keys.xwing import XWingIdentity

CUSTODIAN = KeyFile(KeyRole.CUSTODIAN, "alice", REPO, ROOT.public, seed("alice"))
SIGNING = KeyFile(KeyRole.WRITER, "db1", REPO, ROOT.public, seed("writer"))
secrets = st.binary(min_size=32, max_size=32)


@st.composite
def keys(draw: st.DrawFn) -> KeyFile:
    role = draw(st.sampled_from([role for role in KeyRole if role is not KeyRole.ROOT]))
    name = draw(st.text(st.sampled_from("abcXYZ09-_ é"), min_size=1, max_size=9).map(str.strip).filter(bool))
    return KeyFile(role, name, draw(st.binary(min_size=16, max_size=16)).hex(), draw(secrets), draw(secrets))


@given(keys())
def test_a_key_survives_its_file_and_its_paper(key: KeyFile) -> None:
    assert parse_key_file(key.encode()) == key
    assert parse_printable(printable_form(key), name=key.name) == key


def test_a_custodians_file_alone_opens_and_says_whom_to_trust() -> None:
    key = parse_key_file(CUSTODIAN.encode())
    assert XWingIdentity.from_seed(key.secret).recipient == ALICE.recipient
    assert (key.repo, key.root) == (REPO, ROOT.public)
    with pytest.raises(ConfigError, match="cannot sign"):
        key.signer()
    assert parse_key_file(SIGNING.encode()).signer().id == WRITER.id


def test_a_secret_does_not_show() -> None:
    shown = f"{CUSTODIAN!r} {SIGNING.signer()!r} {XWingIdentity.from_seed(CUSTODIAN.secret)!r}"
    assert CUSTODIAN.secret.hex() not in shown
    assert repr(CUSTODIAN.secret) not in shown
    assert repr(SIGNING.secret) not in shown


def test_comments_blank_lines_and_line_ends_do_not_matter() -> None:
    text = "# kept in the safe\r\n\r\n" + CUSTODIAN.encode().replace("\n", "  \r\n")
    assert parse_key_file(text) == CUSTODIAN


def test_every_changed_character_of_a_key_file_is_found() -> None:
    text = CUSTODIAN.encode()
    start = text.index("walarchiver key")
    for place in range(start, len(text) - 1):
        changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        with pytest.raises(ConfigError):
            parse_key_file(changed)


def without(text: str, line: str) -> str:
    return "".join(each + "\n" for each in text.splitlines() if not each.startswith(line))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "-----BEGIN PRIVATE KEY-----",
        without(CUSTODIAN.encode(), "check"),
        without(CUSTODIAN.encode(), "name"),
        CUSTODIAN.encode() + "more: 1\n",
        CUSTODIAN.encode() + CUSTODIAN.encode(),
        CUSTODIAN.encode().replace("key 1", "key 2"),
    ],
)
def test_what_is_not_a_key_file_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_key_file(text)
    assert CUSTODIAN.secret.hex() not in refused.value.message


def test_a_root_file_must_hold_the_root_it_names() -> None:
    right = KeyFile(KeyRole.ROOT, "root", REPO, ROOT.public, seed("root"))
    assert parse_printable(printable_form(right), name="root") == parse_key_file(right.encode()) == right
    wrong = KeyFile(KeyRole.ROOT, "root", REPO, STRANGER.public, seed("root"))
    with pytest.raises(ConfigError):
        wrong.encode()
    with pytest.raises(ConfigError):
        parse_printable(printable_form(wrong), name="root")


def test_a_key_file_is_created_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    new_key_file(path, CUSTODIAN.encode())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key_file(path) == CUSTODIAN
    with pytest.raises(KeyTaken):
        new_key_file(path, SIGNING.encode())
    assert read_key_file(path) == CUSTODIAN


def test_a_key_that_everyone_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    new_key_file(path, CUSTODIAN.encode())
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="every user"):
        read_key_file(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * 70_000])
def test_a_file_without_a_key_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "some.key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"some\.key"):
        read_key_file(path)


# --- paper -----------------------------------------------------------------------------------


def test_the_printable_form_looks_as_the_format_says() -> None:
    lines = printable_form(CUSTODIAN).splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("1: 040G 28T5")  # version 1, custodian, then the repository id
    assert {len(line) for line in lines} == {len("1: ABCD EFGH JKMN PQRS  7XYZ")}
    assert not set("ILOU") & set("".join(lines))


@settings(max_examples=200)
@given(st.integers(0, 8), st.integers(3, 26), st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ"))
def test_a_mistyped_character_is_located(number: int, place: int, typed: str) -> None:
    lines = printable_form(CUSTODIAN).splitlines()
    before = lines[number]
    place = min(place, len(before) - 1)
    if before[place] in (" ", typed):
        return
    lines[number] = before[:place] + typed + before[place + 1 :]
    with pytest.raises(ConfigError, match=f"line {number + 1} is mistyped") as refused:
        parse_printable("\n".join(lines), name="alice")
    assert refused.value.message.count("line") == 1


def test_lookalikes_case_blanks_and_order_do_not_matter() -> None:
    text = printable_form(CUSTODIAN)
    typed = text.lower().replace("0", "o").replace("1", "l").replace(" ", "")
    typed = "\n".join(f"{n}:{line[2:]}" for n, line in enumerate(typed.splitlines(), start=1))
    assert parse_printable(typed, name="alice") == CUSTODIAN
    shuffled = "# found in the safe\n\n" + "\n".join(reversed(text.replace(" ", "-").splitlines()))
    assert parse_printable(shuffled, name="alice") == CUSTODIAN


def test_missing_swapped_and_foreign_lines_are_told() -> None:
    lines = printable_form(CUSTODIAN).splitlines()
    with pytest.raises(ConfigError, match="line 4 is missing"):
        parse_printable("\n".join(lines[:3] + lines[4:]), name="alice")
    swapped = [*lines]
    swapped[2], swapped[5] = "3" + lines[5][1:], "6" + lines[2][1:]
    with pytest.raises(ConfigError, match="line 3 is mistyped, line 6 is mistyped"):
        parse_printable("\n".join(swapped), name="alice")
    foreign = [*lines]
    foreign[6] = printable_form(SIGNING).splitlines()[6]
    with pytest.raises(ConfigError, match="not together"):
        parse_printable("\n".join(foreign), name="alice")
    with pytest.raises(ConfigError, match="has no number"):
        parse_printable("\n".join(["hello", *lines]), name="alice")


# --- the root's text -------------------------------------------------------------------------


@given(secrets)
def test_a_root_key_survives_its_text(public: bytes) -> None:
    text = root_text(public)
    assert text.startswith("wa-root1")
    assert parse_root_text(text) == public


def test_every_mistyped_character_of_a_root_key_is_found() -> None:
    text = root_text(ROOT.public)
    for place in range(len(text)):
        for other in "ab27":
            if text[place] != other:
                with pytest.raises(ConfigError):
                    parse_root_text(text[:place] + other + text[place + 1 :])
    for wrong in ("", text[:-1], text + "a", text.upper(), "wa-root1…", f" {text}"):
        with pytest.raises(ConfigError):
            parse_root_text(wrong)
