"""Ranges of keys: none is left out, none is in two, and none begins where a server would lose keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walarchiver.bucketports import KeyRange
from walarchiver.evidence.sharding import behind, below, hiding_folders, tiles

names = st.text(st.sampled_from("a/0.-b\x01ü\U0010fffd"), max_size=6)
folders = names.map(lambda name: name + "/")


def holds(keys: KeyRange, key: str) -> bool:
    """By bytes, as S3 orders them."""
    wanted = key.encode()
    return keys.first.encode() <= wanted and (keys.last is None or wanted <= keys.last.encode())


@given(
    prefix=st.sampled_from(("", "a", "a/", "b-")),
    first=names,
    several=st.lists(folders, max_size=8),
    most=st.integers(1, 8),
    keys=st.lists(names, max_size=20),
)
def test_every_key_of_the_whole_lies_in_exactly_one_tile(
    prefix: str, first: str, several: list[str], most: int, keys: list[str]
) -> None:
    whole = below(prefix)
    whole = KeyRange(max(whole.first, prefix + first), whole.last)
    cut = tiles(whole, [prefix + folder for folder in several], folders_max=most)
    for key in {*keys, *(prefix + key for key in keys), *(prefix + folder + "x" for folder in several)}:
        assert sum(holds(tile, key) for tile in cut) == holds(whole, key)
        assert [key in tile for tile in cut] == [holds(tile, key) for tile in cut]


@given(prefix=names, key=names)
def test_below_a_prefix_are_the_keys_that_begin_with_it(prefix: str, key: str) -> None:
    assert holds(below(prefix), key) == key.startswith(prefix)
    assert holds(below(prefix), prefix + key)


@given(key=names, other=names)
def test_nothing_lies_between_a_key_and_the_name_behind_it(key: str, other: str) -> None:
    assert (other >= behind(key)) == (other > key)


@given(prefix=st.sampled_from(("", "a/")), key=names, others=st.lists(names, max_size=10))
def test_where_no_hiding_folder_is_a_walk_by_folders_shows_all_that_is_behind(
    prefix: str, key: str, others: list[str]
) -> None:
    """Such a server goes on behind `key` in the order of its walk: names part by part."""
    key, there = prefix + key, [prefix + other for other in others]
    if any(name.startswith(folder) for folder in hiding_folders(key, prefix) for name in there):
        return
    walked = {name for name in there if name.split("/") > key.split("/")}
    assert {name for name in there if name > key} <= walked
