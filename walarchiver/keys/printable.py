"""A key on paper: nine short lines, each with its own check, to be typed in at three in the morning.

Rules (docs/format.md, section 4):
- 86 bytes (version, role, repository, root key, secret, checksum) in lines of 10 bytes: a number,
  16 digits, and a check of 4 digits that covers number and bytes.
- Digits are Crockford's base32: no I, L, O, U; readers take lower case and the usual confusions.
- A fault names the line. The name of the key is not part of it.
"""

from __future__ import annotations

import hashlib
import re

from walarchiver.errors import ConfigError
from walarchiver.keys.keyfile import KeyFile, KeyRole, check_consistent

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LINE_BYTES = 10
_LINES = 9
_PAYLOAD_BYTES = 82
_ROLES = tuple(KeyRole)
_LINE = re.compile(r"\s*([1-9])\s*:(.*)")
_LOOKALIKES = str.maketrans("ILO", "110", " -\t")


def printable_form(key: KeyFile) -> str:
    """The lines to print; `parse_printable` is the inverse but for the name."""
    payload = bytes([1, _ROLES.index(key.role) + 1]) + bytes.fromhex(key.repo) + key.root + key.secret
    whole = (payload + hashlib.sha256(payload).digest()[:4]).ljust(_LINES * _LINE_BYTES, b"\0")
    lines = [
        _spell_line(number, whole[(number - 1) * _LINE_BYTES : number * _LINE_BYTES])
        for number in range(1, _LINES + 1)
    ]
    return "\n".join(lines) + "\n"


def parse_printable(text: str, *, name: str) -> KeyFile:
    """The key that was typed in; it is given `name`.

    Blank lines and lines that begin with # do not count. Raises ConfigError, which names every
    line that has a typing error.
    """
    found: dict[int, bytes] = {}
    faults: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            faults.append(f"{line.strip()[:6]!r}… has no number")
            continue
        number = int(match[1])
        content = _read_line(number, match[2])
        if content is None or found.get(number, content) != content:
            faults.append(f"line {number} is mistyped")
        else:
            found[number] = content
    faults += [f"line {number} is missing" for number in range(1, _LINES + 1) if number not in found]
    mistyped = [fault for fault in faults if "mistyped" in fault]
    faults = [f for f in faults if f.replace("missing", "mistyped") not in mistyped or f in mistyped]
    if faults:
        raise ConfigError("printed key: " + ", ".join(sorted(set(faults))), hint="Type those lines again.")
    return _key(b"".join(found[number] for number in range(1, _LINES + 1)), name)


def _key(whole: bytes, name: str) -> KeyFile:
    payload, checksum, padding = whole[:_PAYLOAD_BYTES], whole[82:86], whole[86:]
    if hashlib.sha256(payload).digest()[:4] != checksum or any(padding):
        raise ConfigError(
            "printed key: every line fits, but not together", hint="Are lines of two different keys mixed?"
        )
    version, role = payload[0], payload[1]
    if version != 1 or not 1 <= role <= len(_ROLES):
        raise ConfigError(f"printed key of version {version} and role {role} is not known")
    key = KeyFile(_ROLES[role - 1], name, payload[2:18].hex(), payload[18:50], payload[50:82])
    check_consistent(key)
    return key


def _spell_line(number: int, content: bytes) -> str:
    digits = _spell(int.from_bytes(content, "big"), 16)
    groups = " ".join(digits[start : start + 4] for start in range(0, 16, 4))
    return f"{number}: {groups}  {_line_check(number, content)}"


def _read_line(number: int, shown: str) -> bytes | None:
    digits = shown.upper().translate(_LOOKALIKES).translate(str.maketrans("", "", " -\t"))
    if len(digits) != 20 or any(digit not in _DIGITS for digit in digits):
        return None
    value = 0
    for digit in digits[:16]:
        value = value * 32 + _DIGITS.index(digit)
    content = value.to_bytes(_LINE_BYTES, "big")
    return content if _line_check(number, content) == digits[16:] else None


def _line_check(number: int, content: bytes) -> str:
    start = hashlib.sha256(bytes([number]) + content).digest()[:3]
    return _spell(int.from_bytes(start, "big") >> 4, 4)


def _spell(value: int, length: int) -> str:
    return "".join(_DIGITS[value >> 5 * place & 31] for place in reversed(range(length)))
