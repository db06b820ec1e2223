"""One zstd frame, however it is cut into pieces on its way."""

from __future__ import annotations

import pytest

from tests.format.test_seal import BLOCK, frame, spelled_frame
from walarchiver.errors import ObjectDamaged
from walarchiver.format.frame import announced_bytes, frame_views

PLAIN = bytes(range(256)) * 2000 + b"\0" * BLOCK


def given(raw: int, *pieces: bytes) -> bytes:
    return b"".join(map(bytes, frame_views(raw, pieces)))


@pytest.mark.parametrize("cut", [1, 2, 3, 17, 18, 19, 4096])
@pytest.mark.parametrize("plain", [b"", b"short", PLAIN])
def test_a_frame_gives_the_same_however_it_is_cut(plain: bytes, cut: int) -> None:
    stored = frame(plain)
    assert announced_bytes(stored) == len(plain)
    pieces = [stored[at : at + cut] for at in range(0, len(stored), cut)]
    assert given(len(plain), *pieces) == plain


def test_no_more_is_given_than_was_announced() -> None:
    announced, given_away = 3 << 20, list[int]()
    stored = spelled_frame(announced, *[b"x" * BLOCK] * 30)
    with pytest.raises(ObjectDamaged, match="gives more than the 3145728 bytes announced"):
        given_away.extend(map(len, frame_views(announced, [stored])))
    assert 0 < sum(given_away) <= announced


@pytest.mark.parametrize("stored", [b"", frame(PLAIN)[:-1], frame(b"short")[:-1], frame(PLAIN)[:100]])
def test_a_frame_that_is_cut_off_is_damage(stored: bytes) -> None:
    for raw in (0, 5, len(PLAIN)):
        with pytest.raises(ObjectDamaged):
            given(raw, stored)
