"""Finding the volume: named states, one worker for good, and a look that hangs."""

import os
import signal

import pytest

from ovirt_he_ha.broker.volume_door import VolumeDoor
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.storage.errors import DomainProblem, StorageError, StorageOverdue
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import MIB, SCANNED, DomainVolumes, VolumeName, VolumeSizes, create_domain
from tests.own_time import OwnTime

SD = "11111111-0000-4000-8000-000000000000"
NAMES = DomainVolumes(VolumeName("i1", "v1"), VolumeName("i2", "v2"), VolumeName("i3", "v3"), VolumeName("i4", "v4"))


class House:
    """A domain on the disk and a door to it."""

    def __init__(self, storage, seconds):
        create_domain(str(storage), SD, NAMES, VolumeSizes(SCANNED, MIB, MIB, MIB, MIB), owner=None)
        clock = SystemClock(1.0)
        self.domain = LocalDomain(str(storage), SD)
        self.path = self.domain.volume_path("i1", "v1")
        self.worker = IoWorker(self.path, clock=clock)
        self.sector_sizes = []
        self.storage = storage
        self.door = VolumeDoor(self.worker, self.check, clock, seconds)

    def check(self, files):
        domain = LocalDomain(str(self.storage), SD, files)
        domain.verify()
        domain.check(self.path, SCANNED, domain.sector_size())
        self.sector_sizes.append(domain.sector_size())

    def hold(self):
        """Freeze the worker's process, as storage does that does not answer."""
        os.kill(self.worker._process.popen.pid, signal.SIGSTOP)


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path, 30.0)  # what answers has time for it on a busy machine
    yield made
    made.worker.close(1)


def problem(house):
    with pytest.raises(StorageError) as caught:
        house.door.open()
    return caught.value


def test_the_same_worker_every_time(house):
    assert house.door.open() is house.worker
    assert house.door.open() is house.worker
    assert house.sector_sizes == [512, 512]


def test_what_is_wrong_is_named_and_looked_at_again(house):
    os.rename(house.path, house.path + ".away")
    assert problem(house).code == "missing"
    os.rename(house.path + ".away", house.path)
    os.truncate(house.path, 8192)
    assert problem(house).code == "too-small"
    os.truncate(house.path, SCANNED)
    with open(house.domain.metadata_path, "a") as file:
        file.write(f"SDUUID=2{SD[1:]}\n")
    assert problem(house).code == "metadata"
    with open(house.domain.metadata_path, "w") as file:
        file.write(f"SDUUID={SD}\n")
    assert house.door.open() is house.worker


def test_s4_a_look_that_hangs_is_given_up_in_time_and_goes_on_when_it_can(house):
    house.door.open()
    house.hold()
    house.door._seconds = 0.4
    took = OwnTime()
    assert isinstance(problem(house), StorageOverdue)
    assert took.seconds < 1.5
    house.door._seconds = 30.0
    assert house.door.open() is house.worker
    assert house.worker.abandoned == 0


def test_s4_the_storage_is_not_touched_by_this_process(house, monkeypatch):
    """A thread of the daemon that hangs in the kernel would survive its SIGKILL."""
    from ovirt_he_ha.storage import io_process

    def touched(*_arguments):
        raise AssertionError("in this process")

    for name in ("direct_read", "direct_write", "probe", "look", "text", "is_directory"):
        monkeypatch.setattr(io_process, name, touched)
    house.door.open()
    assert house.worker.read(0, 4096, 5) == bytes(4096)
    assert LocalDomain(str(house.storage), SD, house.door.files()).sector_size() == 512


def test_a_domain_that_is_not_there(tmp_path):
    clock = SystemClock(1.0)
    worker = IoWorker(str(tmp_path / "volume"), clock=clock)

    def check(files):
        LocalDomain(str(tmp_path), SD, files).verify()

    with pytest.raises(StorageError) as caught:
        VolumeDoor(worker, check, clock, 5).open()
    assert (caught.value.code, caught.value.path) == ("missing", str(tmp_path / SD))
    with pytest.raises(DomainProblem) as found:
        LocalDomain(str(tmp_path), SD).verify()
    assert found.value.code == "missing"
    with pytest.raises(IoFailure):
        VolumeDoor(worker, check, clock, 5).files().text(str(tmp_path))
    worker.close(1)
