"""What the agent reads on the shared storage: through a process that may hang, never by itself."""

import os
import signal
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from ovirt_he_ha.agent.shared_storage import SharedStorage
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.storage import io_process
from ovirt_he_ha.storage.archive import MEMBERS, ArchiveError, build_archive
from ovirt_he_ha.storage.errors import DomainProblem, StorageError, StorageOverdue
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.newest_store import NewestStore
from ovirt_he_ha.storage.ovf_store import OvfStoreError
from tests.agent.test_service import write_conf
from tests.own_time import OwnTime
from tests.storage.engine_ovf import write_store


class DiskClock(SystemClock):
    """Whoever waits for a storage that answers has time for a process on a busy machine, and the clock stands still
    for it; for one that hangs there is what the product grants it."""

    def __init__(self) -> None:
        super().__init__(10.0)
        self.hung = False
        self.stands_at = super().monotonic()

    def monotonic(self) -> float:
        return super().monotonic() if self.hung else self.stands_at

    def wait_floor(self, product_seconds: float, floor: float = 2.0) -> float:
        return super().wait_floor(product_seconds, floor) if self.hung else 60.0


class House:
    def __init__(self, root: Path) -> None:
        storage = root / "storage"
        conf = load_hosted_engine_conf(write_conf(root, {"storage": str(storage)}).hosted_engine_conf)
        domain = LocalDomain(str(storage), conf.sd_uuid)
        self.metadata = Path(domain.metadata_path)
        self.volume = Path(domain.volume_path(conf.conf_image_uuid, conf.conf_volume_uuid))
        for each in (self.metadata, self.volume):
            each.parent.mkdir(parents=True)
        self.metadata.write_text("BLOCK_SIZE=4096\n")
        self.volume.write_bytes(bytes(65536))
        self.clock = DiskClock()
        self.seen = NewestStore(root / "ovf-store.json", conf.sd_uuid)
        self.shared = SharedStorage(conf, self.clock, self.seen)

    def write(self, vm_conf: bytes) -> None:
        members = {name: b"x" for name in MEMBERS}
        self.volume.write_bytes(build_archive({**members, "vm.conf": vm_conf}).ljust(65536, b"\0"))

    def processes(self) -> list[int]:
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and str(self.volume).encode() in Path("/proc", entry, "cmdline").read_bytes():
                    found.append(int(entry))
            except OSError:
                continue
        return found


@contextmanager
def hung(house: House) -> Iterator[None]:
    """The process that reads stands still; what is done meanwhile is overdue, and nobody waits for it any longer."""
    (process,) = house.processes()
    os.kill(process, signal.SIGSTOP)
    house.clock.hung = True
    took = OwnTime()
    with pytest.raises(StorageOverdue):
        yield
    assert took.seconds < 3
    house.clock.hung = False


@pytest.fixture
def house(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = House(tmp_path)
    yield made
    made.shared.close()


def test_the_definition_is_read_and_no_process_stays_for_the_next_minute(house: House) -> None:
    house.write(b"vmId=" + str(uuid.UUID(int=1)).encode())
    assert house.shared.vm_conf().startswith("vmId=0000")
    (process,) = house.processes()
    assert house.shared.vm_conf().startswith("vmId=0000")
    assert house.processes() == [process]
    house.shared.rest()
    assert house.processes() == []


def test_the_sector_size_is_read_once(house: House) -> None:
    assert house.shared.sector_size() == 4096
    house.metadata.unlink()
    assert house.shared.sector_size() == 4096


def test_what_is_missing_or_nonsense_is_named(house: House) -> None:
    with pytest.raises(ArchiveError):
        house.shared.vm_conf()
    house.volume.unlink()
    with pytest.raises(StorageError):
        house.shared.vm_conf()
    house.metadata.write_text("BLOCK_SIZE=many\n")
    with pytest.raises(DomainProblem):
        house.shared.sector_size()


def test_s4_nothing_of_it_happens_in_this_process(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of the agent that hangs in the kernel would survive its SIGKILL."""

    def touched(*_: object) -> None:
        raise AssertionError("in this process")

    for name in ("direct_read", "probe", "look", "text", "is_directory", "names"):
        monkeypatch.setattr(io_process, name, touched)
    house.write(b"vmId=x")
    assert house.shared.vm_conf() == "vmId=x"
    assert house.shared.sector_size() == 4096


def test_s4_a_hung_storage_is_overdue_and_comes_back(house: House) -> None:
    house.write(b"vmId=x")
    assert house.shared.sector_size() == 4096  # its process stays until the next look at the definition
    with hung(house):
        house.shared.vm_conf()
    assert house.shared.abandoned == 0
    assert house.shared.vm_conf() == "vmId=x"


def test_the_ovfs_come_newest_first_and_a_broken_store_is_named(house: House) -> None:
    vmid = house.shared._conf.vmid
    images = house.volume.parent.parent
    with pytest.raises(OvfStoreError) as error:
        list(house.shared.ovfs())
    assert error.value.code == "no-store"
    write_store(images, 1, {f"{vmid}.ovf": b"old"}, date="2026-01-01T00:00:00")
    write_store(images, 2, {f"{vmid}.ovf": b"new"}, date="2026-01-02T00:00:00")
    assert [each.data for each in house.shared.ovfs()] == [b"new", b"old"]
    broken = write_store(images, 2, {"other.ovf": b"x"}, date="2026-01-03T00:00:00")
    first, second = house.shared.ovfs()
    assert (first.path, first.problem and first.problem.code) == (str(broken), "no-ovf")
    assert second.data == b"old"


def test_a_store_that_went_back_is_used_and_told(house: House) -> None:
    images, name = house.volume.parent.parent, f"{house.shared._conf.vmid}.ovf"
    write_store(images, 1, {name: b"new"}, date="Tue Nov 10 14:36:08 UTC 2026")
    assert [each.data for each in house.shared.ovfs()] == [b"new"] and not house.seen.problem()
    write_store(images, 1, {name: b"old"}, date="Mon Nov 09 14:36:08 UTC 2026")
    assert [each.data for each in house.shared.ovfs()] == [b"old"]
    assert "2026-11-10" in house.seen.problem()


def test_s4_a_hung_storage_ends_the_look_for_ovfs(house: House) -> None:
    write_store(house.volume.parent.parent, 1, {f"{house.shared._conf.vmid}.ovf": b"x"})
    assert len(list(house.shared.ovfs())) == 1
    with hung(house):
        list(house.shared.ovfs())
    assert len(list(house.shared.ovfs())) == 1
