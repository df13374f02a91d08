"""Storage, sanlock and libvirt that really stand still: the daemons answer, age what they know, stop and recover."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from ovirt_he_ha.client.link import BrokerError, BrokerFault, BrokerLink, FaultCode
from ovirt_he_ha.core.model import HostLease
from ovirt_he_ha.storage.archive import MEMBERS, build_archive
from tests.contract import libvirt_host, storage_view
from tests.contract.test_broker_daemon import (
    ROOT,
    Machine,
    await_true,
    held,
    needs_faketime,
    needs_sanlock,
    record,
)
from tests.own_time import OwnTime

pytestmark = [pytest.mark.contract, needs_sanlock, needs_faketime]
ABSENT = storage_view.missing_component()
needs_view = pytest.mark.skipif(bool(ABSENT), reason=f"missing: {ABSENT}")
NO_HOST = libvirt_host.missing_component()
HANG = 8.0  # wall seconds, 160 of the product: longer than every deadline, several times
PROMPT = 0.1  # wall, less what the machine was busy with: what an answer may take, whatever hangs
STOP = 5.0  # the same
BELIEVED = 3.0  # wall: for so long the broker believes what the agent said last of who is alive


class HungMachine(Machine):
    """A host whose whole storage is a view that can be told to hang."""

    def __init__(self, root, program):
        super().__init__(root)
        self.agents = []
        (root / "behind").mkdir()
        (root / "storage").mkdir()
        self.view = storage_view.StorageView(program, root / "behind", root / "storage")

    def start_agent(self):
        with (self.root / "agent.log").open("wb") as out:
            agent = subprocess.Popen(
                [sys.executable, "-m", "ovirt_he_ha.agent.service"], cwd=ROOT, env=self.env, stdout=out, stderr=out
            )
        self.agents.append(agent)
        return agent

    def close(self):
        self.view.set("ok")
        if self.sanlock is not None:
            self.sanlock.send_signal(signal.SIGCONT)
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()
            agent.wait(10)
        super().close()
        self.view.close()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return storage_view.build(tmp_path_factory.mktemp("view"))


@pytest.fixture
def machine(program):
    root = Path(f"/tmp/he-is-{uuid.uuid4().hex[:8]}")
    root.mkdir()
    # In memory: the storage hangs by our word, and never the disk of a machine that others use. A thread of a daemon
    # that waits for the disk (it does for each line of the ledger) keeps its process from its end as well.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "he-is", root], check=True, timeout=10)
    made = HungMachine(root, program)
    try:
        made.make_storage()
        made.start_sanlock()
        made.format()
        yield made
    finally:
        made.close()
        subprocess.run(["umount", "--lazy", root], check=True, timeout=10)
        root.rmdir()


def children(pid):
    """pid -> state of a process's children, zombies included."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread, or its child, ended meanwhile
            for child in (task / "children").read_text().split():
                found[int(child)] = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return found


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def gone(pid):
    """No thread of it is left: a zombie that nobody has reaped counts, one with a stuck thread does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return True
    return fields[0] == "Z" and int(fields[17]) == 1


class Watch:
    """Asks the broker all the time for ``seconds``, as an agent and as a peer would."""

    def __init__(self, machine, seconds, look=lambda: None):
        self.waits, self.snapshots, self.alive = [], [], []
        self.broker = machine.brokers[-1].pid
        until = time.monotonic() + seconds
        took = OwnTime()
        with BrokerLink(machine.paths.broker_socket, 30.0) as link:
            while time.monotonic() < until:
                self.alive.append(self.timed(link.is_host_alive))
                self.snapshots.append(self.timed(link.snapshot))
                look()
                time.sleep(0.02)  # the pace of the question, not a wait for something
        self.stolen = took.stolen

    def timed(self, call):
        took = OwnTime(self.broker)
        answer = call()
        self.waits.append(took.seconds)
        return answer

    def assert_prompt(self):
        """A wait for storage would be 1 s or more."""
        late = [wait for wait in self.waits if wait > PROMPT]
        assert len(late) <= len(self.waits) // 50, sorted(late)
        assert max(self.waits) < 0.9
        assert statistics.median(self.waits) < PROMPT / 2


def waits_in(pid):
    """Name, state and place in the kernel of each thread."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            found.append(((task / "comm").read_text().strip(), state, (task / "stack").read_text().split("\n")[:4]))
    return found


