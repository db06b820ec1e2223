"""A survey of one repository's store, judged by what a repository needs of it.

Rules:
- Reading back and listing what was just written is indispensable; without create-once only one host
  may archive; without versioning a deletion is for ever. Whether these credentials can delete is told,
  since a writer is better without that right.
- The scratch object lies outside of what any reader of a repository looks at (`v1/probe/`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from walarchiver.assembly import Host, store_of
from walarchiver.core.objectname import probe_key
from walarchiver.errors import UsageError, WalarchiverError
from walarchiver.operate.findings import Finding, Level, met
from walarchiver.settings import Settings
from walarchiver.storage.probe import Finding as Answer
from walarchiver.storage.probe import Property, survey

_NEEDED = {
    "read": (Level.FAIL, "Do not use this store: it does not give back what it took."),
    "list": (Level.FAIL, "Do not use this store: what is not listed would be taken for absent."),
    "create once": (
        Level.WARN,
        "Let one host only archive into it, or choose a store that honours If-None-Match.",
    ),
    "versioning": (Level.WARN, "Enable versioning of the bucket, so that a deletion can be undone."),
    "lifecycle": (Level.WARN, "Let no rule of the bucket remove objects or versions of the repository."),
    "clock": (Level.WARN, "Set the clocks of this host and of the store by NTP."),
}


@dataclass(frozen=True, slots=True)
class Probed:
    """What a store answered, and what that means."""

    url: str
    properties: tuple[Property, ...]
    findings: tuple[Finding, ...]


def chosen_repository(settings: Settings, name: str | None) -> str:
    """`name`, known to be configured, or the only repository's name. Raises ConfigError, UsageError."""
    if name is not None:
        settings.repository(name)
        return name
    if len(settings.repositories) == 1:
        return next(iter(settings.repositories))
    known = ", ".join(sorted(settings.repositories))
    raise UsageError(f"no repository was named, and there is {known}", hint="Name one with --repository.")


def probe_store(host: Host, repository: str, *, prefix: str = "") -> Probed:
    """Survey the store. Raises ConfigError; what the store refuses is a finding."""
    store = store_of(host, host.settings.repository(repository))
    with contextlib.closing(store):
        try:
            properties = survey(store, probe_key(host.random.token(8).hex()), host.clock)
        except WalarchiverError as error:
            return Probed(store.url, (), (met(f"{prefix}write", error),))
    return Probed(store.url, properties, tuple(_judged(one, prefix) for one in properties))


def _judged(one: Property, prefix: str) -> Finding:
    name = f"{prefix}{one.name}"
    level, hint = _NEEDED.get(one.name, (Level.OK, ""))
    if one.finding is Answer.HELD or level is Level.OK:
        return Finding(name, Level.OK, one.line)
    if one.finding is Answer.UNKNOWN:
        hint = "Permit these credentials to ask, or look at the bucket with an administrator's."
        return Finding(name, Level.WARN, f"could not be asked: {one.line}", hint)
    return Finding(name, level, one.line, hint)
