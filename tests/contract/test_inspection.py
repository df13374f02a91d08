"""A domain looked at, and volumes made, on storage that really fails or hangs, and on block devices."""

import os
import shutil
import subprocess
import time

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.storage.domain_files import FilesOfWorker
from ovirt_he_ha.storage.errors import DomainProblem, StorageOverdue
from ovirt_he_ha.storage.inspection import inspect
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import MIB, SCANNED, create_volume
from tests.contract import storage_view
from tests.contract.test_directio import loop_device
from tests.storage.test_inspection import SIZES, Domain

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(
        shutil.which("sanlock", path="/usr/sbin:/usr/bin") is None, reason="sanlock is missing: it formats the leases"
    ),
]


@pytest.fixture
def domain(tmp_path, monkeypatch):
    return Domain(tmp_path, monkeypatch)


@pytest.fixture
def view(tmp_path, domain):
    if storage_view.missing_component():
        pytest.skip(f"{storage_view.missing_component()} is missing: no storage that can hang")
    program = storage_view.build(tmp_path)
    mountpoint = tmp_path / "view"
    mountpoint.mkdir()
    made = storage_view.StorageView(program, domain.conf.storage, mountpoint)
    try:
        yield made
    finally:
        made.close()


def looked(domain, directory, seconds):
    clock = SystemClock(1.0)
    worker = IoWorker(str(directory), clock=clock)
    try:
        files = FilesOfWorker(worker, clock, seconds)
        return inspect(domain.conf, LocalDomain(str(directory), domain.conf.sd_uuid, files), files)
    finally:
        worker.close(1)


def test_storage_that_fails_and_hangs(domain, view):
    assert looked(domain, view.mountpoint, 20).is_whole
    view.set("error")
    report = looked(domain, view.mountpoint, 20)
    assert not report.is_whole and report.findings
    view.set("hang")
    began = time.monotonic()
    with pytest.raises(StorageOverdue):
        looked(domain, view.mountpoint, 1)
    assert time.monotonic() - began < 5
    view.set("ok")
    assert looked(domain, view.mountpoint, 20).is_whole


def test_a_volume_that_could_not_be_made_is_not_there(domain, view):
    path = view.mountpoint / "new"
    view.set("error")
    with pytest.raises(DomainProblem) as caught:
        create_volume(str(path), SCANNED, None)
    assert caught.value.code == "io"
    view.set("ok")
    assert not os.path.exists(os.path.join(domain.conf.storage, "new"))
    create_volume(str(path), MIB, None)
    assert os.path.getsize(os.path.join(domain.conf.storage, "new")) == MIB


class BlockDomain:
    """Volumes that are devices, in the layout of block domains; everything else is the file domain's."""

    def __init__(self, domain, devices):
        self._domain = domain
        self._devices = devices
        self.directory = domain.place.directory
        self.verify = domain.place.verify
        self.ids_path = devices["ids"]

    def sector_size(self):
        return 4096

    def alignment(self):
        return MIB

    def volume_path(self, image, volume):
        for role, device in self._devices.items():
            if role not in ("ids", "lease") and getattr(self._domain.names, role).volume == volume:
                return device
        return self._domain.place.volume_path(image, volume)

    def lease(self, image, volume):
        found = self._domain.place.lease(image, volume)
        return type(found)(found.lockspace, found.key, self._devices["lease"], 2 * MIB)


def test_devices_with_sectors_of_4096_bytes(domain, tmp_path):
    """The lease lies behind others on the same device, as it does in a block domain."""
    devices = {}
    try:
        for role in ("ids", "lockspace", "metadata", "configuration", "lease"):
            backing = tmp_path / role
            backing.write_bytes(bytes(max(SIZES.metadata, 10 * MIB)))
            devices[role] = loop_device(backing, "--direct-io=on", "--sector-size", "4096")
        place = BlockDomain(domain, devices)
        lease = place.lease(domain.names.disk.image, domain.names.disk.volume)
        direct = ["sanlock", "direct", "init", "-Z", "4096", "-A", "1M"]
        for words in (
            ["-s", f"{domain.conf.sd_uuid}:0:{devices['ids']}:0"],
            ["-s", f"hosted-engine:0:{devices['lockspace']}:0"],
            ["-r", f"{lease.lockspace}:{lease.key}:{lease.path}:{lease.offset}"],
        ):
            subprocess.run([*direct, *words], check=True, capture_output=True, timeout=30)
        shutil.copyfile(domain.path("configuration"), devices["configuration"])
        clock = SystemClock(1.0)
        worker = IoWorker(domain.place.directory, 4096, clock=clock)
        try:
            report = inspect(domain.conf, place, FilesOfWorker(worker, clock, 20))
        finally:
            worker.close(1)
        found = {each.role: (each.holds, [one.code for one in each.findings]) for each in report.volumes}
        assert found["ids"] == (f"lockspace {domain.conf.sd_uuid}", [])
        assert found["lockspace"] == ("lockspace hosted-engine", [])
        assert found["metadata"] == ("zeros", [])
        assert found["configuration"] == ("archive version", [])
        assert found["lease"] == (f"lease {lease.lockspace}:{lease.key}", [])
    finally:
        for device in devices.values():
            subprocess.run(["losetup", "--detach", device], check=True, timeout=30)
