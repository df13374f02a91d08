"""What the agent writes into its ledger, and what a disk that fails, hangs or tears a line costs."""

import logging
import threading
import time
from dataclasses import replace

import pytest

from ovirt_he_ha.agent.ledger import WAITING, Ledger, LedgerFile
from ovirt_he_ha.agent.scribe import Scribe
from ovirt_he_ha.config.ledgers import older, read_own
from ovirt_he_ha.core import states
from ovirt_he_ha.core.ledger import Entry
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    HostLease,
    LeaseOwner,
    Outcome,
    Reading,
    State,
)
from ovirt_he_ha.core.timers import Timers
from tests.config.own_mounts import with_small_disk
from tests.core.world import PAUSED, World


def cycle(scribe, world, seconds=10.0):
    """One cycle of the real policy; its lines."""
    world.now += seconds
    snapshot = world.snapshot()
    decision = states.decide(snapshot, Timers())
    world.carried = decision.carried
    return scribe.changes(snapshot, decision)


def kinds(entries):
    return [entry.kind for entry in entries]


def test_a_start_and_its_end_line_by_line():
    world, scribe = World(), Scribe()
    first = cycle(scribe, world)
    assert kinds(first)[0] == "begin" and "order" in kinds(first)
    state = next(entry for entry in first if entry.kind == "state")
    assert (state.values["from"], state.values["to"]) == ("EngineDown", "EngineStart") and state.values["why"]
    world.report = ActionReport(Action(ActionKind.START), world.now, Outcome.OK, world.now + 3.0)
    world.runs()
    world.owner = Reading.of(LeaseOwner(1, 1, 77, 12))
    lines = cycle(scribe, world)
    done, vm = lines[0], lines[1]
    assert (done.kind, done.values["outcome"], done.values["seconds"]) == ("done", "ok", 3.0)
    assert (vm.kind, vm.values["vm"], vm.seen) == ("vm", "here", world.now)
    assert (vm.look.owner, vm.look.generation, vm.look.version, vm.own_generation) == (1, 1, 12, 1)
    world.report = None
    assert [each.kind for each in cycle(scribe, world) if each.kind != "state"] == ["lease"]  # the look that confirms


def test_nothing_changes_nothing_is_written():
    world, scribe = World(state=State.ENGINE_UP).runs(), Scribe()
    world.owner = Reading.of(LeaseOwner(1, 1, 77, 12))
    for _ in range(8):  # the peers fall silent, which is a line
        cycle(scribe, world)
    assert [cycle(scribe, world) for _ in range(5)] == [[]] * 5


def test_the_end_says_when_the_copy_was_last_seen_and_a_look_follows_that_is_surely_later():
    world, scribe = World(state=State.ENGINE_UP).runs(), Scribe()
    world.owner = Reading.of(LeaseOwner(1, 1, 77, 12))
    for _ in range(3):
        cycle(scribe, world)
    last = world.now
    world.vm(PAUSED, paused_for=0.0, pause_reason="user")
    lines = cycle(scribe, world, 4.0)
    vm = next(entry for entry in lines if entry.kind == "vm")
    assert (vm.values["vm"], vm.seen) == ("held-up", last)
    assert "lease" not in kinds(cycle(scribe, world, 2.0))
    confirming = [entry for entry in cycle(scribe, world, 4.0) if entry.kind == "lease"]
    assert [entry.seen for entry in confirming] == [None]


def test_what_is_unknown_for_a_moment_is_no_change():
    world, scribe = World(), Scribe()
    cycle(scribe, world)
    cycle(scribe, world)
    world.owner = Reading.missing("overdue")
    world.lockspace = Reading.missing("overdue")
    world.global_maintenance = Reading.missing("overdue")
    world.watchdog_armed = None
    world.engine = Reading.missing("overdue")
    assert set(kinds(cycle(scribe, world))) <= {"state"}


def test_maintenance_protection_and_the_lease_elsewhere():
    world, scribe = World(), Scribe()
    cycle(scribe, world)
    cycle(scribe, world)
    world.global_maintenance = Reading.of(True)
    world.watchdog_armed = False
    world.owner = Reading.of(LeaseOwner(2, 4, 80, 13))
    world.flags[2] = HostLease.LIVE
    found = {entry.kind: entry for entry in cycle(scribe, world)}
    assert found["maintenance"].values == {"global": True}
    assert found["protection"].values["watchdog"] is False
    assert (found["lease"].look.owner, found["lease"].look.version) == (2, 13)


# --- the files ------------------------------------------------------------------------------------------------------


