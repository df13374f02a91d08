"""S10: a volume that begins with zeros may hold something all the same."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.storage import content
from ovirt_he_ha.storage.content import MIB, first_content
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.volumes import create_volume, refuse_used

SIZE = 1 << 30


@pytest.fixture(params=["holes", "no holes are known"])
def volume(request, tmp_path, monkeypatch):
    """1 GiB, sparse; the second is what a device looks like."""
    path = tmp_path / "volume"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    if request.param != "holes":
        seek = os.lseek

        def without_holes(handle, offset, how):
            if how in (os.SEEK_DATA, os.SEEK_HOLE):
                raise OSError(errno.EINVAL, "Invalid argument")
            return seek(handle, offset, how)

        monkeypatch.setattr(content.os, "lseek", without_holes)
    return path


def found(path, whole=MIB):
    with open(path, "rb") as file:
        return first_content(file.fileno(), whole)


def put(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_zeros_are_nothing(volume, monkeypatch):
    read = []
    pread = os.pread
    monkeypatch.setattr(content.os, "pread", lambda *args: read.append(args[1]) or pread(*args))
    assert found(volume) is None
    assert sum(read) <= 20 * MIB


@pytest.mark.parametrize("offset", [0, MIB - 1, MIB, 3 * MIB + 5, SIZE // 2, SIZE - 1])
def test_s10_what_lies_behind_a_zeroed_beginning_is_found(volume, offset):
    put(volume, max(0, offset - 4095), bytes(4095) + b"x" + bytes(min(4 * MIB, SIZE - offset - 1)))
    if offset > MIB:  # as long as a file system's own structures are
        put(volume, offset, b"x" * min(4 * MIB, SIZE - offset))
    at = found(volume)
    assert at is not None and offset <= at < offset + 4 * MIB
    with pytest.raises(DomainProblem) as caught:
        create_volume(str(volume), SIZE, None)
    assert caught.value.code == "in-use" and str(at) in str(caught.value)
    with pytest.raises(DomainProblem) as caught:
        refuse_used(str(volume), MIB)
    assert caught.value.code == "in-use"
    create_volume(str(volume), SIZE, None, force=True)


def test_s10_a_single_byte_in_a_file_with_holes(tmp_path):
    path = tmp_path / "volume"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    put(path, 777_777_777, b"x")
    assert found(path) == 777_777_777


def test_a_preallocated_volume_of_ours_is_taken_again(tmp_path):
    path = tmp_path / "volume"
    create_volume(str(path), 64 * MIB, None, zeroed=9 * MIB)
    create_volume(str(path), 64 * MIB, None, zeroed=9 * MIB)
    assert found(path) is None


def test_a_file_of_many_pieces_is_looked_at_within_bounds(tmp_path, monkeypatch):
    path = tmp_path / "volume"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    for number in range(400):
        put(path, 2 * MIB * (number + 1), bytes(4096))
    read = []
    pread = os.pread
    monkeypatch.setattr(content.os, "pread", lambda *args: read.append(args[1]) or pread(*args))
    assert found(path) is None
    assert sum(read) < 64 * MIB


@given(st.integers(0, 300_000), st.integers(0, 300_000), st.binary(min_size=1, max_size=20))
def test_s10_up_to_16_mib_nothing_is_overlooked(tmp_path_factory, size, whole, data):
    path = tmp_path_factory.mktemp("x") / "volume"
    path.write_bytes(bytes(size) + data + bytes(size))
    at = found(path, whole)
    assert at == (size + len(data) - len(data.lstrip(b"\0")) if data.strip(b"\0") else None)
