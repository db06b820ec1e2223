"""From a request to its answer: permission, the call it is for, refusals. Still without HTTP."""

from __future__ import annotations

import re

from tests.kit.models3.bucketcalls import BucketCalls
from tests.kit.models3.objectcalls import ObjectCalls
from tests.kit.models3.permissions import Permissions
from tests.kit.models3.refusals import Refusal
from tests.kit.models3.state import State
from tests.kit.models3.uploadcalls import UploadCalls
from tests.kit.models3.uploads import Uploads
from tests.kit.models3.wire import Call, Reply, refused

_WORD = re.compile(r"(?<!^)(?=[A-Z])")
_HIDDEN = ("NoSuchKey", "NoSuchVersion")


def method_name(operation: str) -> str:
    """`ListObjectsV2` → `list_objects_v2`."""
    return _WORD.sub("_", operation).lower()


class Answering:
    """See the module."""

    def __init__(self, state: State, uploads: Uploads, permissions: Permissions) -> None:
        self._permissions = permissions
        objects = ObjectCalls(state, permissions)
        self._answerers = (BucketCalls(state), objects, UploadCalls(state, uploads, objects, permissions))
        self._answered = 0

    def answer(self, call: Call) -> Reply:
        """What the server says, refusals included."""
        self._answered += 1
        request_id = f"MODEL{self._answered:011d}"
        try:
            reply = self._carry_out(call)
        except Refusal as refusal:
            if refusal.code in _HIDDEN and self._permissions.hides_absence(call):
                refusal = Refusal("AccessDenied")
            reply = refused(refusal, call, request_id)
        reply.headers["x-amz-request-id"] = request_id
        return reply

    def _carry_out(self, call: Call) -> Reply:
        name = method_name(call.operation)
        for answerer in self._answerers:
            method = getattr(answerer, name, None)
            if method is not None:
                self._permissions.check(call)
                reply: Reply = method(call)
                return reply
        raise Refusal("NotImplemented", f"the model does not know {call.operation}")
