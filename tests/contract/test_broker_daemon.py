"""The broker as a process, on real files and a real sanlock: publish, lockspaces, a second one, kill, restart, stop.

sanlock runs privately, 20 times as fast, without a watchdog. libvirt is not there on purpose: the engine reads as
unknown.
"""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from ovirt_he_ha.client import HAClient, UnsafeError
from ovirt_he_ha.client.link import BrokerError, BrokerFault, BrokerLink, FaultCode
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import EngineStatus, Health, LockspaceState, Record, Vm
from ovirt_he_ha.core.slot import encode
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import MIB, SCANNED, DomainVolumes, VolumeSizes, create_domain
from tests.contract.fake_clock import forget

pytestmark = pytest.mark.contract

ROOT = Path(__file__).resolve().parents[2]
SPEED = 20
FAKETIME = sorted(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))
needs_sanlock = pytest.mark.skipif(shutil.which("sanlock") is None, reason="sanlock is missing")
needs_faketime = pytest.mark.skipif(not FAKETIME, reason="faketime is missing")
FORMAT = """
import sys
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease.formatting import write_lockspace, write_resource
ids, whiteboard, domain, key, path = sys.argv[1:]
write_lockspace(domain, ids)
write_lockspace("hosted-engine", whiteboard)
write_resource(LeaseId(domain, key, path, 0))
"""
LOCKSPACES = """
import json, sanlock
print(json.dumps([[each["lockspace"].decode(), each["host_id"]] for each in sanlock.get_lockspaces()]))
"""


def record(host_id, timestamp):
    engine = EngineStatus(Vm.DOWN, Health.BAD, "Down")
    return encode(
        Record(host_id=host_id, timestamp=timestamp, score=3400, engine=engine, hostname=f"host{host_id}"), 0.0
    )


