"""What can keep the application's bucket from being restored to a moment."""

from __future__ import annotations

from walarchiver.errors.asking import NotReachable
from walarchiver.errors.base import WalarchiverError
from walarchiver.errors.refusing import Refused


class BucketIndexStale(Refused):
    """The bucket's index rests on no complete and recent listing, so nothing was planned from it."""

    code = "WA-BUCKET-STALE"
    hint = "Run `walarchiver bucket scan`, then ask again."


class BucketWindowOpen(NotReachable):
    """At the asked moment the bucket may have held versions that nothing remembers."""

    code = "WA-BUCKET-WINDOW"
    hint = "The answer names the causes. To restore what is known all the same, add --accept-incomplete."


class BucketVersionsLost(NotReachable):
    """Versions that the bucket held at the asked moment were removed for ever, or cannot be read."""

    code = "WA-BUCKET-LOST"
    exit_status = 15
    hint = "The answer lists them, each with its cause. Does a second bucket have them (--from-bucket)?"


class Inconsistent(WalarchiverError):
    """The database refers to objects of which the bucket has no version that fits."""

    code = "WA-INCONSISTENT"
    exit_status = 15
    hint = (
        "The answer names them. What was only deleted comes back with `walarchiver bucket restore "
        "--missing-only`; "
        "for what is lost, ask whether a second bucket or an export has it."
    )


class BucketRestoreFailed(Refused):
    """Some keys of the bucket could not be restored; no version was removed."""

    code = "WA-BUCKET-RESTORE"
    hint = "The answer lists them. Mend the cause and go on with --plan ID: what is done is not done again."


class PinNotKept(Refused):
    """The bucket's lifecycle rules would remove versions before the pin ends; no pin was made."""

    code = "WA-PIN-NOT-KEPT"
    hint = (
        "Name a backup bucket as `copies` in [cluster.NAME.bucket], or lengthen the rules. --no-copy pins "
        "all the same, --keep says for how long it shall hold."
    )


class PinIncomplete(WalarchiverError):
    """Versions that a pin keeps are gone, or hold other bytes."""

    code = "WA-PIN-INCOMPLETE"
    exit_status = 15
    hint = "The answer lists them. Does a second bucket have them? Make the next pin with --copy."
