"""Room for a restore: counted per file system, refused before anything is written, named when it ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from restore.diskspace import check_room, unwritable
from walarchiver.errors import RestoreFailed, TargetDiskFull


def free_bytes(folder: Path) -> int:
    state = os.statvfs(folder)
    return (state.f_bfree if os.geteuid() == 0 else state.f_bavail) * state.f_frsize


def test_what_fits_is_let_through_also_below_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    check_room({tmp_path / "a" / "b": 1 << 10, tmp_path: 1 << 10})
    assert list(tmp_path.iterdir()) == []


def test_folders_on_one_file_system_are_counted_together(tmp_path: Path) -> None:
    most = free_bytes(tmp_path) // 3 * 2
    check_room({tmp_path / "a": most})
    with pytest.raises(TargetDiskFull, match="are free") as told:
        check_room({tmp_path / "a": most, tmp_path / "b": most})
    assert "--no-space-check" in told.value.next_step
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, TargetDiskFull),
        (errno.EDQUOT, TargetDiskFull),
        (errno.EFBIG, TargetDiskFull),
        (errno.EIO, RestoreFailed),
        (errno.EROFS, RestoreFailed),
    ],
)
def test_what_a_disk_refuses_on_the_way_says_in_which_state_the_directory_is(
    number: int, kind: type[RestoreFailed]
) -> None:
    error = unwritable(Path("/srv/new"), OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert os.strerror(number) in error.message
    assert error.next_step.startswith("/srv/new is unfinished, and PostgreSQL does not start on it")