class Machine:
    """One host: its tree, its storage, its sanlock and its broker."""

    def __init__(self, root):
        self.root = root
        self.paths = HostPaths(root / "host")
        self.run_dir = root / "sanlock"
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OVIRT_HE_ROOT": str(self.paths.root),
            "HE_TIME_SCALE": str(SPEED),
            "SANLOCK_RUN_DIR": str(self.run_dir),
            "SANLOCK_PRIVILEGED": "0",
            "HE_COVERAGE_DIR": os.environ.get("HE_COVERAGE_DIR", str(root)),
        }
        if "COVERAGE_PROCESS_START" in os.environ:
            self.env["COVERAGE_PROCESS_START"] = os.environ["COVERAGE_PROCESS_START"]
        self.sanlock = None
        self.brokers = []
        self._write_files()
        self.conf = load_hosted_engine_conf(self.paths.hosted_engine_conf)
        self.domain = LocalDomain(self.conf.storage, self.conf.sd_uuid)
        self.metadata = Path(self.domain.volume_path(self.conf.metadata_image_uuid, self.conf.metadata_volume_uuid))
        self.link = BrokerLink(self.paths.broker_socket, 10.0)

    def _write_files(self):
        for directory in (
            self.paths.hosted_engine_conf.parent,
            self.paths.config_dir,
            self.paths.state_dir,
            self.paths.run_dir,
            self.run_dir,
        ):
            directory.mkdir(parents=True)
        names = ["vmid", "sdUUID", "vm_disk_id", "vm_disk_vol_id"]
        names += [
            f"{volume}_{part}_UUID" for volume in ("metadata", "lockspace", "conf") for part in ("image", "volume")
        ]
        values = {name: str(uuid.uuid4()) for name in names}
        values.update(fqdn="engine.test", host_id="1", domainType="local", storage=str(self.root / "storage"))
        values.update(bridge="lo", network_test="none")
        self.paths.hosted_engine_conf.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        self.paths.agent_conf.write_text(f"[libvirt]\nuri=qemu:///system?socket={self.root}/no-libvirt\n")

    def make_storage(self):
        sizes = VolumeSizes(SCANNED, 2 * MIB, 2 * MIB, MIB, 8 * MIB)
        create_domain(self.conf.storage, self.conf.sd_uuid, DomainVolumes.of(self.conf), sizes, owner=None)

    def start_sanlock(self):
        command = [
            "sanlock",
            "daemon",
            "-D",
            "-w",
            "0",
            "-h",
            "0",
            "-l",
            "0",
            "-U",
            "root",
            "-G",
            "root",
            "-e",
            "host1",
        ]
        env = {**self.env, "LD_PRELOAD": FAKETIME[0], "FAKETIME": f"+0 x{SPEED}"}
        with (self.root / "sanlock.log").open("wb") as out:
            self.sanlock = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        await_true(lambda: connects(self.run_dir / "sanlock.sock"), "sanlock answers")

    def format(self):
        lease = self.domain.lease(self.conf.vm_disk_id, self.conf.vm_disk_vol_id)
        lockspace = self.domain.volume_path(self.conf.lockspace_image_uuid, self.conf.lockspace_volume_uuid)
        arguments = [self.domain.ids_path, lockspace, lease.lockspace, lease.key, lease.path]
        subprocess.run([sys.executable, "-c", FORMAT, *arguments], env=self.env, check=True, timeout=60)

    def lockspaces(self):
        done = subprocess.run(
            [sys.executable, "-c", LOCKSPACES], env=self.env, check=True, timeout=60, capture_output=True, text=True
        )
        return {name: host_id for name, host_id in json.loads(done.stdout)}

    def start_broker(self):
        with (self.root / f"broker{len(self.brokers)}.log").open("wb") as out:
            broker = subprocess.Popen(
                [sys.executable, "-m", "ovirt_he_ha.broker.service"], cwd=ROOT, env=self.env, stdout=out, stderr=out
            )
        self.brokers.append(broker)
        return broker

    def await_snapshot(self, what, condition, seconds=30.0):
        """The first snapshot that fits; waits in the broker, not here."""
        until = time.monotonic() + seconds
        serial = -1
        while time.monotonic() < until:
            try:
                snapshot = self.link.snapshot()
                if condition(snapshot):
                    return snapshot
                serial = self.link.wait_for_change(serial, 0.5)
            except BrokerError:
                time.sleep(0.05)  # no broker yet: there is nothing to wait in
        raise AssertionError(f"{what}: not within {seconds} s; logs in {self.root}")

    def await_held(self):
        return self.await_snapshot("both lockspaces held", held)

    def close(self):
        self.link.close()
        for broker in self.brokers:
            if broker.poll() is None:
                broker.terminate()
                try:
                    broker.wait(10)
                except subprocess.TimeoutExpired:
                    broker.kill()
        if self.sanlock is not None:
            self.sanlock.kill()
            self.sanlock.wait(10)
            forget(self.sanlock.pid)


def held(snapshot):
    leases = snapshot.leases
    return leases.whiteboard.value is LockspaceState.HELD and leases.lockspace.value is LockspaceState.HELD


