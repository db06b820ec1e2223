"""What the application's versioned bucket can answer: changed meanwhile, unreadable, not protected."""

from __future__ import annotations

from walarchiver.errors.asking import ConfigError
from walarchiver.errors.passing import Transient
from walarchiver.errors.refusing import Refused


class NoBucket(ConfigError):
    """The cluster has no evidence bucket in the configuration."""

    code = "WA-NO-BUCKET"
    hint = "Add a [cluster.NAME.bucket] section with the bucket's url."


class BucketChanged(Refused):
    """A key of the bucket is no longer as it was seen, so it was not written; nothing was changed."""

    code = "WA-BUCKET-CHANGED"
    hint = "Somebody else writes to the bucket. Look at the key again, then decide anew."


class VersionUnreadable(Refused):
    """A version of an object exists no more, lies in an archive tier, or needs a key that is not at hand."""

    code = "WA-VERSION-UNREADABLE"
    hint = "Have the store bring it back from its archive tier, or give the key it was encrypted with."


class BucketNotVersioned(Refused):
    """Versioning of the bucket is off or suspended: what is replaced or deleted there is lost at once."""

    code = "WA-BUCKET-UNVERSIONED"
    hint = "Enable versioning of the bucket; what was written before that has no history."


class ListingIncomplete(Transient):
    """The bucket's listings contradict each other; nothing was concluded from them."""

    code = "WA-LISTING-INCOMPLETE"
    hint = "Does the store lose keys in its listings? docs/bucket.md says which do, and what helps."


class IndexUnavailable(Transient):
    """The index of the bucket's versions could not be read or written."""

    code = "WA-BUCKET-INDEX"
    hint = "Look at the disk, the free space and the permissions below `state`."


class IndexForeign(Refused):
    """The file is no index of a bucket's versions, is damaged, or was written by another release."""

    code = "WA-BUCKET-INDEX-FOREIGN"
    hint = (
        "Move the file away, then run `walarchiver catalog rebuild` (it brings back what only the index knew)"
        " and `walarchiver bucket scan`."
    )


class BucketScanFailed(Transient):
    """The daemon could not list the bucket to its end; the window for joint restores does not move on."""

    code = "WA-BUCKET-SCAN"
    hint = "Run `walarchiver bucket scan` by hand: it says what is wrong, and goes on where it was."


class ClocksApart(Transient):
    """The clocks of the database server and of the bucket's store differ by more than 2 s."""

    code = "WA-CLOCKS-APART"
    hint = "Which of them is right? Have both kept by NTP; joint restores count the difference in until then."
