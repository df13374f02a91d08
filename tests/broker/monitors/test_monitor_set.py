import contextlib
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ovirt_he_ha.broker.monitors import MonitorOptions, MonitorSet, OptionError, StorageLatency, UnknownMonitor
from ovirt_he_ha.broker.monitors.monitor_set import engine_json
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Exit, Health, Reading, Vm
from ovirt_he_ha.core.timers import Timers
from tests.own_time import OwnTime

VMID = "5a0b6b0e-0000-4000-8000-000000000001"


class Watch:
    """The watch over libvirt, played by the test."""

    def __init__(self):
        self.reading = Reading()
        self.on_change = None
        self.stopped_with = None

    def start(self, on_change):
        self.on_change = on_change

    def stop(self, deadline):
        self.stopped_with = deadline

    def facts(self):
        return self.reading

    def tells(self, vm, detail, **how):
        self.reading = Reading.of(EngineFacts(EngineStatus(vm, Health.UNKNOWN, detail), **how))
        if self.on_change:
            self.on_change()


class Site:
    """A health page that can be told what to do."""

    def __init__(self):
        self.body, self.hold, self.asked = b"DB Up!Welcome to Health Status!\n", None, 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked += 1
                if site.hold is not None:
                    site.hold.wait(60)
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(site.body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/ovirt-engine/services/health"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self):
        if self.hold is not None:
            self.hold.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def root(tmp_path):
    """A host's files: bridge up, 1000 MiB free, half of the CPU busy."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemFree: 1024000 kB\nCached: 0 kB\nBuffers: 0 kB\nSReclaimable: 0 kB\n")
    (tmp_path / "proc" / "stat").write_text("cpu  100 0 0 100 0 0 0 0 0 0\n")
    bridge = tmp_path / "sys" / "class" / "net" / "ovirtmgmt"
    bridge.mkdir(parents=True)
    (bridge / "operstate").write_text("up\n")
    return tmp_path


def options(site, **how):
    values = {"bridge": "ovirtmgmt", "gateway": "127.0.0.1", "vmid": VMID, "health_url": site.url, **how}
    return MonitorOptions(**values)


@pytest.fixture
def started(site, root, real_clock, bell):
    watch, made = Watch(), []

    def start(timers=None, **how):
        made.append(MonitorSet(options(site, **how), watch, real_clock(), bell, timers, root))
        made[-1].start()
        return made[-1], watch

    yield start
    for monitors in made:
        assert monitors.stop(5) == []


def engine_words(monitors):
    facts = monitors.monitors().engine.value
    return facts and (facts.status.vm.value, facts.status.health.value, facts.status.detail)


def test_before_anything_is_measured_nothing_is_known_and_upstream_reads_none(site, root, real_clock, bell):
    monitors = MonitorSet(options(site), Watch(), real_clock(), bell, root=root)
    known = monitors.monitors()
    for name in ("network", "bridge", "mem_free", "cpu_load", "storage_latency", "engine"):
        assert getattr(known, name).unknown == "not-yet"
    for name in ("network", "mgmt-bridge", "mem-free", "cpu-load-no-engine", "engine-health", "storage-domain"):
        assert monitors.legacy_text(name) == "None"
    assert monitors.stop(5) == []


def test_a_host_in_order(started, bell, root):
    monitors, watch = started(network_test="none")
    watch.tells(Vm.DOWN, "Down")
    assert bell.wait_until(lambda: engine_words(monitors) == ("down", "bad", "unknown"))
    assert bell.wait_until(lambda: monitors.monitors().bridge.known and monitors.monitors().mem_free.known)
    assert bell.wait_until(lambda: monitors.monitors().network.known)
    monitors.storage.record(0.25)
    known = monitors.monitors()
    assert (known.network.value, known.bridge.value, known.mem_free.value) == (1.0, True, 1000)
    assert known.storage_latency.value == 0.25
    assert [monitors.legacy_text(name) for name in ("network", "mgmt-bridge", "mem-free", "storage-domain")] == [
        "1.0",
        "True",
        "1000",
        "True",
    ]
    assert monitors.legacy_text("cpu-load-no-engine") == "None"  # the first value takes two samples
    assert monitors.legacy_text("engine-health") == '{"vm": "down", "health": "bad", "detail": "unknown"}'
    assert float(monitors.legacy_text("cpu-load")) >= 0


def test_an_event_of_libvirt_is_seen_at_once_and_the_page_asked(started, bell, site):
    monitors, watch = started(network_test="none")
    watch.tells(Vm.DOWN, "Down")
    assert bell.wait_until(lambda: engine_words(monitors) is not None)
    took = OwnTime()
    watch.tells(Vm.UP, "Up")
    assert bell.wait_until(lambda: engine_words(monitors) == ("up", "good", "Up"))
    watch.tells(Vm.DOWN, "Down", last_exit=Exit.CRASHED)
    assert bell.wait_until(lambda: engine_words(monitors) == ("down_unexpected", "bad", "Down"))
    assert took.seconds < 4.0  # not the 5 s of the polling
    assert '"vm": "down_unexpected"' in monitors.legacy_text("engine-health")


def test_a_hanging_page_delays_nothing_and_no_stop(started, bell, site):
    site.hold = threading.Event()
    monitors, watch = started(network_test="none")
    watch.tells(Vm.UP, "Up")
    deadline = time.monotonic() + 10
    while not site.asked and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    took = OwnTime()
    watch.tells(Vm.UP, "Paused", paused_for=0.1)
    assert bell.wait_until(lambda: engine_words(monitors) == ("up", "bad", "Paused"))
    assert took.seconds < 2.0
    watch.tells(Vm.UP, "Up")
    took = OwnTime()
    assert monitors.stop(5) == []
    assert took.seconds < 4.0
    assert watch.stopped_with > 0


def test_libvirt_lost_reads_as_unknown_for_upstream_too(started, bell):
    monitors, watch = started(network_test="none")
    watch.tells(Vm.DOWN, "Down")
    assert bell.wait_until(lambda: engine_words(monitors) is not None)
    watch.reading = Reading.missing("no-libvirt", 1.0)
    watch.on_change()
    assert bell.wait_until(lambda: monitors.monitors().engine.unknown == "no-libvirt")
    assert monitors.legacy_text("engine-health") == '{"vm": "unknown", "health": "unknown", "detail": "unknown"}'


def test_a_bridge_that_goes_down_is_seen(started, bell, root):
    monitors, _ = started(Timers(engine_poll=0.5), network_test="none")
    assert bell.wait_until(lambda: monitors.monitors().bridge.value is True)
    (root / "sys" / "class" / "net" / "ovirtmgmt" / "operstate").write_text("down\n")
    assert bell.wait_until(lambda: monitors.monitors().bridge.value is False)
    assert monitors.legacy_text("mgmt-bridge") == "False"


def test_no_process_is_spawned(started, bell, monkeypatch):
    def refuse(*args, **how):
        raise AssertionError("a process was spawned")

    for name in ("fork", "posix_spawn", "execve"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr("_posixsubprocess.fork_exec", refuse)
    monkeypatch.setattr("subprocess.Popen", refuse)
    monitors, watch = started(network_test="ping")
    watch.tells(Vm.UP, "Up")
    assert bell.wait_until(lambda: engine_words(monitors) == ("up", "good", "Up"))
    assert bell.wait_until(lambda: monitors.monitors().network.value == 1.0)


def test_all_threads_are_gone_after_stop(site, root, real_clock, bell):
    before = set(threading.enumerate())
    monitors = MonitorSet(options(site), Watch(), real_clock(), bell, root=root)
    monitors.start()
    took = OwnTime()
    assert monitors.stop(5) == []
    assert took.seconds < 5
    assert {t for t in threading.enumerate() if t.name.startswith("monitor-")} - before == set()


def test_a_thread_that_hangs_is_named_and_not_waited_for(site, root, real_clock, bell, monkeypatch):
    entered, release = threading.Event(), threading.Event()

    def hang(_network):
        entered.set()
        release.wait(30)
        return 1.0

    monkeypatch.setattr("ovirt_he_ha.broker.monitors.network.Network.measure", hang)
    monitors = MonitorSet(options(site, gateway="gateway.example"), Watch(), real_clock(), bell, root=root)
    monitors.start()
    assert entered.wait(10)
    took = OwnTime()
    assert monitors.stop(2) == ["network"]
    assert took.seconds < 4
    release.set()
    assert monitors.stop(5) == []


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("vmid", {"vmid": ""}),
        ("bridge", {"bridge": ""}),
        ("gateway", {"gateway": ""}),
        ("network_test", {"network_test": "pong"}),
        ("tcp_t_port", {"network_test": "tcp", "tcp_t_address": "h"}),
        ("[health] url", {"health_url": "nonsense"}),
        ("[health] ca-file", {"health_url": "https://h/", "ca_file": "/nonexistent"}),
    ],
)
def test_a_wrong_option_names_its_key_and_nothing_runs(site, root, real_clock, bell, key, wrong):
    with pytest.raises(OptionError) as problem:
        MonitorSet(options(site, **wrong), Watch(), real_clock(), bell, root=root)
    assert problem.value.key == key
    assert key in str(problem.value)


def test_upstreams_start_monitor_is_checked(site, root, real_clock, bell):
    monitors = MonitorSet(options(site), Watch(), real_clock(), bell, root=root)
    assert monitors.check_start("network", {"addr": "1.2.3.4", "network_test": "ping"}) == "network"
    assert monitors.check_start("mgmt-bridge", {"bridge_name": "x", "address": "0", "use_ssl": "true"}) == "mgmt-bridge"
    assert monitors.check_start("engine-health", {"vm_uuid": VMID}) == "engine-health"
    assert monitors.check_start("mem-free", {}) == "mem-free"
    for name, wrong in (("network", {}), ("mgmt-bridge", {}), ("engine-health", {"vm_uuid": "other"})):
        with pytest.raises(OptionError):
            monitors.check_start(name, wrong)
    for call in (lambda: monitors.check_start("x", {}), lambda: monitors.legacy_text("x")):
        with pytest.raises(UnknownMonitor):
            call()


def test_the_text_of_the_engine_is_what_tools_search_for():
    text = engine_json(EngineStatus(Vm.UP, Health.BAD, "Up", 'quote " and \u00fcmlaut'))
    assert text.startswith('{"vm": "up", "health": "bad", "detail": "Up", "reason": "')
    assert text.isascii()
    assert list(json.loads(text)) == ["vm", "health", "detail", "reason"]


# --- storage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "valid"), [(0.0, True), (10.0, True), (10.1, False), (-1.0, True)])
def test_storage_is_valid_up_to_ten_seconds(hand_clock, seconds, valid):
    latency = StorageLatency(hand_clock)
    assert latency.valid() is None
    latency.record(seconds)
    assert latency.valid() is valid
    assert latency.reading().value == max(0.0, seconds)


def test_storage_that_fails_is_unknown_with_its_age(hand_clock, bell):
    latency = StorageLatency(hand_clock, bell)
    latency.record(0.1)
    latency.record(0.2)
    assert bell.rung == 1
    latency.failed("overdue")
    hand_clock.now += 7
    reading = latency.reading()
    assert (reading.value, reading.unknown, reading.age) == (None, "overdue", 7.0)
    assert latency.valid() is False
    assert bell.rung == 2