def entry(at=1.0, **changes):
    return replace(Entry("state", 1, "boot", at, 2.0, {"from": "A", "to": "B" * 100}), **changes)


def test_numbers_go_on_and_two_files_are_all_there_is(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for at in range(200):
        LedgerFile(path, 4096).append([entry(float(at))])
    assert path.stat().st_size <= 4096 and older(path).stat().st_size <= 4096
    found = read_own(path)
    numbers = [each.number for each in found.entries]
    assert numbers == list(range(numbers[0], 201)) and len(numbers) > 20 and not found.skipped
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ledger.1.jsonl", "ledger.jsonl"]


@pytest.mark.parametrize("cut", [1, 40, 100])
def test_a_torn_line_costs_itself(tmp_path, cut):
    path = tmp_path / "ledger.jsonl"
    LedgerFile(path).append([entry(1.0), entry(2.0)])
    path.write_bytes(path.read_bytes()[:-cut])
    LedgerFile(path).append([entry(3.0)])
    found = read_own(path)
    torn = cut > 1  # without its end alone the line is whole
    assert [each.at for each in found.entries] == ([1.0, 3.0] if torn else [1.0, 2.0, 3.0])
    assert len(found.skipped) == torn


class Disk:
    """A ledger's file whose writes are refused or held up."""

    def __init__(self):
        self.error = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.tried = threading.Event()
        self.done = threading.Event()
        self.written = []

    def append(self, entries):
        self.tried.set()
        assert self.goes_on.wait(10)
        if self.error is not None:
            raise self.error
        self.written += entries
        self.done.set()


class Fixed:
    def __init__(self):
        self.next = []

    def changes(self, snapshot, decision):
        return self.next


def test_s4_a_hung_disk_holds_nothing_up_and_what_is_lost_is_counted():
    disk, scribe = Disk(), Fixed()
    ledger = Ledger(disk, scribe)
    disk.goes_on.clear()
    try:
        scribe.next = [entry(0.0)]
        ledger.note(None, None)
        assert disk.tried.wait(10)
        began = time.monotonic()
        for at in range(1, WAITING + 11):
            scribe.next = [entry(float(at))]
            ledger.note(None, None)
        ledger.close(0.05)
        assert time.monotonic() - began < 2.0
    finally:
        disk.goes_on.set()
    ledger.close(10.0)
    assert kinds(disk.written[:2]) == ["state", "lost"] and disk.written[1].values["lines"] == 10
    assert [each.at for each in disk.written[2:]] == [float(at) for at in range(11, WAITING + 11)]


def test_a_disk_that_refuses_is_named_once_and_tried_again(caplog):
    disk, scribe = Disk(), Fixed()
    ledger = Ledger(disk, scribe, retry=0.01)
    disk.error = OSError(28, "No space left on device")
    with caplog.at_level(logging.ERROR):
        for at in range(5):
            scribe.next = [entry(float(at))]
            disk.tried.clear()
            ledger.note(None, None)
            assert disk.tried.wait(10)
        assert disk.tried.wait(10)
    assert ledger.problem == "full"
    assert len(caplog.records) == 1
    disk.error = None
    assert disk.done.wait(10)
    ledger.close(10.0)
    assert [each.at for each in disk.written] == [float(at) for at in range(5)]
    assert ledger.problem == ""


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_full_or_read_only_disk(tmp_path, how):
    def story(disk):
        path = disk.path / "ledger.jsonl"
        scribe = Fixed()
        scribe.next = [entry(1.0)]
        LedgerFile(path).append([entry(0.0)])
        {"full": disk.fill, "read-only": disk.read_only}[how]()
        file = LedgerFile(path)
        many = [entry(float(at)) for at in range(1, 101)]
        with pytest.raises(OSError, match=r"space|[Rr]ead-only"):
            file.append(many)
        disk.read_only(False)
        disk.empty()
        file.append([entry(500.0)])
        found = read_own(path)
        numbers = [each.number for each in found.entries]
        assert numbers == list(range(1, len(numbers) + 1))
        assert (found.entries[0].at, found.entries[-1].at) == (0.0, 500.0)

    with_small_disk(tmp_path, story)


def test_a_defect_ends_the_ledger_and_not_the_agent(caplog):
    class Broken:
        def changes(self, snapshot, decision):
            raise KeyError("x")

    ledger = Ledger(Disk(), Broken())
    ledger.note(None, None)
    ledger.note(None, None)
    assert ledger.problem == "defect" and len(caplog.records) == 1
    ledger.close(1.0)
