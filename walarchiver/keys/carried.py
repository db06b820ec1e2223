"""What every repository carries along so that it can be read without us: `v1/reader/`.

Rules (docs/format.md, section 6):
- The text of the format, the stand-alone reader and the vectors, as this release has them.
- Written once by `keys init`, never replaced: what is there belongs to the repository. Nobody
  trusts it and nobody needs it; a repository without it is whole.
- The copies beside this module are package data, made by `python -m tests.vectors.carry`; a test
  compares them with docs/ and tests/vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib import resources

from walarchiver.core.objectname import reader_key
from walarchiver.errors import KeyTaken
from walarchiver.ports import ObjectStore

_FOLDER = "reader"
_SOURCE_SUFFIX = ".txt"
"""Programs are kept as text, so that nobody takes them for modules of the package."""


def carried_files() -> Mapping[str, bytes]:
    """The files by the name that they have below `v1/reader/`."""
    folder = resources.files(__package__).joinpath(_FOLDER)
    return {
        file.name.removesuffix(_SOURCE_SUFFIX) if ".py" in file.name else file.name: file.read_bytes()
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
    }


def write_carried_files(store: ObjectStore) -> None:
    """Fill `v1/reader/`; what is there already stays. Raises StoreUnavailable, StoreDenied."""
    for name, content in carried_files().items():
        with contextlib.suppress(KeyTaken):
            store.put_new(reader_key(name), content)
