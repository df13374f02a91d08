"""The volume against real direct I/O: files on the machine's file system, block devices with both sector sizes."""

import os
import shutil
import subprocess
from collections import namedtuple

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.storage.archive import MEMBERS, read_archive, write_archive
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.io_process import direct_read
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.volumes import SCANNED, check_volume, create_volume

pytestmark = pytest.mark.contract

SLOT = 4096
SIZE = 9 << 20
Volume = namedtuple("Volume", "path sector_size is_device")


def loop_device(path, *options):
    """The device, or a skip that names what this machine lacks."""
    if shutil.which("losetup") is None:
        pytest.skip("losetup is missing (package mount)")
    done = subprocess.run(["losetup", "--find", "--show", *options, path], capture_output=True, text=True, timeout=30)
    if done.returncode:
        pytest.skip(f"losetup: no loop device here ({done.stderr.strip()})")
    return done.stdout.strip()


@pytest.fixture(params=["file", "loop-512", "loop-4096"])
def volume(request, tmp_path):
    path = tmp_path / "volume"
    with open(path, "wb") as file:
        file.write(bytes(SIZE))
    if request.param == "file":
        yield Volume(str(path), 512, False)
        return
    sector_size = int(request.param.split("-")[1])
    device = loop_device(path, "--direct-io=on", "--sector-size", str(sector_size))
    try:
        yield Volume(device, sector_size, True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)


@pytest.fixture
def worker(volume):
    worker = IoWorker(volume.path, volume.sector_size, SystemClock(1.0))
    yield worker
    worker.close(2)


def test_slots_there_and_back(worker):
    slots = {number: os.urandom(SLOT) for number in (0, 1, 7, 2000)}
    for number, data in slots.items():
        worker.write(number * SLOT, data, 5)
    scan = worker.read(0, SCANNED, 5)
    assert {number: scan[number * SLOT : (number + 1) * SLOT] for number in slots} == slots
    assert scan[2 * SLOT : 7 * SLOT] == bytes(5 * SLOT)


def test_a_write_is_seen_by_another_opener_without_the_cache(worker, volume):
    worker.write(SLOT, b"a" * SLOT, 5)
    other = IoWorker(volume.path, volume.sector_size, SystemClock(1.0))
    try:
        assert other.read(SLOT, SLOT, 5) == b"a" * SLOT
        worker.write(SLOT, b"b" * SLOT, 5)
        assert other.read(SLOT, SLOT, 5) == b"b" * SLOT
    finally:
        other.close(2)


def test_what_it_is(worker, volume):
    facts = worker.probe(5)
    assert (facts.size, facts.is_device) == (SIZE, volume.is_device)
    if volume.is_device:
        assert facts.sector_size == volume.sector_size
    check_volume(volume.path, SCANNED, facts.sector_size)


def test_the_end_of_the_volume(worker):
    worker.write(SIZE - SLOT, b"z" * SLOT, 5)
    for access in (lambda: worker.write(SIZE, bytes(SLOT), 5), lambda: worker.read(SIZE - SLOT, 2 * SLOT, 5)):
        with pytest.raises(StorageError) as caught:
            access()
        assert caught.value.code == "too-small"


def test_the_archive(volume):
    members = {name: os.urandom(1000) for name in MEMBERS}
    write_archive(volume.path, members)
    assert read_archive(volume.path) == members


def test_a_domain_for_small_sectors_on_a_device_with_large_ones(volume):
    if volume.sector_size != 4096:
        check_volume(volume.path, SIZE, 4096)
        return
    with pytest.raises(DomainProblem) as caught:
        check_volume(volume.path, SIZE, 512)
    assert caught.value.code == "sector-size"


def test_a_read_only_device(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(bytes(SIZE))
    device = loop_device(path, "--read-only")
    worker = IoWorker(device, 512, SystemClock(1.0))
    try:
        assert worker.read(0, SLOT, 5) == bytes(SLOT)
        with pytest.raises(StorageError) as caught:
            worker.write(0, bytes(SLOT), 5)
        assert caught.value.code == "read-only"
        with pytest.raises(DomainProblem) as problem:
            check_volume(device, SIZE, 512)
        assert problem.value.code == "read-only"
        for force in (False, True):
            with pytest.raises(DomainProblem) as problem:
                create_volume(device, SIZE, None, force)
            assert problem.value.code == "read-only" and "--setrw" in problem.value.what_to_do
    finally:
        worker.close(2)
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)


class TestCreate:
    """Volumes that are there already: files and devices, with sectors of both sizes."""

    def test_zeros_are_taken_and_the_whole_scanned_area_is_zeroed(self, volume):
        create_volume(volume.path, SCANNED, None, zeroed=SCANNED)
        with open(volume.path, "r+b") as file:
            file.write(b"\xff" * SIZE)
            os.fsync(file.fileno())
        with pytest.raises(DomainProblem) as caught:
            create_volume(volume.path, SCANNED, None, zeroed=SCANNED)
        assert caught.value.code == "in-use"
        create_volume(volume.path, SCANNED, None, force=True, zeroed=SCANNED)
        whole = direct_read(volume.path, 0, SIZE)
        assert whole[:SCANNED] == bytes(SCANNED)
        assert whole[SCANNED:] == b"\xff" * (SIZE - SCANNED)

    def test_one_byte_at_the_end_of_the_examined_area_is_enough(self, volume):
        with open(volume.path, "r+b") as file:
            file.seek(SCANNED - 1)
            file.write(b"x")
        with pytest.raises(DomainProblem):
            create_volume(volume.path, SCANNED, None, zeroed=SCANNED)
        assert direct_read(volume.path, SCANNED // 4096 * 4096 - 4096, 8192)[4095:4096] == b"x"


@pytest.fixture(params=[512, 4096])
def device(request, tmp_path):
    path = tmp_path / "backing"
    with open(path, "wb") as file:
        file.write(bytes(SIZE))
    made = loop_device(path, "--direct-io=on", "--sector-size", str(request.param))
    try:
        yield made
    finally:
        subprocess.run(["losetup", "--detach", made], check=True, timeout=30)


def test_a_device_is_neither_extended_nor_given_away(device):
    before = os.stat(device)
    with pytest.raises(DomainProblem) as caught:
        create_volume(device, 2 * SIZE, (36, 36))
    assert caught.value.code == "too-small"
    create_volume(device, SIZE, (36, 36))
    after = os.stat(device)
    assert (before.st_uid, before.st_mode) == (after.st_uid, after.st_mode)


def test_a_mounted_device_is_refused_also_with_force(device, tmp_path):
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", device], check=True, timeout=60)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", device, str(mounted)], check=True, timeout=60)
    try:
        (mounted / "kept").write_bytes(b"kept")
        with pytest.raises(DomainProblem) as caught:
            create_volume(device, SCANNED, None, force=True)
        assert caught.value.code == "in-use"
        assert (mounted / "kept").read_bytes() == b"kept"
    finally:
        subprocess.run(["umount", str(mounted)], check=True, timeout=60)


def test_a_look_tells_the_owner(volume, worker):
    found = worker.look(volume.path, 5)
    status = os.stat(volume.path)
    assert found.owner == (status.st_uid, status.st_gid)
    assert (found.size, found.sector_size, found.is_device) == (SIZE, volume.sector_size, volume.is_device)
