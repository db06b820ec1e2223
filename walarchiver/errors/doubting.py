"""Bytes that do not verify, and what fetch answers when a file cannot be had."""

from __future__ import annotations

from walarchiver.errors.base import WalarchiverError


class Untrusted(WalarchiverError):
    """Something in the repository does not verify; it is not used."""

    code = "WA-UNTRUSTED"
    exit_status = 15
    hint = "Keep the repository as it is and find out who wrote there; other copies of the object may verify."


class ObjectDamaged(Untrusted):
    """A stored object does not have the bytes that the ledger recorded, or does not open."""

    code = "WA-OBJECT-DAMAGED"


class ObjectMissing(Untrusted):
    """The ledger records an object that the store does not have."""

    code = "WA-OBJECT-MISSING"
    hint = "Was something deleted in the bucket? A versioned bucket may still hold it."


class ObjectMisplaced(ObjectDamaged):
    """A stored object opens, but it is another one than its place in the ledger says."""

    code = "WA-OBJECT-MISPLACED"


class BadSignature(Untrusted):
    """A signature is not by the key that it has to be by."""

    code = "WA-SIGNATURE"


class LedgerBroken(Untrusted):
    """The ledger is not one unbroken, signed chain."""

    code = "WA-LEDGER"


class LedgerRewound(LedgerBroken):
    """The ledger in the store lacks entries that were read here before; the shorter one is not believed."""

    code = "WA-LEDGER-REWOUND"
    hint = (
        "Was an older copy put in the bucket's place, or something deleted? Look for versions and copies. "
        "`walarchiver catalog rebuild`, run as the same user, says what would be lost and how to go on "
        "without it."
    )


class KeyringBroken(Untrusted):
    """The keyring does not lead from the pinned root key to the signer."""

    code = "WA-KEYRING"
    hint = "Does `root` in the [repository] section belong to this repository?"


class MalformedObject(Untrusted):
    """Bytes that should follow the repository format do not."""

    code = "WA-FORMAT"


class ProvenAbsent(WalarchiverError):
    """The file is proven not to be in the archive: the true end, not a failure."""

    code = "WA-ABSENT"
    exit_status = 1
    hint = "Nothing to do: PostgreSQL asks for files past the end of the archive as a matter of course."


class FetchInDoubt(WalarchiverError):
    """The file could not be had and could not be proven absent, so recovery must stop and wait."""

    code = "WA-DOUBT"
    exit_status = 1
    hint = "Repair what the message names and start PostgreSQL again: it goes on where it stopped."
