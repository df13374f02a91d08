"""What becomes of the slots when the metadata volume is damaged or lost: three hosts' whiteboards with their own I/O
processes, on a file and on block devices with both sector sizes."""

import os
import subprocess
import time

import pytest

from ovirt_he_ha.broker.volume_door import VolumeDoor
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import EngineStatus, Health, Invalid, Record, Vm
from ovirt_he_ha.core.slot import decode, decode_global, encode, encode_global
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.volumes import MIB, SCANNED, check_volume, create_volume
from tests.contract.test_directio import loop_device

pytestmark = pytest.mark.contract

SLOT = 4096
SCALE = 5.0
CYCLE = 10.0
TIMERS = Timers()
HOSTS = (1, 2, 3)
GARBAGE = b"\xff\xfe garbage \x00 | 1|1|" * 200


class Host:
    """A broker's whiteboard, and of its agent the publishing."""

    def __init__(self, path, sector_size, host_id):
        self.host_id = host_id
        self.clock = SystemClock(SCALE)
        self.worker = IoWorker(path, sector_size, self.clock)

        def check(files):
            check_volume(path, SCANNED, sector_size, look=files.look)

        self.board = Whiteboard(VolumeDoor(self.worker, check, self.clock, 5.0).open, host_id, self.clock, TIMERS)
        self.count = 0
        # Of the volume, after each write and each look: on a busy machine both are due at once.
        self.states = set()
        self.published_at = self.tick_at = self.clock.monotonic()

    def step(self):
        now = self.clock.monotonic()
        if now >= self.published_at:
            self.published_at = now + CYCLE
            self.publish()
            self.states.add(self.state())
        if now >= self.tick_at:
            self.tick_at = self.board.tick(HOSTS)
            self.states.add(self.state())

    def publish(self):
        self.count += 1
        status = EngineStatus(Vm.DOWN, Health.BAD, "Down")
        record = Record(self.host_id, self.count, 3400, status, f"host{self.host_id}")
        try:
            self.board.write(self.host_id, encode(record, 0.0))
        except StorageError:
            return False
        return True

    def state(self):
        return self.board.storage(self.clock.monotonic()).state

    def sees(self):
        """Slot -> what it is, of all but slot 0 and the empty ones."""
        found = {number: decode(number, data) for number, data in self.board.slots().items() if number}
        return {number: each for number, each in found.items() if isinstance(each, (Record, Invalid))}


class Cluster:
    def __init__(self, path, sector_size):
        self.path = path
        self.hosts = [Host(path, sector_size, host_id) for host_id in HOSTS]

    def run_until(self, holds, seconds):
        """Product seconds it took; ``seconds`` and room for a busy machine at most."""
        began = time.monotonic()
        while not holds():
            for each in self.hosts:
                each.step()
            assert time.monotonic() - began < seconds / SCALE + 5, [each.sees() for each in self.hosts]
            time.sleep(0.005)
        return (time.monotonic() - began) * SCALE

    def whole(self):
        """Every host reads a record of every host, each of them written since the last call of ``forget``."""
        return all(
            set(each.sees()) == set(HOSTS)
            and all(
                isinstance(one, Record) and one.timestamp > self.before[number] for number, one in each.sees().items()
            )
            for each in self.hosts
        )

    def forget(self):
        self.before = {each.host_id: each.count for each in self.hosts}

    def put(self, slot, data):
        with open(self.path, "r+b") as file:
            file.seek(slot * SLOT)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def close(self):
        for each in self.hosts:
            each.worker.close(2)


@pytest.fixture(params=["file", 512, 4096])
def cluster(request, tmp_path):
    path = tmp_path / "volume"
    with open(path, "wb") as file:
        file.write(bytes(SCANNED + MIB))
    device = None
    if request.param != "file":
        device = loop_device(path, "--direct-io=on", "--sector-size", str(request.param))
    made = Cluster(device or str(path), request.param if device else 512)
    try:
        made.forget()
        made.run_until(made.whole, 3 * CYCLE)
        yield made
    finally:
        made.close()
        if device:
            subprocess.run(["losetup", "--detach", device], check=True, timeout=30)


def test_a_corrupt_own_slot_is_written_anew_by_its_owner_within_a_cycle(cluster):
    for data in (GARBAGE.ljust(SLOT, b"x"), bytes(SLOT), b"\xff" * SLOT):
        cluster.forget()
        cluster.put(2, data)
        cluster.run_until(cluster.whole, 2 * CYCLE)


def test_another_hosts_corrupt_slot_is_shown_and_hides_nobody(cluster):
    cluster.put(7, GARBAGE.ljust(SLOT, b"x"))
    one = cluster.hosts[0]
    cluster.run_until(lambda: 7 in read_whole(one).sees(), 2 * CYCLE)
    assert isinstance(one.sees()[7], Invalid)
    assert all(isinstance(each, Record) for number, each in one.sees().items() if number != 7)
    one.board.write(7, bytes(SLOT))  # as --clean-metadata has it done
    assert 7 not in one.sees()
    cluster.forget()
    cluster.run_until(cluster.whole, 2 * CYCLE)


def read_whole(host):
    """The next read covers all slots, as it does every ten minutes."""
    host.board._scan_due = 0.0
    return host


def test_a_volume_of_garbage_or_zeros_fills_again_within_two_cycles(cluster):
    for data in (bytes(SCANNED), (GARBAGE * (SCANNED // len(GARBAGE) + 1))[:SCANNED]):
        cluster.put(0, data)
        if data[0]:
            create_volume(cluster.path, SCANNED, None, force=True, zeroed=SCANNED)
        cluster.forget()
        cluster.run_until(cluster.whole, 2 * CYCLE)


def test_after_the_loss_of_the_volume_the_cluster_comes_back_by_itself(tmp_path):
    path = tmp_path / "volume"
    create_volume(str(path), SCANNED, None, zeroed=SCANNED)
    cluster = Cluster(str(path), 512)
    try:
        cluster.forget()
        cluster.run_until(cluster.whole, 3 * CYCLE)
        path.unlink()
        cluster.run_until(
            lambda: all(each.board.storage(each.clock.monotonic()).state == "missing" for each in cluster.hosts),
            2 * CYCLE,
        )
        create_volume(str(path), SCANNED, None, zeroed=SCANNED)
        cluster.forget()
        took = cluster.run_until(cluster.whole, 2 * CYCLE)
        print(f"whole {took:.1f} s after the volume was there")
    finally:
        cluster.close()


def test_a_volume_that_went_back_in_time_is_named_by_every_host(cluster):
    """A snapshot that was reverted to beneath them: each sees its own earlier record with its next look. Then it writes
    its slot, and believes the rest again; the maintenance flag is the snapshot's (docs/storage.md)."""
    with open(cluster.path, "rb") as file:
        snapshot = file.read(SCANNED)
    cluster.hosts[0].board.write(0, encode_global(True))
    for _ in range(2):  # so that each record was followed by another, of which the snapshot knows nothing
        cluster.forget()
        cluster.run_until(cluster.whole, 3 * CYCLE)
    cluster.put(0, snapshot)
    for each in cluster.hosts:
        each.states.clear()
    cluster.run_until(lambda: all("old-data" in each.states for each in cluster.hosts), CYCLE + 5)
    cluster.forget()
    cluster.run_until(cluster.whole, 3 * CYCLE)
    assert all(each.state() == "ok" for each in cluster.hosts)
    assert all(decode_global(each.board.slots()[0]).value is False for each in cluster.hosts)
