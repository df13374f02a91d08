"""The composed broker behind its real socket: users, changes, restart, and an end in time."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from ovirt_he_ha.broker.changes import Changes
from ovirt_he_ha.broker.daemon import Broker
from ovirt_he_ha.broker.handlers import Policy
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.client.link import BrokerFault, BrokerLink, BrokerUnavailable, FaultCode
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.storage.errors import StorageOverdue
from tests.broker.fakes import FakeLockspaces, FakeMonitors, FakeNotifier, MemoryVolume, missing
from tests.broker.test_handlers import record
from tests.own_time import OwnTime

ROOT = Path(__file__).resolve().parents[2]
SPEED = 20.0  # product seconds per wall second: a poll of 1 s comes after 50 ms


class House:
    """A broker on fakes, its socket reachable for every user of the machine."""

    def __init__(self, directory):
        self.path = directory / "broker.socket"
        self.volume = MemoryVolume()
        self.lockspaces = FakeLockspaces()
        self.monitors = FakeMonitors()
        self.notifier = FakeNotifier()
        self.changes = Changes(100)
        clock = SystemClock(SPEED)
        timers = Timers()
        metrics = Metrics()
        board = Whiteboard(self.volume.open, 1, clock, timers, self.changes.bump, metrics=metrics)
        self.broker = Broker(
            1,
            self.path,
            board,
            self.lockspaces,
            self.monitors,
            self.notifier,
            lambda: None,
            clock,
            self.changes,
            metrics,
            timers,
            Policy(own=os.getuid()),
        )

    def start(self):
        self.broker.server.reserve()
        self.broker.start()
        return BrokerLink(self.path, 5.0)

    def await_state(self, link, state):
        until = time.monotonic() + 5
        serial = -1
        while link.snapshot().storage.state != state:
            assert time.monotonic() < until
            serial = link.wait_for_change(serial, 1.0)


@pytest.fixture
def directory():
    path = Path(tempfile.mkdtemp(prefix="he-broker-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def house(directory):
    made = House(directory)
    yield made
    made.broker.stop(3.0)


def test_the_whole_way_of_a_slot(house):
    with house.start() as link:
        house.await_state(link, "ok")
        link.put_stats(1, record(1))
        link.put_stats(0, b"maintenance=1")
        assert house.volume.slot(1) == record(1)
        snapshot = link.snapshot()
        assert snapshot.slots[1] == record(1)
        assert snapshot.slots[0].startswith(b"maintenance=1")
        assert link.get_stats().keys() == {0, 1}
        assert house.monitors.running
        assert link.health()["lockspaces"] == {"hosted-engine": "what sanlock said"}


def test_slot_1_0_1_from_three_clients_loses_nothing(house):
    with house.start() as link:
        house.await_state(link, "ok")
        for turn in range(30):
            flag = b"maintenance=%d" % (turn % 2)
            for host_id, data in ((1, record(1, 2 * turn)), (0, flag), (1, record(1, 2 * turn + 1))):
                with BrokerLink(house.path, 5.0) as client:
                    client.put_stats(host_id, data)
            assert house.volume.slot(0).rstrip(b"\0") == flag
            assert house.volume.slot(1) == record(1, 2 * turn + 1)


def test_a_peers_news_wakes_the_waiting_agent(house):
    with house.start() as link:
        house.await_state(link, "ok")
        serial = link.snapshot().serial
        house.volume.put(2, record(2))
        while 2 not in link.snapshot().slots:
            serial = link.wait_for_change(serial, 5.0)


def test_leases_are_looked_at_often_while_the_engine_is_not_well(house):
    with house.start() as link:
        house.await_state(link, "ok")
        serial = -1
        while house.lockspaces.alert is None:
            serial = link.wait_for_change(serial, 0.05)
        assert house.lockspaces.alert is True


def test_storage_that_is_missing_at_start_is_found_later(house):
    house.volume.problem = missing()
    with house.start() as link:
        house.await_state(link, "missing")
        with pytest.raises(BrokerFault) as caught:
            link.put_stats(0, b"maintenance=1")
        assert caught.value.code is FaultCode.STORAGE
        house.volume.problem = None
        house.await_state(link, "ok")


def test_hung_storage_blocks_nobody(house):
    release = threading.Event()

    def hang(_offset):
        release.wait(10)
        raise StorageOverdue("overdue", "/volume")

    house.volume.before_read = hang
    with house.start() as link:
        assert link.snapshot().storage.state == "starting"
        assert link.is_host_alive() == ()
    took = OwnTime()
    house.broker.stop(2.0)
    assert took.seconds < 2.5
    release.set()


def test_stop_closes_the_socket_leaves_the_lockspace_and_ends_waiters(house):
    link = house.start()
    house.await_state(link, "ok")
    ended = []

    def wait():
        try:
            ended.append(link.wait_for_change(link.snapshot().serial, 30.0))
        except (BrokerFault, BrokerUnavailable) as error:
            ended.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    began = time.monotonic()
    assert house.broker.stop(5.0)
    assert time.monotonic() - began < 5.0
    waiter.join(5)
    assert len(ended) == 1
    assert house.lockspaces.left == 1
    assert not house.path.exists()
    assert not house.monitors.running
    assert house.volume.closed


def test_stop_is_in_time_when_everything_hangs(house):
    forever = threading.Event()
    link = house.start()
    house.await_state(link, "ok")
    house.lockspaces.leave = lambda deadline: forever.wait(30)
    house.monitors.stop = lambda deadline: forever.wait(30)
    took = OwnTime()
    assert not house.broker.stop(1.0)
    assert took.seconds < 1.5
    forever.set()


def test_a_second_life_on_the_same_socket(directory):
    first = House(directory)
    link = first.start()
    first.await_state(link, "ok")
    first.broker.stop(2.0)
    second = House(directory)
    second.volume = first.volume
    second.start()
    assert link.snapshot().host_id == 1
    second.broker.stop(2.0)


# --- other users ---------------------------------------------------------------------------------------------------

# It becomes the other user once everything is imported: the checkout and the interpreter may be closed to that user.
CLIENT = """
import json, os, sys
from ovirt_he_ha.client.link import BrokerError, BrokerFault, BrokerLink
user = int(sys.argv[2])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
link = BrokerLink(sys.argv[1], 5.0)
found = {}
for name, call in {
    "snapshot": link.snapshot,
    "get_stats": link.get_stats,
    "global": lambda: link.put_stats(0, b"maintenance=1"),
    "own": lambda: link.put_stats(1, b""),
    "notify": lambda: link.notify("a", "b", {}),
    "reset": link.reset_lockspace,
}.items():
    try:
        call()
        found[name] = "ok"
    except BrokerFault as error:
        found[name] = error.code.name
    except BrokerError as error:
        found[name] = error.code
print(json.dumps(found))
"""


def as_user(uid, path):
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(path), str(uid)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return json.loads(done.stdout)


needs_users = pytest.mark.skipif(os.geteuid() != 0, reason="missing: root")


@needs_users
def test_users(house):
    link = house.start()
    house.await_state(link, "ok")
    house.path.chmod(0o666)  # so that the credentials decide, not the file's mode
    everything = ("snapshot", "get_stats", "global", "own", "notify", "reset")
    assert as_user(0, house.path) == dict.fromkeys(everything, "ok")
    refused = dict.fromkeys(("own", "notify", "reset"), "NOT_ALLOWED")
    assert as_user(36, house.path) == {**dict.fromkeys(("snapshot", "get_stats", "global"), "ok"), **refused}
    assert set(as_user(65534, house.path).values()) == {"broken"}


@needs_users
def test_the_mode_of_the_socket_keeps_others_out(house):
    house.start()
    assert set(as_user(65534, house.path).values()) == {"not-allowed"}
