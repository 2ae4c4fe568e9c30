from __future__ import annotations

import errno
import os

import pytest

from tileconv.stores.disk import free_bytes, storage_error


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_tells_what_is_needed_and_what_is_free(tmp_path, number):
    error = storage_error(tmp_path / "out.tif", os_error(number), doing="write", needed_bytes=12345)
    message = str(error)
    assert str(tmp_path / "out.tif") in message
    assert os.strerror(number) in message
    assert "needed 12345 bytes" in message
    assert "free " in message
    assert error.exit_code == 6


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ENOTDIR])
def test_other_failures_name_file_reason_and_next_action(tmp_path, number):
    error = storage_error(tmp_path / "x", os_error(number), doing="create")
    message = str(error)
    assert message.startswith(f"cannot create {tmp_path / 'x'}: {os.strerror(number)}; ")
    assert "\n" not in message
    assert "needed" not in message


def test_free_bytes_of_a_path_that_is_not_there_are_its_folders(tmp_path):
    info = os.statvfs(tmp_path)
    free = free_bytes(tmp_path / "not" / "there" / "out.tif")
    # Others may be writing to the same disk.
    assert free == pytest.approx(info.f_bavail * info.f_frsize, rel=0.2)
