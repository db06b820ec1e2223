"""backup_manifest: PostgreSQL's own list of the files of a base backup, and the check against it.

Rules:
- The manifest's last line holds the SHA-256 of everything before it; it is checked first.
- Every file must be there with its size and checksum, and no other file may be.
- CRC-32C is PostgreSQL's witness that a file came as it was sent, not a defence: what was stored is proven
  by the digests of the parts. Sums of pieces are joined, so a file can be checked while it is written in any
  order. The SHA-2 family, which older backups have, needs a file's bytes in order.

Source: PostgreSQL documentation, "Backup Manifest Format"; src/common/parse_manifest.c.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from io import BufferedReader

from walarchiver.core.crc32c import crc32c
from walarchiver.errors import MalformedObject, RestoreFailed

_LAST_KEY = b'"Manifest-Checksum"'
_SHA2 = {"SHA224": "sha224", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}
CRC32C = "crc32c"
NO_CHECKSUM = "none"
_ALGORITHMS = {**_SHA2, "CRC32C": CRC32C, "NONE": NO_CHECKSUM}
_READ_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file; `path` is relative to the data directory, tablespaces being at pg_tblspc/OID."""

    path: str
    size: int
    algorithm: str
    """As hashlib names it, or CRC32C, or NO_CHECKSUM."""
    checksum: str


@dataclass(frozen=True, slots=True)
class BackupManifest:
    version: int
    files: dict[str, ManifestFile]


def parse_manifest(content: bytes) -> BackupManifest:
    """Check the manifest's own checksum and read it.

    Raises RestoreFailed when the checksum does not fit, MalformedObject when it is no manifest.
    """
    end = content.rfind(b"\n", 0, content.rfind(_LAST_KEY)) + 1
    if _LAST_KEY not in content or end == 0:
        raise MalformedObject("the backup manifest has no checksum line")
    try:
        document = json.loads(content)
        own = str(document["Manifest-Checksum"])
        version = int(document["PostgreSQL-Backup-Manifest-Version"])
        files = [_file(entry) for entry in document["Files"]]
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise MalformedObject(f"the backup manifest cannot be read: {cause!r}") from cause
    digest = hashlib.sha256(content[:end]).hexdigest()
    if digest != own.lower():
        raise RestoreFailed(f"the backup manifest has SHA-256 {digest}, but says {own} of itself")
    if version not in (1, 2):
        raise MalformedObject(f"the backup manifest has version {version}, known are 1 and 2")
    by_path = {one.path: one for one in files}
    if len(by_path) != len(files):
        raise MalformedObject("the backup manifest names a file twice")
    return BackupManifest(version, by_path)


def check_same_files(manifest: BackupManifest, found: dict[str, int]) -> None:
    """`found`: size by path. Raises RestoreFailed naming what is missing, unknown or of another size."""
    wrong = [f"{path} is missing" for path in manifest.files.keys() - found.keys()]
    wrong += [f"{path} is not in the manifest" for path in found.keys() - manifest.files.keys()]
    for path, size in found.items():
        listed = manifest.files.get(path)
        if listed is not None and listed.size != size:
            wrong.append(f"{path} has {size} bytes instead of {listed.size}")
    refuse(sorted(wrong))


def has_its_checksum(handle: BufferedReader, listed: ManifestFile) -> bool:
    """Read the file to its end and compare."""
    if listed.algorithm == NO_CHECKSUM:
        return True
    if listed.algorithm != CRC32C:
        return hashlib.file_digest(handle, listed.algorithm).hexdigest() == listed.checksum
    crc = 0
    while piece := handle.read(_READ_BYTES):
        crc = crc32c(piece, crc)
    return crc32c_text(crc) == listed.checksum


def crc32c_text(crc: int) -> str:
    """A sum as the manifest spells it: its four bytes in the order of a little-endian machine."""
    return struct.pack("<I", crc).hex()


def refuse(faults: list[str]) -> None:
    """Raises RestoreFailed when there are any faults."""
    if faults:
        shown = "; ".join(faults[:5])
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise RestoreFailed(f"the unpacked backup does not agree with its manifest: {shown}{more}")


def _file(entry: dict[str, object]) -> ManifestFile:
    if "Encoded-Path" in entry:
        path = bytes.fromhex(str(entry["Encoded-Path"])).decode("utf-8", "surrogateescape")
    else:
        path = str(entry["Path"])
    name = str(entry.get("Checksum-Algorithm", "NONE"))
    algorithm = _ALGORITHMS.get(name)
    if algorithm is None:
        raise MalformedObject(f"{path} in the backup manifest has the checksum algorithm {name!r}")
    size = entry["Size"]
    if not isinstance(size, int):
        raise TypeError(size)
    return ManifestFile(path, size, algorithm, str(entry.get("Checksum", "")).lower())
