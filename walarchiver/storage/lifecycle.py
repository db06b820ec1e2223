"""What a bucket's lifecycle rules do to a repository in it, or to the versions of an evidence bucket.

Source: S3 API, GetBucketLifecycleConfiguration (Rule, Filter, Expiration, NoncurrentVersionExpiration,
Transition). Only enabled rules whose prefix meets the repository's are looked at; a rule that also
asks for tags or sizes is counted, since it might fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from walarchiver.bucketports import LifecycleRule

_SLOW_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes that do not give an object back at once (S3 storage classes)."""


def harmful_rules(answer: Mapping[str, object], prefix: str) -> tuple[str, ...]:
    """A line for each thing that enabled rules do to objects below `prefix` sooner or later."""
    rules = answer.get("Rules")
    found: list[str] = []
    for rule in rules if isinstance(rules, list) else []:
        if isinstance(rule, dict) and rule.get("Status") == "Enabled" and _meets(rule, prefix):
            found += [f"rule {rule.get('ID') or 'without a name'} {act}" for act in _acts(rule)]
    return tuple(found)


def removing_rules(answer: Mapping[str, object], prefix: str) -> tuple[LifecycleRule, ...]:
    """The enabled rules that meet `prefix` and remove versions, or hide objects, sooner or later."""
    rules = answer.get("Rules")
    found = (
        _removal(rule)
        for rule in (rules if isinstance(rules, list) else [])
        if isinstance(rule, dict) and rule.get("Status") == "Enabled" and _meets(rule, prefix)
    )
    return tuple(rule for rule in found if rule.expires or rule.noncurrent_days is not None)


def _removal(rule: Mapping[str, object]) -> LifecycleRule:
    noncurrent = rule.get("NoncurrentVersionExpiration")
    expiration = rule.get("Expiration")
    days = noncurrent.get("NoncurrentDays") if isinstance(noncurrent, dict) else None
    newer = noncurrent.get("NewerNoncurrentVersions") if isinstance(noncurrent, dict) else None
    return LifecycleRule(
        id=str(rule.get("ID") or ""),
        prefix=_prefix_of(rule),
        noncurrent_days=days if isinstance(days, int) else None,
        newer_noncurrent=newer if isinstance(newer, int) else None,
        expires=isinstance(expiration, dict) and ("Days" in expiration or "Date" in expiration),
        filtered=_is_filtered(rule.get("Filter")),
    )


def _is_filtered(found: object) -> bool:
    """Whether a rule asks for more than a prefix: then it stands in Filter, or in Filter's And."""
    if not isinstance(found, dict):
        return False
    both = found.get("And")
    return bool((both if isinstance(both, dict) else found).keys() - {"Prefix"})


def _meets(rule: Mapping[str, object], prefix: str) -> bool:
    theirs = _prefix_of(rule)
    return theirs.startswith(prefix) or prefix.startswith(theirs)


def _prefix_of(rule: Mapping[str, object]) -> str:
    """The prefix stands in the rule itself (old form), in its filter, or in the filter's And."""
    place: object = rule
    for name in ("Filter", "And"):
        if isinstance(place, dict):
            if isinstance(place.get("Prefix"), str):
                return str(place["Prefix"])
            place = place.get(name)
    return str(place["Prefix"]) if isinstance(place, dict) and isinstance(place.get("Prefix"), str) else ""


def _acts(rule: Mapping[str, object]) -> Iterator[str]:
    expiration = rule.get("Expiration")
    if isinstance(expiration, dict):
        if "Days" in expiration:
            yield f"removes objects after {expiration['Days']} days"
        elif "Date" in expiration:
            yield f"removes objects on {expiration['Date']}"
    noncurrent = rule.get("NoncurrentVersionExpiration")
    if isinstance(noncurrent, dict) and "NoncurrentDays" in noncurrent:
        yield f"removes what was deleted or replaced after {noncurrent['NoncurrentDays']} days"
    transitions = rule.get("Transitions")
    for transition in transitions if isinstance(transitions, list) else []:
        if isinstance(transition, dict) and transition.get("StorageClass") in _SLOW_CLASSES:
            yield f"moves objects to {transition['StorageClass']}, where a restore waits for hours"
