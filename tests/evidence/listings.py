"""Listings for tests of version indexes: any entries, in any order a server might think of."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from walarchiver.bucketports import KeyRange
from walarchiver.core.version import Entry, EntryKind, StoreMs

KEYS = ("a", "a b+c", "a/", "a/1", "a/2", "a0", "b", "z/ü", "z/日", "\U0001f600", "￿")
"""With neighbours of `/`, and two whose order in UTF-16 is the other one."""
IDS = ("null", "v1", "v2", "d41d8cd98f00b204e9800998ecf8427e", "3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrH")
ETAGS = ("d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e-7", "W-x", "abc-012")
CLASSES = ("STANDARD", "", "GLACIER", "own class")

instants = st.builds(
    lambda second, rest: StoreMs(second * 1000 + rest), st.integers(0, 12), st.sampled_from((0, 0, 0, 1, 999))
)
"""Few, so that many are equal; most are whole seconds."""


def version(
    key: str = "k",
    version_id: str = "v1",
    modified: int = 0,
    *,
    latest: bool = False,
    etag: str = "e",
    size: int = 1,
) -> Entry:
    return Entry(key, version_id, EntryKind.VERSION, StoreMs(modified), size, etag, "STANDARD", latest)


def marker(key: str = "k", version_id: str = "m1", modified: int = 0, *, latest: bool = False) -> Entry:
    return Entry(key, version_id, EntryKind.MARKER, StoreMs(modified), 0, "", "", latest)


@st.composite
def entries_of(draw: st.DrawFn, key: str, *, tidy: bool = False) -> list[Entry]:
    """The entries of one key; `tidy`: as a server should list them."""
    found = []
    for version_id in draw(st.lists(st.sampled_from(IDS), max_size=4, unique=True)):
        if draw(st.booleans()) or draw(st.booleans()):
            etag, kept_in = draw(st.sampled_from(ETAGS)), draw(st.sampled_from(CLASSES))
            size = draw(st.sampled_from((0, 1, 5 * 2**40)))
            found.append(
                Entry(key, version_id, EntryKind.VERSION, draw(instants), size, etag, kept_in, False)
            )
        else:
            found.append(Entry(key, version_id, EntryKind.MARKER, draw(instants), 0, "", "", False))
    if tidy or draw(st.integers(0, 3)):
        found.sort(key=lambda entry: -entry.modified)
        return [_latest(entry, is_latest=at == 0) for at, entry in enumerate(found)]
    return [_latest(entry, is_latest=draw(st.booleans())) for entry in found]


def _latest(entry: Entry, *, is_latest: bool) -> Entry:
    return Entry(
        entry.key,
        entry.version_id,
        entry.kind,
        entry.modified,
        entry.size,
        entry.etag,
        entry.storage_class,
        is_latest,
    )


@st.composite
def ranges(draw: st.DrawFn) -> KeyRange:
    """One key, a range, or everything."""
    ends = sorted((draw(st.sampled_from(("", *KEYS))), draw(st.sampled_from(KEYS))))
    kind = draw(st.sampled_from(("all", "range", "open", "key")))
    match kind:
        case "all":
            return KeyRange()
        case "range":
            return KeyRange(ends[0], ends[1])
        case "open":
            return KeyRange(ends[0])
        case _:
            return KeyRange(ends[1], ends[1])


@st.composite
def listings(draw: st.DrawFn, keys: KeyRange) -> Sequence[Entry]:
    """All entries of the range, most often in the order of keys."""
    shown = [key for key in sorted(KEYS) if key in keys and draw(st.booleans())]
    if draw(st.integers(0, 4)) == 0:
        shown = draw(st.permutations(shown))
    return [entry for key in shown for entry in draw(entries_of(key))]
