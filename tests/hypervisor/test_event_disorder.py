"""libvirt's events lost, doubled, late, and in a flood: what the watch says stays what a look finds."""

import importlib.util
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import Exit, Vm
from ovirt_he_ha.hypervisor.connection import Unreachable
from ovirt_he_ha.hypervisor.engine_life import LAST_EVENT, EngineLife, Look, Run
from ovirt_he_ha.hypervisor.process import EngineProcess, ProcessTable

VMID = "11111111-2222-3333-4444-555555555555"

with_libvirt = [
    pytest.mark.system_python,
    pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="missing: python3-libvirt"),
]


def look(run: Run = Run.RUNNING, domain_id: int = 1, pause_reason: str = "") -> Look:
    return Look(run, domain_id=domain_id, pause_reason=pause_reason, lease_defined=True)


class Processes(ProcessTable):
    def __init__(self) -> None:
        super().__init__()
        self.found: List[EngineProcess] = []

    def find(self, vmid: str, pids: Any = None) -> List[EngineProcess]:
        return list(self.found)

    def stat(self, pid: int) -> None:
        return None

    def age(self, process: EngineProcess) -> float:
        return 100.0


@dataclass
class Libvirt:
    """What libvirt shows at a look, and how often it was asked."""

    shows: Optional[Look] = field(default_factory=look)
    away: bool = False
    looks: int = 0

    def call(self, what: str, function: Callable[..., object], deadline: float) -> Any:
        if self.away:
            raise Unreachable("test:///", "nobody there")
        if what.startswith("look"):
            self.looks += 1
            return self.shows
        return 0

    def close(self, seconds: float) -> bool:
        return True


class Domain:
    def UUIDString(self) -> str:
        return VMID


class Watched:
    """A watch whose rounds the test makes, one by one."""

    def __init__(self) -> None:
        from ovirt_he_ha.hypervisor.events import EngineWatch

        self.table = Processes()
        self.table.found = [EngineProcess(2**22 - 1, 1)]
        self.watch = EngineWatch("test:///default", VMID, None, SystemClock(1.0), table=self.table)
        self.real = self.watch._connection.libvirt
        self.libvirt = Libvirt()
        connection: Any = self.libvirt
        connection.libvirt = self.real
        self.watch._connection = connection
        self.watch._statistics = connection
        self.watch._exits.watch = lambda process: None  # type: ignore[method-assign]
        self.round()

    def event(self, number: int, detail: int = 0, subscription: int = 0) -> None:
        self.watch._receive(None, Domain(), number, detail, (subscription, self.watch._lifecycle))

    def suspended(self) -> None:
        self.event(self.real.VIR_DOMAIN_EVENT_SUSPENDED)

    def stopped(self) -> None:
        self.event(self.real.VIR_DOMAIN_EVENT_STOPPED, self.real.VIR_DOMAIN_EVENT_STOPPED_CRASHED)

    def round(self, wait: bool = False) -> None:
        self.watch._look(self.watch._wait() if wait else [])
        self.watch._settle()

    @property
    def seen(self) -> Tuple[Optional[Vm], Optional[float], Exit]:
        facts = self.watch.facts().value
        return (None, None, Exit.NONE) if facts is None else (facts.status.vm, facts.paused_for, facts.last_exit)


@pytest.fixture
def watched() -> Watched:
    made = Watched()
    assert made.seen == (Vm.UP, None, Exit.NONE)
    return made


