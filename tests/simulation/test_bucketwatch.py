"""The watch over a bucket: whatever becomes of a listing, the daemon that archives WAL goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.chance import RealClock
from walarchiver.bucketports import EvidenceBucket
from walarchiver.bucketwatch import BucketWatch, Watched
from walarchiver.errors import WalarchiverError


def no_bucket() -> EvidenceBucket:
    raise AssertionError("without a database there are no tie points")


def first_alarm(command: Sequence[str]) -> WalarchiverError:
    """What the watch over a bucket that this command lists alarms about first."""

    async def watch() -> WalarchiverError:
        alarms: asyncio.Queue[WalarchiverError] = asyncio.Queue()
        watched = Watched("main", None, no_bucket, command, 3600.0)
        with ThreadPoolExecutor(1) as pool:
            watch = BucketWatch(watched, executor=pool, clock=RealClock(), alarm=alarms.put_nowait)
            running = asyncio.create_task(watch.run((), system=1))
            asking = asyncio.create_task(alarms.get())
            await asyncio.wait({running, asking}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            assert not running.done(), running.exception()
            running.cancel()
            return await asking

    return asyncio.run(watch())


def test_a_listing_that_cannot_be_started_is_an_alarm(tmp_path: Path) -> None:
    alarm = first_alarm([str(tmp_path / "there-is-none")])
    assert alarm.code == "WA-BUCKET-SCAN"
    assert "could not be started" in alarm.message


@pytest.mark.parametrize("lines", ["'x' * 200_000", "'first\\n' * 5 + 'the last'"])
def test_the_last_line_of_a_listing_that_failed_is_told_however_long_the_others_are(lines: str) -> None:
    program = f"import sys; sys.stderr.write({lines} + '\\n'); sys.exit(7)"
    alarm = first_alarm([sys.executable, "-c", program])
    assert alarm.message.startswith("`bucket scan` ended with status 7: ")
    assert len(alarm.message) < 5000
    assert ("the last" in alarm.message) is ("the last" in lines)
