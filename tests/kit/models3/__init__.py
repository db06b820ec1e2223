"""A model of Amazon S3 with versions, in memory, served over HTTP on loopback.

Rules:
- `state.py` and what it uses are the model: pure of HTTP, threads and the real time. `server.py` is a thin
  layer.
- What AWS documents is what it does; each fact is a test in `tests/models3`, with its source named.
- Time stands still until `clock.step`. Faults happen when they were scripted, never by chance.
- Everything that happened can be asked for: `log` (requests), `feed` (event messages).
"""

from tests.kit.models3.clock import ModelClock, at
from tests.kit.models3.feed import Feed
from tests.kit.models3.policy import Role
from tests.kit.models3.requestlog import Logged, RequestLog
from tests.kit.models3.server import ModelOptions, ModelS3

__all__ = ["Feed", "Logged", "ModelClock", "ModelOptions", "ModelS3", "RequestLog", "Role", "at"]