class TestWatch:
    pytestmark = with_libvirt

    def test_a_pause_that_is_told_late_or_twice_is_never_read(self, watched: Watched) -> None:
        """A copy that is read as paused is killed at once: the VM runs, so nobody may read that."""
        for _ in range(2):
            watched.suspended()
            events = watched.watch._wait()
            assert watched.seen == (Vm.UP, None, Exit.NONE)
            watched.watch._look(events)
            assert watched.seen == (Vm.UP, None, Exit.NONE)

    def test_the_start_that_is_told_after_its_end_is_no_second_copy(self, watched: Watched) -> None:
        """The kernel's word on the end overtakes libvirt's events that wait for their look."""
        watched.event(watched.real.VIR_DOMAIN_EVENT_STARTED)
        watched.suspended()
        watched.watch._process_exited(watched.table.found[0])
        watched.libvirt.shows = None
        watched.round(wait=True)
        assert watched.seen == (Vm.UNKNOWN, None, Exit.NONE)
        watched.event(watched.real.VIR_DOMAIN_EVENT_STOPPED, watched.real.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)
        watched.round(wait=True)
        assert watched.seen == (Vm.DOWN, None, Exit.REQUESTED)

    def test_a_pause_without_its_event_is_found_by_the_look(self, watched: Watched) -> None:
        watched.libvirt.shows = look(Run.PAUSED, pause_reason="ioerror")
        watched.round()
        assert watched.seen[1] is not None

    def test_the_end_of_the_former_copy_told_twice_does_not_end_the_present_one(self, watched: Watched) -> None:
        watched.libvirt.shows = None
        watched.stopped()
        watched.round(wait=True)
        assert watched.seen[::2] == (Vm.DOWN_UNEXPECTED, Exit.CRASHED)
        watched.table.found = [EngineProcess(2**22 - 2, 2)]
        watched.libvirt.shows = look(domain_id=2)
        watched.round()
        watched.stopped()
        events = watched.watch._wait()
        assert watched.seen[0] is Vm.UP
        watched.watch._look(events)
        facts = watched.watch.facts().value
        assert facts is not None
        assert (facts.status.vm, facts.pid) == (Vm.UP, 2**22 - 2)
        assert facts.uptime is not None and facts.uptime >= 99  # it is the same copy, and no younger

    def test_an_end_without_its_event_is_found_and_named(self, watched: Watched) -> None:
        watched.libvirt.shows = None
        watched.round()
        assert watched.seen[0] is Vm.UNKNOWN  # the word may be on its way
        time.sleep(LAST_EVENT)
        watched.round()
        assert watched.seen == (Vm.DOWN_MISSING, None, Exit.CRASHED)

    def test_without_libvirt_events_count_and_the_reading_is_unknown(self, watched: Watched) -> None:
        watched.libvirt.away = True
        watched.stopped()
        watched.round(wait=True)
        assert watched.watch.facts().unknown == "unreachable"
        watched.libvirt.away = False
        watched.libvirt.shows = None
        watched.round()
        assert watched.seen[::2] == (Vm.DOWN_UNEXPECTED, Exit.CRASHED)

    def test_a_look_that_fails_is_unknown_and_the_next_one_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No descriptor left for a moment: without its thread the VM would be unknown until the broker's end."""
        watched = Watched()
        failed, looked, told = threading.Event(), threading.Event(), []
        find = watched.watch._find_process

        def fail() -> None:
            if len(told) < 3:
                raise OSError(24, "Too many open files")
            find()
            looked.set()

        def change() -> None:
            told.append(watched.watch.facts().unknown)
            failed.set()

        monkeypatch.setattr("ovirt_he_ha.hypervisor.events.POLL_CLOSE", 0.01)
        monkeypatch.setattr("ovirt_he_ha.hypervisor.events.POLL_FLOOR", 0.01)
        watched.watch._find_process = fail  # type: ignore[method-assign]
        watched.watch.start(change)
        try:
            assert failed.wait(5)
            assert told[0] == "error"
            told.extend(["", ""])
            assert looked.wait(5)
            until = time.monotonic() + 5
            while watched.seen[0] is None and time.monotonic() < until:
                time.sleep(0.01)
            assert watched.seen == (Vm.UP, None, Exit.NONE)
        finally:
            watched.watch.stop(2.0)

    def test_events_of_a_former_connection_say_nothing(self, watched: Watched) -> None:
        watched.watch._subscribed = 2
        watched.event(watched.real.VIR_DOMAIN_EVENT_STOPPED, subscription=1)
        assert watched.watch._inbox.empty()

    def test_a_flood_of_events_costs_twenty_looks_a_second(self, watched: Watched) -> None:
        """A guest can connect and disconnect its agent as often as it likes."""
        before = watched.libvirt.looks
        rung = threading.Semaphore(0)
        watched.watch.start(rung.release)
        begun = time.monotonic()
        sent = 0
        while time.monotonic() < begun + 0.5:
            watched.watch._receive(None, Domain(), 1, 1, (0, watched.watch._agent_lifecycle))
            sent += 1
            time.sleep(0.0002)
        assert watched.watch.stop(5)
        assert sent > 200
        assert watched.libvirt.looks - before <= 14


# --- any disorder -------------------------------------------------------------------------------------------------


class Story:
    """The VM as it really is, what libvirt would tell of it, and what the watch makes of what arrives."""

    def __init__(self) -> None:
        self.life = EngineLife()
        self.now = 100.0
        self.number = 0
        self.run = Run.OFF
        self.told: List[Callable[[EngineLife], None]] = []

    def change(self, what: str) -> None:
        now = self.now
        if what == "start" and self.run is Run.OFF:
            self.number += 1
            self.run = Run.RUNNING
            self.told += [lambda life: life.resumed(now), lambda life: life.started(now, incoming=False)]
        elif what == "pause" and self.run is Run.RUNNING:
            self.run = Run.PAUSED
            self.told.append(lambda life: life.suspended(now, "user"))
        elif what == "resume" and self.run is Run.PAUSED:
            self.run = Run.RUNNING
            self.told.append(lambda life: life.resumed(now))
        elif what == "end" and self.run is not Run.OFF:
            self.run = Run.OFF
            self.life.process_gone(EngineProcess(self.number, self.number), now)  # told by the kernel, before libvirt
            self.told.append(lambda life: life.stopped("crashed", now))

    def watch(self, events: List[Callable[[EngineLife], None]]) -> None:
        """One round: what arrived, and the look after it."""
        for event in events:
            event(self.life)
        if self.run is Run.OFF:
            self.life.absent(self.now)
        else:
            self.life.seen(look(self.run, self.number, "user" if self.run is Run.PAUSED else ""), self.now)
            self.life.adopt(EngineProcess(self.number, self.number), self.now)
        self.life.settle(self.now)


_ROUNDS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["start", "pause", "resume", "end"]), max_size=3),
        st.lists(st.integers(0, 30), max_size=6),  # which of all events ever told arrive now: some never, some twice
    ),
    max_size=12,
)


@given(_ROUNDS)
def test_whatever_arrives_in_whatever_order_a_round_ends_with_what_is(rounds: Any) -> None:
    story = Story()
    for changes, arriving in rounds:
        story.now += 1.0
        for what in changes:
            story.change(what)
        story.watch([story.told[index] for index in arriving if index < len(story.told)])
        facts = story.life.facts(story.now)
        assert (facts.status.vm is Vm.UP) == (story.run is not Run.OFF)
        assert (facts.paused_for is not None) == (story.run is Run.PAUSED)
    story.now += 10
    story.run = Run.OFF
    story.watch([])
    story.now += 10
    story.watch([])
    assert story.life.facts(story.now).status.vm in (Vm.DOWN, Vm.DOWN_MISSING, Vm.DOWN_UNEXPECTED)
