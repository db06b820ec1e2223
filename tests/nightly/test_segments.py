"""Fifty segments of 16 and 64 MB on each major; 1 MB is in tests/matrix/test_majors.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.scene import Scenes
from tests.matrix.test_majors import check_archive, write_segments
from walarchiver.embedded.postgres import MIB

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]

SEGMENTS = 50


@pytest.mark.parametrize("size_mb", [16, 64])
def test_fifty_segments_of_every_size_are_stored_once_and_whole(
    scenes: Scenes, major: int, size_mb: int, record_property: Callable[[str, object], None]
) -> None:
    scene = scenes.make(
        major,
        segment_bytes=size_mb * MIB,
        settings={"wal_keep_size": "8GB", "max_wal_size": "8GB"},
    )
    write_segments(scene, SEGMENTS, patience_s=300)
    check_archive(scene)
    record_property("segments", SEGMENTS)
