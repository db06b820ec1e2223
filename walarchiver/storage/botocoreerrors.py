"""How botocore says that a request failed, in the words of `s3answers.py`.

Rule: who uses botocore catches `LIBRARY_ERRORS`; who may do without it, `library_errors()` of `s3answers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import botocore.exceptions
import botocore.parsers
import urllib3.exceptions

from walarchiver.storage.s3answers import OWN_ERRORS, Refusal, printable

LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    *OWN_ERRORS,
    botocore.exceptions.ClientError,
    botocore.exceptions.BotoCoreError,
    botocore.parsers.ResponseParserError,
    urllib3.exceptions.HTTPError,
)
"""Everything that may be raised below when a request fails."""

TLS_FAILED = botocore.exceptions.SSLError
NO_KEYS = (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError)
NO_REQUEST = botocore.exceptions.ParamValidationError


def refusal_of(failure: Exception) -> Refusal | None:
    """The server's answer inside one of botocore's errors; None when there was no answer."""
    if not isinstance(failure, botocore.exceptions.ClientError):
        return None
    answer: Mapping[str, object] = failure.response
    error, meta = answer.get("Error"), answer.get("ResponseMetadata")
    fields = error if isinstance(error, dict) else {}
    status = meta.get("HTTPStatusCode") if isinstance(meta, dict) else None
    return Refusal(
        status=status if isinstance(status, int) else 0,
        code=str(fields.get("Code", "")),
        text=printable(str(fields.get("Message", ""))),
    )
