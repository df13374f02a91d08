"""Connecting domains for real: the host's own mount and umount on loop devices with both sector sizes, as the daemons'
user, in a mount namespace of its own; sanlock's own records; a FUSE view that fails and hangs."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from ovirt_he_ha.lease.leader import NotLockspace, host_in
from ovirt_he_ha.storage.command import Commands
from ovirt_he_ha.storage.connection import provider_for
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import MIB, OWNER, DomainVolumes, create_domain
from tests.contract import own_mounts, storage_view
from tests.contract.test_directio import loop_device
from tests.own_time import OwnTime
from tests.storage.mounted_world import SIZES, MountedWorld
from tests.storage.sanlock_records import lockspace, put

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(bool(own_mounts.missing()), reason=own_mounts.missing() or "-"),
    pytest.mark.skipif(not shutil.which("sanlock"), reason="sanlock is missing"),
]


def sanlock_direct(domain, conf, sector_size):
    """Both records by sanlock itself, without its daemon."""
    lease = domain.lease(conf.vm_disk_id, conf.vm_disk_vol_id)
    align = "1M" if sector_size == 512 else "8M"
    for words in (
        ["-s", f"{conf.sd_uuid}:0:{domain.ids_path}:0"],
        ["-r", f"{conf.sd_uuid}:{lease.key}:{lease.path}:0"],
    ):
        argv = ["sanlock", "direct", "init", *words, "-Z", str(sector_size), "-A", align, "-o", "0"]
        subprocess.run(argv, check=True, timeout=60, capture_output=True)


def filled(conf, directory, sector_size):
    os.chmod(directory, 0o755)
    create_domain(str(directory), conf.sd_uuid, DomainVolumes.of(conf), SIZES, sector_size, owner=OWNER)
    sanlock_direct(LocalDomain(str(directory), conf.sd_uuid), conf, sector_size)


class Disk:
    """A file system on a loop device, with a domain."""

    def __init__(self, world, sector_size, keep=()):
        self.world = world
        self.image = world.root / "disk"
        with open(self.image, "wb") as file:
            file.truncate(192 * MIB)
        self.device = loop_device(self.image, "--direct-io=on", "--sector-size", str(sector_size))
        subprocess.run(["mkfs.ext4", "-q", "-F", self.device], check=True, timeout=60, capture_output=True)
        world.configure(domainType="posixfs", vfs_type="ext4", storage=self.device)
        world.paths.mount_table.unlink()
        world.paths.mount_table.symlink_to("/proc/self/mountinfo")

    def on_it(self, action):
        place = self.world.root / "making"
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", self.device, place], check=True, timeout=30)
        try:
            action(place)
        finally:
            subprocess.run(["umount", place], check=True, timeout=30)

    def provider(self, accept=False):
        return provider_for(self.world.conf, self.world.paths, accept, Commands())

    @property
    def target(self):
        return self.world.paths.mount_root / self.device.replace("/", "_")


def on_a_disk(body, sector_size=512):
    """In a namespace: what is mounted ends with it. The loop device is given back in any case."""
    world = MountedWorld()
    disk = None
    try:
        disk = Disk(world, sector_size)
        own_mounts.run(body, disk, sector_size)
    finally:
        if disk is not None:
            subprocess.run(["losetup", "--detach", disk.device], check=True, timeout=30)
        world.close()


def refusal(call):
    with pytest.raises((DomainProblem, StorageError)) as caught:
        call()
    return caught.value


def whole_way(disk, sector_size):
    disk.on_it(lambda place: filled(disk.world.conf, place, sector_size))
    connected = disk.provider().connect(30)
    assert connected.changed and connected.domain.sector_size() == sector_size
    took = OwnTime()
    assert not disk.provider().connect(30).changed
    assert took.seconds < 5
    with open(disk.target / "open", "wb"):
        assert refusal(lambda: disk.provider().disconnect(30)).code == "busy"
    os.unlink(disk.target / "open")
    assert disk.provider().disconnect(30) and not disk.target.exists()
    assert not disk.provider().disconnect(30)


def two_at_once(disk, sector_size):
    disk.on_it(lambda place: filled(disk.world.conf, place, sector_size))
    for _ in range(5):
        changed = []
        calls = [
            threading.Thread(target=lambda: changed.append(disk.provider().connect(30).changed))  # noqa: B023
            for _ in range(2)
        ]
        for each in calls:
            each.start()
        for each in calls:
            each.join()
        assert sorted(changed) == [False, True]
        assert Path("/proc/self/mountinfo").read_text().count(f" {disk.target} ") == 1
        assert disk.provider().disconnect(30)


def test_the_unit_and_an_administrator_connect_at_the_same_moment():
    on_a_disk(two_at_once)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_connected_looked_at_and_disconnected(sector_size):
    on_a_disk(whole_way, sector_size)


def refused(disk, *codes):
    found = refusal(lambda: disk.provider().connect(30))
    assert found.code in codes, str(found)
    assert not disk.target.exists() and str(disk.target) not in Path("/proc/self/mountinfo").read_text()
    return str(found)


def wrong_export(disk, _sector_size):
    assert disk.device in refused(disk, "no-domain")


def no_such_device(disk, _sector_size):
    disk.world.configure(domainType="posixfs", vfs_type="ext4", storage="/dev/no-such-device")
    found = refusal(lambda: disk.provider().connect(30))
    assert found.code == "no-export" and "no-such-device" in found.said


def wrong_type(disk, _sector_size):
    disk.world.configure(domainType="posixfs", vfs_type="nonsensefs", storage=disk.device)
    assert "nonsensefs" in refused(disk, "no-helper", "occupied")  # some kernels mount what they find


def bad_option(disk, _sector_size):
    disk.world.configure(domainType="posixfs", vfs_type="ext4", storage=disk.device, mnt_options="nonsense=1")
    refused(disk, "metadata")  # what mount says of ext4: "wrong fs type, bad option, bad superblock"


def read_only(disk, sector_size):
    disk.on_it(lambda place: filled(disk.world.conf, place, sector_size))
    disk.world.configure(domainType="posixfs", vfs_type="ext4", storage=disk.device, mnt_options="ro")
    refused(disk, "read-only")


def another_owner(disk, sector_size):
    def make(place):
        filled(disk.world.conf, place, sector_size)
        os.chown(LocalDomain(str(place), disk.world.conf.sd_uuid).ids_path, 0, 0)

    disk.on_it(make)
    refused(disk, "no-access")


def restored(disk, sector_size):
    disk.on_it(lambda place: filled(disk.world.conf, place, sector_size))
    disk.provider().connect(30)
    disk.provider().disconnect(30)

    def restore(place):
        copy = place / "copy"
        source = place / disk.world.conf.sd_uuid
        subprocess.run(["cp", "-a", source, copy], check=True, timeout=60)
        os.rename(source, place / "before")
        os.rename(copy, source)

    disk.on_it(restore)
    refused(disk, "another-copy")
    assert disk.provider(accept=True).connect(30).changed
    assert disk.provider().disconnect(30)


def twice(disk, sector_size):
    disk.on_it(lambda place: filled(disk.world.conf, place, sector_size))
    other = disk.world.paths.mount_root / "other"
    other.mkdir(parents=True)
    subprocess.run(["mount", disk.device, other], check=True, timeout=30)
    assert str(other) in str(refusal(lambda: disk.provider().connect(30)))
    assert not disk.target.exists()


def full(disk, sector_size):
    """The domain's volumes are there already: what is full keeps nobody from joining it."""

    def fill(place):
        filled(disk.world.conf, place, sector_size)
        subprocess.run(["dd", "if=/dev/zero", f"of={place}/filler", "bs=1M"], capture_output=True, timeout=60)

    disk.on_it(fill)
    assert disk.provider().connect(30).changed
    assert disk.provider().disconnect(30)