def stop_in_time(process):
    took = OwnTime(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(40)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it does not end; its threads: {waits_in(process.pid)}") from None
    assert took.seconds < STOP
    return status


def ready(machine):
    """A broker that holds its id and has read and written the volume."""
    broker = machine.start_broker()
    machine.await_held()
    machine.await_snapshot("storage read", lambda found: found.storage.state == "ok")
    await_true(lambda: written(machine), "its slot is written")
    return broker


def written(machine):
    """Not while another access has its turn for longer than a write may wait: the first look reads all slots."""
    try:
        machine.link.put_stats(1, record(1, 1))
    except BrokerFault as fault:
        assert fault.code is FaultCode.OVERDUE, fault
        return False
    return True


def vm_status(machine):
    """Its own seconds, and what came of it."""
    took = OwnTime()
    done = subprocess.run(
        [sys.executable, "-m", "ovirt_he_ha.cli.main", "--vm-status", "--json"],
        env=machine.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return took.seconds, done


@needs_view
def test_s4_hung_storage_the_broker_answers_ages_and_recovers(machine):
    broker = ready(machine)
    machine.paths.vm_conf.write_text("vmId=x\n")
    most = []
    before = descriptors(broker.pid)
    machine.view.set("hang")
    watch = Watch(machine, HANG, lambda: most.append(len(children(broker.pid))))
    watch.assert_prompt()
    assert max(most) <= 4  # two for the metadata, two for the lease's record
    ages = [snapshot.slots_age for snapshot in watch.snapshots]
    assert ages == sorted(ages)
    assert ages[-1] > 100
    last = watch.snapshots[-1]
    assert last.storage.state in ("overdue", "stuck")
    assert last.monitors.storage_latency.value is None
    assert last.slots[1] == record(1, 1)
    assert last.leases.owner.value is None

    took = OwnTime(broker.pid)
    with pytest.raises((BrokerFault, BrokerError)):
        machine.link.put_stats(1, record(1, 2))
    assert took.seconds < 4

    seconds, status = vm_status(machine)
    assert seconds < 3
    codes = {problem["code"] for problem in json.loads(status.stdout)["1"]["problems"]}
    assert codes & {"storage-overdue", "storage-stuck"}

    machine.view.set("ok")
    machine.await_snapshot("storage is back", lambda found: found.storage.state == "ok")
    machine.await_snapshot("sanlock is back", held, seconds=60.0)
    machine.link.put_stats(1, record(1, 3))
    machine.await_snapshot("read", lambda found: found.slots.get(1) == record(1, 3))
    assert list(children(broker.pid).values()).count("Z") == 0
    assert len(children(broker.pid)) <= 2  # one for the metadata, one for the lease
    assert descriptors(broker.pid) <= before + 2
    assert stop_in_time(broker) == 0


@needs_view
def test_s4_hung_storage_does_not_hold_up_the_stop_and_leaves_no_process(machine):
    broker = ready(machine)
    machine.view.set("hang")
    machine.await_snapshot("noticed", lambda found: found.storage.state in ("overdue", "stuck"))
    await_true(lambda: len(children(broker.pid)) >= 2, "two processes hang")
    left = list(children(broker.pid))
    stop_in_time(broker)
    assert not machine.paths.broker_socket.exists()
    assert not any(gone(pid) for pid in left)
    second = machine.start_broker()  # whatever hangs does not keep the socket or the lock
    machine.await_snapshot("the next one serves", lambda found: found.storage.state in ("overdue", "stuck"))
    left += list(children(second.pid))
    machine.view.set("ok")
    await_true(lambda: all(gone(pid) for pid in left if pid not in children(second.pid)), "what was left behind ends")
    machine.await_snapshot("storage is back", lambda found: found.storage.state == "ok")
    assert stop_in_time(second) == 0


@needs_view
def test_s4_storage_that_hangs_from_the_start(machine):
    machine.view.set("hang")
    broker = machine.start_broker()
    machine.await_snapshot("it serves", lambda found: found.storage.state in ("overdue", "stuck"))
    Watch(machine, 3.0).assert_prompt()
    stop_in_time(broker)


@needs_view
def test_s4_the_agents_cycle_goes_on_while_storage_hangs(machine):
    volume = Path(machine.domain.volume_path(machine.conf.conf_image_uuid, machine.conf.conf_volume_uuid))
    with volume.open("r+b") as file:
        file.write(build_archive({name: b"vmId=x" for name in MEMBERS}))
    ready(machine)
    agent = machine.start_agent()
    machine.await_snapshot("it publishes", lambda found: b"\nstate=" in found.slots.get(1, b""), seconds=60.0)
    machine.view.set("hang")
    watch = Watch(machine, HANG)
    watch.assert_prompt()
    # A cycle that waited for storage would be missed here; one that waited for a processor may be.
    assert set(watch.alive) <= {(1,)} if watch.stolen < BELIEVED / 2 else (1,) in watch.alive[len(watch.alive) // 2 :]
    assert len(children(agent.pid)) <= 2
    assert stop_in_time(agent) == 157  # without the final record
    machine.view.set("ok")


@needs_view
def test_slow_and_failing_storage_is_named_and_bounded(machine):
    broker = ready(machine)
    machine.view.set("error")
    machine.await_snapshot("errors are named", lambda found: found.storage.state == "io")
    Watch(machine, 1.0).assert_prompt()
    machine.view.set("slow 3000")  # 60 product seconds for each access
    machine.await_snapshot("too slow is overdue", lambda found: found.storage.state in ("overdue", "stuck"))
    most = []
    Watch(machine, 4.0, lambda: most.append(len(children(broker.pid)))).assert_prompt()
    assert max(most) <= 6  # of metadata and lease each two that were given up, and the one that tries
    machine.view.set("ok")
    machine.await_snapshot("it is back", lambda found: found.storage.state == "ok")
    assert stop_in_time(broker) in (0, 2)


@needs_view
def test_s4_a_frozen_broker_is_said_within_three_seconds(machine):
    broker = ready(machine)
    machine.paths.vm_conf.write_text("vmId=x\n")
    broker.send_signal(signal.SIGSTOP)
    try:
        seconds, status = vm_status(machine)
    finally:
        broker.send_signal(signal.SIGCONT)
    assert seconds < 3.5  # the interpreter's start included
    assert status.returncode == 0  # the volume itself was read
    assert "broker-overdue" in {problem["code"] for problem in json.loads(status.stdout)["1"]["problems"]}


@needs_view
def test_s4_frozen_sanlock(machine):
    broker = ready(machine)
    machine.await_snapshot("hosts are known", lambda found: (found.leases.hosts.value or {}).get(1) is HostLease.LIVE)
    before = descriptors(broker.pid)
    threads = len(os.listdir(f"/proc/{broker.pid}/task"))
    machine.sanlock.send_signal(signal.SIGSTOP)
    watch = Watch(machine, HANG)
    watch.assert_prompt()
    last = watch.snapshots[-1].leases
    assert last.owner.known  # from the volume, which works
    for reading in (last.lockspace, last.whiteboard, last.hosts):
        assert (reading.value, reading.unknown) == (None, "overdue")
    ages = [snapshot.leases.hosts.age for snapshot in watch.snapshots if snapshot.leases.hosts.unknown == "overdue"]
    assert ages == sorted(ages)
    assert ages[-1] > 60
    assert len(os.listdir(f"/proc/{broker.pid}/task")) <= threads + 2
    machine.sanlock.send_signal(signal.SIGCONT)
    machine.await_snapshot(
        "sanlock answers again", lambda found: found.leases.whiteboard.value is not None, seconds=60.0
    )
    await_true(lambda: descriptors(broker.pid) <= before + 2, "nothing leaks")
    machine.sanlock.send_signal(signal.SIGSTOP)
    try:
        assert stop_in_time(broker) == 2  # its lockspace could not be left
    finally:
        machine.sanlock.send_signal(signal.SIGCONT)


@needs_view
@pytest.mark.skipif(bool(NO_HOST), reason=f"missing: {NO_HOST}")
def test_s4_frozen_libvirtd(machine):
    with libvirt_host.Site() as site:
        host = site.add("a", 1)
        machine.paths.agent_conf.write_text(f"[libvirt]\nuri={host.uri}\n")
        broker = ready(machine)
        machine.await_snapshot("the engine is known", lambda found: found.monitors.engine.known)
        before = descriptors(broker.pid)
        host.kill_daemon("libvirtd", signal.SIGSTOP)
        try:
            watch = Watch(machine, HANG)
            watch.assert_prompt()
            engine = watch.snapshots[-1].monitors.engine
            assert engine.value is None
            assert engine.unknown in ("overdue", "unreachable")
            host.kill_daemon("libvirtd", signal.SIGCONT)
            machine.await_snapshot("it is known again", lambda found: found.monitors.engine.known)
            await_true(lambda: descriptors(broker.pid) <= before + 4, "connections are closed")
            host.kill_daemon("libvirtd", signal.SIGSTOP)
            stop_in_time(broker)
        finally:
            host.kill_daemon("libvirtd", signal.SIGCONT)
