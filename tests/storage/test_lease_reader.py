"""The lease's holder through a worker process: read, damaged, missing, hanging."""

import os

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import LeaseId, LeaseOwner
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable
from ovirt_he_ha.storage.lease_reader import LeaseReader
from tests.lease.test_leader import sector
from tests.own_time import OwnTime


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "lease"
    path.write_bytes(sector(2, 9, 77).ljust(1 << 20, b"\0"))
    reader = LeaseReader(LeaseId("sd", "key", str(path), 0), SystemClock(1.0))
    yield reader, path
    reader.rest()


def test_the_owner_is_what_the_volume_says_at_this_moment(made):
    reader, path = made
    assert reader.owner() == LeaseOwner(2, 9, 77)
    with path.open("r+b") as file:
        file.write(sector(3, 1, 78))
        os.fsync(file.fileno())
    assert reader.owner() == LeaseOwner(3, 1, 78)


def test_what_cannot_be_read_is_unknown_and_later_known_again(made):
    reader, path = made
    path.rename(path.with_suffix(".away"))
    with pytest.raises(LeaseUnreadable):
        reader.owner()
    path.with_suffix(".away").rename(path)
    assert reader.owner().host_id == 2
    reader.use_sector_size(4096)
    with pytest.raises(LeaseUnreadable):
        reader.owner()


def test_the_offset_of_a_block_domain(tmp_path):
    path = tmp_path / "leases"
    path.write_bytes(b"x" * (1 << 20) + sector(4, 1, 5).ljust(1 << 20, b"\0"))
    reader = LeaseReader(LeaseId("sd", "key", str(path), 1 << 20), SystemClock(1.0))
    assert reader.owner() == LeaseOwner(4, 1, 5)
    reader.rest()


def test_a_storage_that_hangs_is_unknown_in_time(made, monkeypatch):
    reader, _ = made
    # A read that is answered has time for a process on a busy machine; the one that is not waits for its deadline.
    monkeypatch.setattr("ovirt_he_ha.storage.lease_reader.READ_SECONDS", 60.0)
    assert reader.owner().host_id == 2
    os.kill(reader._worker._process.popen.pid, 19)  # SIGSTOP: as one that sleeps in the kernel
    with monkeypatch.context() as hung:
        hung.setattr("ovirt_he_ha.storage.lease_reader.READ_SECONDS", 0.2)
        took = OwnTime()
        with pytest.raises(LeaseUnreadable):
            reader.owner()
        assert took.wall >= 0.2 and took.seconds < 2.0
    assert reader.owner().host_id == 2  # by another process
