"""W-38, W-39 and W-42 to W-45: the life of the broker's process."""

import configparser
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from ovirt_he_ha.broker import service
from ovirt_he_ha.broker.daemon import Broker
from ovirt_he_ha.broker.handlers import Policy
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.monitors import MonitorOptions, MonitorSet
from ovirt_he_ha.broker.rpc import SocketProblem
from ovirt_he_ha.client.link import BrokerLink
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.storage.errors import StorageError
from tests.broker.monitors.test_monitor_set import VMID, Watch
from tests.broker.test_daemon import House
from tests.broker.test_handlers import record
from tests.broker.test_whiteboard import Board

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def house(tmp_path_factory):
    """A broker on fakes, with the real monitors."""
    made = House(tmp_path_factory.mktemp("w"))
    options = MonitorOptions(
        bridge="lo", gateway="127.0.0.1", vmid=VMID, health_url="http://127.0.0.1:9/", network_test="none"
    )
    clock, timers = SystemClock(1.0), Timers()
    made.monitors = MonitorSet(options, Watch(), clock, made.changes.bump, timers)
    made.broker = Broker(
        1,
        made.path,
        made.broker._whiteboard,
        made.lockspaces,
        made.monitors,
        made.notifier,
        lambda: None,
        clock,
        made.changes,
        Metrics(),
        timers,
        Policy(own=0),
    )
    yield made
    made.broker.stop(3.0)


def monitor_threads():
    return sorted(each.name for each in threading.enumerate() if each.name.startswith("monitor-"))


def test_w38_a_stop_while_monitors_run_is_clean_and_quick(house):
    before = monitor_threads()
    house.start().close()
    assert len(monitor_threads()) > len(before)
    begun = time.monotonic()
    assert house.broker.stop(4.5)
    assert time.monotonic() - begun < 5
    assert monitor_threads() == before
    assert house.lockspaces.left == 1
    assert not house.path.exists()


@pytest.fixture
def run_main(monkeypatch, tmp_path):
    """The daemon's main with ``composed`` in it; ``ready()`` is called when it says that it serves. Its exit status."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setenv("OVIRT_HE_ROOT", str(tmp_path))

    def run(composed, ready):
        def leave(status):
            raise SystemExit(status)

        monkeypatch.setattr(service, "compose", lambda paths: composed)
        monkeypatch.setattr(service, "setup_logging", lambda *_: None)
        monkeypatch.setattr(service, "tell_systemd", lambda word: ready() if word == "READY=1" else None)
        monkeypatch.setattr(service.logging, "shutdown", lambda: None)
        monkeypatch.setattr(service.os, "_exit", leave)
        with pytest.raises(SystemExit) as ended:
            service.main([])
        return ended.value.code

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Process:
    """What the process composes, as far as its exit status depends on it."""

    host_id = 1

    def __init__(self, refuses=None, ended=True):
        self.server = self
        self.refuses, self.ended = refuses, ended

    def reserve(self):
        if self.refuses is not None:
            raise self.refuses

    def start(self):
        pass

    def stop(self, deadline):
        return self.ended


@pytest.mark.parametrize(
    ("process", "status"),
    [
        (Process(), 0),
        (Process(ended=False), 2),
        (Process(SocketProblem("no place")), 1),
        (Process(service.NotConfigured("no file")), 255),
    ],
)
def test_w39_only_a_clean_stop_ends_with_0(run_main, process, status):
    assert run_main(process, lambda: os.kill(os.getpid(), signal.SIGTERM)) == status


def unit(name):
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(ROOT / "systemd" / name)
    return parser["Service"]


@pytest.mark.parametrize("name", ["ovirt-ha-broker.service", "ovirt-ha-agent.service"])
def test_w39_whatever_ends_a_daemon_it_is_started_again(name):
    assert unit(name)["Restart"] == "always"
    assert float(unit(name)["RestartSec"]) == Timers().supervise_restart


@pytest.mark.parametrize("code", ["io", "missing", "stale", "no-access"])
def test_w42_an_error_of_the_storage_is_a_state_that_passes(code):
    made = Board()
    made.volume.put(2, record(2))
    made.tick()
    made.volume.problem = StorageError(code, "/volume")
    made.tick(10.0)
    assert made.board.storage(made.clock.now).state == code
    assert 2 in made.board.slots() and made.board.slots_age(made.clock.now) == 10
    made.volume.problem = None
    made.tick(10.0)
    assert made.board.storage(made.clock.now).state == "ok"
    assert made.board.slots_age(made.clock.now) == 0


def test_w43_a_monitor_that_is_started_again_is_the_same_one(house):
    with house.start() as link:
        before = monitor_threads()
        for _ in range(3):
            assert link.start_monitor("network", {"addr": "127.0.0.1", "network_test": "none"}) == "network"
            link.stop_monitor("network")
        assert monitor_threads() == before
        assert len(set(before)) == len(before)


def test_w44_it_says_ready_when_it_answers_and_not_after_a_while(monkeypatch, house, run_main):
    """Nothing sleeps on the way: readiness is what others wait for."""
    answers = []
    monkeypatch.setattr(time, "sleep", lambda seconds: answers.append(f"slept {seconds}"))

    def ready():
        with BrokerLink(house.path, 5.0) as link:
            answers.append(link.is_host_alive())
        os.kill(os.getpid(), signal.SIGTERM)

    assert run_main(house.broker, ready) == 0
    assert answers == [()]


@pytest.mark.parametrize("name", ["ovirt-ha-broker.service", "ovirt-ha-agent.service"])
def test_w45_vm_conf_stays_when_a_daemon_stops(name):
    assert unit(name)["RuntimeDirectoryPreserve"] == "yes"
    assert HostPaths().vm_conf.parent == Path("/run") / unit(name)["RuntimeDirectory"]


def test_w45_a_broker_that_stops_takes_its_socket_and_nothing_else(house):
    other = house.path.parent / "vm.conf"
    other.write_text("vmId=x\n")
    house.start().close()
    house.broker.stop(4.5)
    assert other.read_text() == "vmId=x\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, pytest.raises(FileNotFoundError):
        peer.connect(str(house.path))