CASES = (wrong_export, no_such_device, wrong_type, bad_option, read_only, another_owner, restored, twice, full)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_with_the_real_mount(case):
    on_a_disk(case)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_sanlocks_records_are_read_as_sanlock_wrote_them(tmp_path, sector_size):
    ids = tmp_path / "ids"
    with open(ids, "wb") as file:
        file.truncate(8 * MIB)
    align = "1M" if sector_size == 512 else "8M"
    argv = ["sanlock", "direct", "init", "-s", f"space:0:{ids}:0", "-Z", str(sector_size), "-A", align, "-o", "0"]
    subprocess.run(argv, check=True, timeout=60, capture_output=True)
    with open(ids, "rb") as file:
        data = file.read(2 * sector_size)
    for number in (0, 1):
        found = host_in(data[number * sector_size :], "space", sector_size)
        assert (found.generation, found.timestamp, found.host) == (0, 0, "")
    for other in ("spac", "space2"):
        with pytest.raises(NotLockspace):
            host_in(data, other, sector_size)
    with pytest.raises(NotLockspace):
        host_in(data, "space", 4608 - sector_size)
    assert lockspace("space", sector_size=512, hosts=1)[:4] == data[:4]


@pytest.fixture(scope="module")
def view_program(tmp_path_factory):
    if storage_view.missing_component():
        pytest.skip(f"{storage_view.missing_component()} is missing: no storage that can hang")
    return storage_view.build(tmp_path_factory.mktemp("view"))


@pytest.mark.parametrize("trouble", ["error", "hang"])
def test_storage_in_trouble_is_named_in_time_and_comes_back(view_program, trouble):
    world = MountedWorld()
    data, mountpoint = world.root / "data", world.root / "view"
    data.mkdir()
    mountpoint.mkdir()
    view = None
    try:
        world.configure(domainType="local", storage=str(mountpoint))
        filled(world.conf, data, 512)
        view = storage_view.StorageView(view_program, data, mountpoint)
        assert not world.provider().connect(30).changed
        view.set(trouble)
        took = OwnTime()
        assert refusal(lambda: world.provider().connect(1)).code in ("io", "metadata", "overdue", "missing")
        assert took.seconds < 6
        view.set("ok")
        assert not world.provider().connect(30).changed
        put(data / world.conf.sd_uuid / "dom_md/ids", bytes(512) * 2)
        assert refusal(lambda: world.provider().connect(30)).code == "lockspace"
    finally:
        if view is not None:
            view.close()
        world.close()
