"""Deadlines of libvirt calls, against libvirt's own test driver (no daemon, nothing of the machine)."""

import sys
import threading

import pytest

pytest.importorskip("libvirt", reason="missing on this machine: python3-libvirt")

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.hypervisor.connection import (
    BindingMissing,
    Connection,
    EventLoop,
    LibvirtFault,
    Overdue,
    Unreachable,
    binding,
    wall_seconds,
)
from ovirt_he_ha.hypervisor.cpu_model import HostCpu, describe

URI = "test:///default"


@pytest.fixture
def clock():
    return SystemClock(1.0)


@pytest.fixture
def hanging():
    """A call that hangs until the test lets it go."""
    release = threading.Event()
    yield lambda native: release.wait(30)
    release.set()


def test_answers_and_refusals(clock):
    connection = Connection(URI, clock)
    assert connection.call("list", lambda native: native.listAllDomains(0), 5)
    with pytest.raises(LibvirtFault) as fault:
        connection.call("look", lambda native: native.lookupByName("nobody"), 5)
    assert (fault.value.code, fault.value.what) == (42, "look")
    with pytest.raises(ZeroDivisionError):
        connection.call("divide", lambda native: 1 / 0, 5)
    assert connection.close(5)
    with pytest.raises(Unreachable):
        connection.call("list", lambda native: native.listAllDomains(0), 5)


def test_unknown_place_is_unreachable(clock):
    with pytest.raises(Unreachable) as error:
        Connection("qemu+unix:///system?socket=/nonexistent/socket", clock).call("x", lambda native: None, 5)
    assert "libvirtd" in str(error.value)


def test_overdue_call_is_abandoned_and_the_next_one_is_served(clock, hanging):
    connection = Connection(URI, clock)
    with pytest.raises(Overdue):
        connection.call("hang", hanging, 0.05)
    assert connection.abandoned
    assert connection.call("list", lambda native: len(native.listAllDomains(0)), 5) == 1
    assert len(connection.threads()) == 2


def test_no_third_thread(clock, hanging):
    connection = Connection(URI, clock)
    for _ in range(5):
        with pytest.raises(Overdue):
            connection.call("hang", hanging, 0.02)
    assert len(connection.threads()) == 2


def test_s4_no_third_thread_hangs_in_libvirt(clock, hanging):
    def living():
        return {thread for thread in threading.enumerate() if thread.name.startswith("libvirt-")}

    before = living()
    connection = Connection(URI, clock)
    for _ in range(5):
        with pytest.raises(Overdue):
            connection.call("hang", hanging, 0.02)
    named = {thread for thread in living() - before if thread.name != "libvirt-events"}
    assert len(named) == 2


def test_abandoned_call_that_returns_gives_its_thread_back(clock):
    release = threading.Event()
    connection = Connection(URI, clock)
    with pytest.raises(Overdue):
        connection.call("hang", lambda native: release.wait(30), 0.05)
    abandoned = connection.threads()[0]
    assert connection.call("one", lambda native: 1, 5) == 1
    release.set()
    abandoned.join(5)
    assert not abandoned.is_alive()
    assert not connection.abandoned
    assert connection.call("two", lambda native: 2, 5) == 2


def test_overdue_call_in_the_queue_is_not_made_later(clock):
    release, made = threading.Event(), []
    connection = Connection(URI, clock)
    first = threading.Thread(target=lambda: connection.call("slow", lambda native: release.wait(30), 10), daemon=True)
    first.start()
    with pytest.raises(Overdue):
        connection.call("queued", lambda native: made.append("late"), 0.05)
    release.set()
    first.join(5)
    connection.call("after", lambda native: None, 5)
    assert made == []


def test_each_opening_is_numbered_and_subscribed(clock, hanging):
    numbers = []
    connection = Connection(URI, clock, on_open=lambda native, number: numbers.append(number))
    connection.call("one", lambda native: None, 5)
    connection.call("two", lambda native: None, 5)
    assert numbers == [1]
    with pytest.raises(Overdue):
        connection.call("hang", hanging, 0.05)
    connection.call("three", lambda native: None, 5)
    assert numbers == [1, 2]


def test_deadlines_on_a_fast_clock():
    fast = SystemClock(10.0)
    assert wall_seconds(fast, 5) == 2.0
    assert wall_seconds(fast, 300) == 30.0
    assert wall_seconds(fast, 1) == 1.0
    assert wall_seconds(SystemClock(1.0), 5) == 5.0


def test_missing_binding_is_named_with_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(BindingMissing) as error:
        binding()
    assert "python3-libvirt" in str(error.value)


def test_event_loop_starts_once_stops_and_starts_again():
    EventLoop.start()
    EventLoop.start()
    assert sum(thread.name == "libvirt-events" for thread in threading.enumerate()) == 1
    assert EventLoop.stop(5)
    assert EventLoop.stop(5)
    assert not any(thread.name == "libvirt-events" for thread in threading.enumerate())
    EventLoop.start()
    assert sum(thread.name == "libvirt-events" for thread in threading.enumerate()) == 1


def test_cpu_digest_looks_at_what_guests_see():
    text = (
        "<capabilities><host><uuid>{uuid}</uuid><cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor>"
        "<microcode version='{code}'/>{features}</cpu></host></capabilities>"
    )
    a = describe(text.format(uuid="1", code="5", features="<feature name='x'/><feature name='y'/>"))
    b = describe(text.format(uuid="2", code="6", features="<feature name='y'/><feature name='x'/>"))
    c = describe(text.format(uuid="1", code="5", features="<feature name='x'/>"))
    assert a == b
    assert a != c
    assert len(a) == 16
    assert describe("<capabilities/>") == ""


def test_cpu_digest_is_asked_once(clock):
    asked = []

    class Counting(Connection):
        def call(self, what, function, seconds):
            asked.append(what)
            return super().call(what, function, seconds)

    cpu = HostCpu(Counting(URI, clock))
    assert cpu.digest(5) == cpu.digest(5)
    assert len(asked) == 1