def connects(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def await_true(condition, what, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)  # other people's processes raise no event here


@pytest.fixture
def bare():
    """Without storage and sanlock. A short path: a socket's name is at most 107 bytes."""
    root = Path(f"/tmp/he-bc-{uuid.uuid4().hex[:8]}")
    root.mkdir()
    machine = Machine(root)
    yield machine
    machine.close()
    shutil.rmtree(root)


@pytest.fixture
def machine(bare):
    bare.make_storage()
    bare.start_sanlock()
    bare.format()
    return bare


@needs_sanlock
@needs_faketime
def test_life(machine):
    broker = machine.start_broker()
    snapshot = machine.await_held()
    assert machine.lockspaces() == {"hosted-engine": 1, machine.conf.sd_uuid: 1}
    assert snapshot.monitors.engine.value is None
    machine.await_snapshot("storage read", lambda found: found.slots_age is not None)

    for turn in range(30):  # slot 1, 0, 1 back to back: nothing is lost
        flag = b"maintenance=%d" % (turn % 2)
        machine.link.put_stats(1, record(1, 2 * turn))
        machine.link.put_stats(0, flag)
        machine.link.put_stats(1, record(1, 2 * turn + 1))
        data = machine.metadata.read_bytes()
        assert data[:4096].rstrip(b"\0") == flag
        assert data[4096:8192] == record(1, 2 * turn + 1)
    assert machine.link.get_stats() == {0: flag.ljust(4096, b"\0"), 1: record(1, 59)}

    second = machine.start_broker()
    assert second.wait(30) == 1
    assert str(broker.pid) in (machine.root / "broker1.log").read_text()
    assert machine.link.snapshot().host_id == 1

    began = time.monotonic()
    broker.terminate()
    assert broker.wait(10) == 0
    assert time.monotonic() - began < 5.0
    assert not machine.paths.broker_socket.exists()
    assert "hosted-engine" not in machine.lockspaces()
    assert machine.metadata.read_bytes()[4096:8192] == record(1, 59)


@needs_sanlock
@needs_faketime
def test_the_python_client(machine):
    machine.start_broker()
    machine.await_held()
    machine.await_snapshot("storage read", lambda found: found.slots_age is not None)
    machine.link.put_stats(1, record(1, 7))
    machine.link.push_hosts_state([1])

    client = HAClient(log=True, paths=machine.paths)
    client.set_maintenance_mode(HAClient.MaintenanceMode.GLOBAL, True, timeout=10)
    assert machine.metadata.read_bytes()[:4096].rstrip(b"\0") == b"maintenance=1"
    stats = client.get_all_stats(timeout=10)
    assert sorted(stats) == [0, 1]
    assert (stats[0], stats[1]["score"], stats[1]["host-ts"]) == ({"maintenance": True}, 3400, 7)
    assert stats[1].pop("live-data") is True
    assert client.get_all_stats_direct() == stats
    with pytest.raises(UnsafeError):
        client.reset_lockspace(timeout=10)


@needs_sanlock
@needs_faketime
def test_a_killed_broker_carries_on(machine):
    first = machine.start_broker()
    machine.await_held()
    machine.link.put_stats(1, record(1, 1))
    first.kill()
    first.wait(10)
    assert machine.lockspaces() == {"hosted-engine": 1, machine.conf.sd_uuid: 1}
    machine.start_broker()
    machine.await_snapshot("held again", held, seconds=10.0)
    machine.link.put_stats(1, record(1, 2))
    machine.await_snapshot("read", lambda found: found.slots.get(1) == record(1, 2))


def test_without_sanlock_and_storage_it_runs_and_says_so(bare):
    broker = bare.start_broker()
    snapshot = bare.await_snapshot(
        "both are named",
        lambda found: found.storage.state == "missing" and found.leases.whiteboard.value is LockspaceState.NO_DAEMON,
    )
    assert snapshot.slots_age is None
    with pytest.raises(BrokerFault) as caught:
        bare.link.put_stats(1, record(1, 1))
    assert caught.value.code is FaultCode.NOT_HELD
    with pytest.raises(BrokerFault) as caught:
        bare.link.put_stats(0, b"maintenance=1")
    assert caught.value.code is FaultCode.STORAGE

    bare.make_storage()
    bare.await_snapshot("storage found", lambda found: found.storage.state == "ok")
    bare.link.put_stats(0, b"maintenance=1")
    assert bare.metadata.read_bytes()[:4096].rstrip(b"\0") == b"maintenance=1"
    broker.send_signal(signal.SIGTERM)
    assert broker.wait(10) == 0


@pytest.mark.parametrize(
    ("harm", "state"),
    [
        (lambda machine: machine.metadata.unlink(), "missing"),
        (lambda machine: os.truncate(machine.metadata, 8192), "too-small"),
    ],
    ids=["missing", "too-small"],
)
def test_a_volume_that_does_not_fit_is_named(bare, harm, state):
    bare.make_storage()
    harm(bare)
    bare.start_broker()
    bare.await_snapshot(state, lambda found: found.storage.state == state)


@needs_sanlock
@needs_faketime
def test_somebody_else_writes_our_slot(machine):
    machine.start_broker()
    machine.await_held()
    machine.link.put_stats(1, record(1, 1))
    with machine.metadata.open("r+b") as volume:
        volume.seek(4096)
        volume.write(b"x" * 4096)
    machine.await_snapshot("overwritten", lambda found: found.publish.overwritten)
