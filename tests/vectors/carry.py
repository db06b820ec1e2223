"""Copies docs/format.md, docs/reader/ and the vectors to where the wheel takes them from.

`python -m tests.vectors.carry`, after each change of one of them; test_carried.py compares.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ROOT / "walarchiver/keys/reader"
BEGINNING_OF_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def sources() -> dict[str, Path]:
    """Each carried file but the archive of the vectors, and what it is a copy of."""
    reader = [file for file in (ROOT / "docs/reader").iterdir() if file.is_file()]
    return {
        f"{file.name}.txt" if file.suffix == ".py" else file.name: file
        for file in (ROOT / "docs/format.md", *reader)
    }


def vectors() -> dict[str, bytes]:
    """What the archive of the vectors holds, by name."""
    here = Path(__file__).parent
    files = [*here.glob("*.json"), here / "by_reader.py"]
    return {file.name: file.read_bytes() for file in sorted(files)}


def main() -> None:
    CARRIED.mkdir(exist_ok=True)
    for name, source in sources().items():
        (CARRIED / name).write_bytes(source.read_bytes())
    with zipfile.ZipFile(CARRIED / "vectors.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in vectors().items():
            archive.writestr(
                zipfile.ZipInfo(name, BEGINNING_OF_ZIP_TIME), content, compress_type=zipfile.ZIP_DEFLATED
            )


if __name__ == "__main__":
    main()
