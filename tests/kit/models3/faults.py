"""What can go wrong, by script: each fault for so many requests of an operation and key.

    server.faults.script(Refuse("SlowDown"), operation="CopyObject", times=2)
    server.faults.script(Meanwhile(lambda: app.put("a", b"newer")), operation="CopyObject", key="a")

Rules:
- A request meets the first fault that fits and is not used up; `after` lets so many fitting ones pass first.
- `Refuse` and `Reset` come before anything is done; `RefuseAfter`, `LoseAnswer` and `CutBody` after it was.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.kit.models3.wire import Call, Reply, text


@dataclass(frozen=True)
class Refuse:
    """Answer this error of S3; nothing is done."""

    code: str


@dataclass(frozen=True)
class RefuseAfter:
    """Do it, and answer this error: ambiguous for the caller."""

    code: str


@dataclass(frozen=True)
class Reset:
    """Reset the connection; nothing is done."""


@dataclass(frozen=True)
class LoseAnswer:
    """Do it, then reset the connection without an answer."""


@dataclass(frozen=True)
class CutBody:
    """Announce the whole body, send only its first bytes, and end the connection."""

    keep: int


@dataclass(frozen=True)
class ErrorIn200:
    """200 with an error in the body, as CopyObject and CompleteMultipartUpload may answer."""

    code: str = "InternalError"
    done: bool = False


@dataclass(frozen=True)
class Hold:
    """Wait for the event, then go on."""

    event: threading.Event


@dataclass(frozen=True)
class HoldAnswer:
    """Do it at once, and answer when the event is set."""

    event: threading.Event


@dataclass(frozen=True)
class Meanwhile:
    """Something else happens to the server just before."""

    act: Callable[[], object]


@dataclass(frozen=True)
class Change:
    """Change the answer."""

    change: Callable[[Reply], Reply]


@dataclass(frozen=True)
class LosePage:
    """A listing answers with the page behind the one asked for, if there is one."""


@dataclass(frozen=True)
class RepeatPage:
    """A listing answers with the page that it answered last, if any, under the markers asked for."""


@dataclass(frozen=True)
class DropKeys:
    """A listing leaves these keys out."""

    keys: frozenset[str]

    @classmethod
    def of(cls, *keys: str) -> DropKeys:
        return cls(frozenset(keys))


@dataclass(frozen=True)
class EndEarly:
    """A listing says that nothing follows."""


Fault = (
    Refuse
    | RefuseAfter
    | Reset
    | LoseAnswer
    | CutBody
    | ErrorIn200
    | Hold
    | HoldAnswer
    | Meanwhile
    | Change
    | LosePage
    | RepeatPage
    | DropKeys
    | EndEarly
)


@dataclass
class _Scripted:
    fault: Fault
    operation: str | None
    key: str | None
    left: int | None
    after: int


@dataclass
class Faults:
    """The script; see the module."""

    _scripted: list[_Scripted] = field(default_factory=list)

    def script(
        self,
        fault: Fault,
        *,
        operation: str | None = None,
        key: str | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> None:
        """`times` None: until `heal`."""
        self._scripted.append(_Scripted(fault, operation, key, times, after))

    def heal(self) -> None:
        """Forget what was not used up."""
        self._scripted.clear()

    @property
    def unused(self) -> int:
        """Faults that are still to come."""
        return len(self._scripted)

    def take(self, call: Call) -> Fault | None:
        """The fault that this request meets."""
        for scripted in self._scripted:
            if scripted.operation not in (None, call.operation) or scripted.key not in (None, call.key):
                continue
            if scripted.after:
                scripted.after -= 1
                continue
            if scripted.left is not None:
                scripted.left -= 1
                if scripted.left == 0:
                    self._scripted.remove(scripted)
            return scripted.fault
        return None


# --- what happens to listing pages

_ENTRY = re.compile(rb"<(Version|DeleteMarker|Contents)><Key>(.*?)</Key>.*?</\1>", re.DOTALL)


def field_of(page: bytes, name: str) -> str:
    """One element's raw text in a listing page; empty when it is not there."""
    found = re.search(rf"<{name}>(.*?)</{name}>".encode(), page, re.DOTALL)
    return found.group(1).decode() if found else ""


def without_keys(page: bytes, keys: frozenset[str]) -> bytes:
    """The page without its lines of these keys, as they are spelled there."""
    hidden = {text(key).encode() for key in keys}
    return _ENTRY.sub(lambda line: b"" if line.group(2) in hidden else line.group(0), page)


def ended(page: bytes) -> bytes:
    """The page as if it were the last."""
    page = page.replace(b"<IsTruncated>true</IsTruncated>", b"<IsTruncated>false</IsTruncated>")
    return re.sub(rb"<(Next\w+)>.*?</\1>", b"", page, flags=re.DOTALL)


def under_markers(page: bytes, asked: bytes) -> bytes:
    """The page with the markers that another one echoes."""
    for name in ("KeyMarker", "VersionIdMarker", "ContinuationToken", "StartAfter"):
        wanted = f"<{name}>{field_of(asked, name)}</{name}>".encode().replace(b"\\", rb"\\")
        page = re.sub(rf"<{name}>.*?</{name}>".encode(), wanted, page, flags=re.DOTALL)
    return page
