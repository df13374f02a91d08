import threading
from typing import Callable, List

import pytest

from ovirt_he_ha.agent.actions import ActionWorker, Definition
from ovirt_he_ha.core.model import Action, ActionKind, ActionReport, LeaseId, Outcome
from tests.agent.clocks import ManualClock

LEASE = LeaseId("sd", "vol", "/sd/vol.lease", 0)


class Vm:
    """Records what was asked; ``gate`` holds every call until the test lets it go."""

    def __init__(self) -> None:
        self.calls: List[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error = ""
        self.outcome = Outcome.OK
        self.aborting = threading.Event()
        self.abort_gate = threading.Event()

    def _done(self, name: str) -> ActionReport:
        self.calls.append(name)
        assert self.gate.wait(10)
        if self.error:
            raise OSError(self.error)
        return ActionReport(Action(ActionKind.START), 0.0, self.outcome, 0.0)

    def start(self, xml: str, lease: LeaseId, deadline: float) -> ActionReport:
        return self._done(f"start {xml} {lease.key}")

    def shutdown(self, deadline: float) -> ActionReport:
        return self._done("shutdown")

    def destroy(self, deadline: float) -> ActionReport:
        return self._done("destroy")

    def migrate(self, action: Action, deadline: float) -> ActionReport:
        return self._done(f"migrate {action.target_address}")

    def abort_migration(self) -> None:
        self.calls.append("abort")
        self.aborting.set()
        assert self.abort_gate.wait(10)


class Bench:
    def __init__(self, still_wanted: Callable[[], str] = lambda: "") -> None:
        self.vm = Vm()
        self.done = threading.Event()
        self.definition: Callable[[], Definition] = lambda: Definition("<domain/>", LEASE)
        self.worker = ActionWorker(self.vm, ManualClock(), lambda: self.definition(), still_wanted, self.done.set)

    def run(self, kind: ActionKind) -> ActionReport:
        assert self.worker.order(Action(kind, target_address="qemu+tcp://peer/system"))
        assert self.done.wait(10)
        report = self.worker.report()
        assert report is not None
        return report


@pytest.mark.parametrize(
    "kind, call",
    [
        (ActionKind.START, "start <domain/> vol"),
        (ActionKind.STOP, "shutdown"),
        (ActionKind.POWER_OFF, "destroy"),
        (ActionKind.MIGRATE, "migrate qemu+tcp://peer/system"),
    ],
)
def test_each_action_reaches_the_hypervisor_once(kind: ActionKind, call: str) -> None:
    bench = Bench()
    report = bench.run(kind)
    assert bench.vm.calls == [call]
    assert report.outcome is Outcome.OK
    assert report.finished_at is not None


def test_one_action_at_a_time() -> None:
    bench = Bench()
    bench.vm.gate.clear()
    assert bench.worker.order(Action(ActionKind.START))
    assert not bench.worker.order(Action(ActionKind.POWER_OFF))
    running = bench.worker.report()
    assert running is not None and running.outcome is None
    bench.vm.gate.set()
    assert bench.done.wait(10)
    assert bench.vm.calls == ["start <domain/> vol"]


def test_a_running_action_is_not_forgotten_and_a_finished_one_is_seen_until_taken() -> None:
    bench = Bench()
    bench.vm.gate.clear()
    bench.worker.order(Action(ActionKind.STOP))
    bench.worker.taken(bench.worker.report())
    assert bench.worker.report() is not None
    bench.vm.gate.set()
    assert bench.done.wait(10)
    report = bench.worker.report()
    assert bench.worker.report() is report
    bench.worker.taken(report)
    assert bench.worker.report() is None


def test_s4_start_is_withdrawn_when_the_last_look_objects() -> None:
    bench = Bench(still_wanted=lambda: "global-maintenance")
    report = bench.run(ActionKind.START)
    assert bench.vm.calls == []
    assert report.outcome is Outcome.LOST_RACE
    assert report.detail == "global-maintenance"


def test_s1_no_start_when_the_definition_is_refused() -> None:
    bench = Bench()

    def refuse() -> Definition:
        raise ValueError("no lease")

    bench.definition = refuse
    report = bench.run(ActionKind.START)
    assert bench.vm.calls == []
    assert report.outcome is Outcome.FAILED


def test_an_exception_of_the_hypervisor_is_a_failed_action() -> None:
    bench = Bench()
    bench.vm.error = "no socket"
    report = bench.run(ActionKind.POWER_OFF)
    assert report.outcome is Outcome.FAILED
    assert "no socket" in report.detail


def test_abort_does_not_wait_for_the_running_migration() -> None:
    bench = Bench()
    bench.vm.gate.clear()
    bench.worker.order(Action(ActionKind.MIGRATE))
    bench.worker.abort_migration()
    assert bench.vm.aborting.wait(10)
    bench.vm.abort_gate.set()
    bench.vm.gate.set()
    assert bench.done.wait(10)


def test_s4_an_abort_that_hangs_in_libvirt_is_not_waited_for_and_not_repeated() -> None:
    bench = Bench()
    bench.worker.abort_migration()
    assert bench.vm.aborting.wait(10)
    bench.worker.abort_migration()
    assert bench.vm.calls == ["abort"]
    bench.vm.abort_gate.set()


def test_the_guard_is_told_of_our_own_start_and_hand_over() -> None:
    told: List[float] = []
    for kind in (ActionKind.START, ActionKind.MIGRATE, ActionKind.STOP):
        vm, done = Vm(), threading.Event()
        vm.error = "gone"
        worker = ActionWorker(
            vm, ManualClock(), lambda: Definition("<domain/>", LEASE), lambda: "", done.set, told.append
        )
        assert worker.order(Action(kind, deadline=50.0))
        assert done.wait(10)
    assert told == [50.0, 0.0, 80.0, 30.0]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_a_start_that_failed_gives_back_what_an_earlier_tenure_left(outcome: Outcome) -> None:
    """Refused: something of the VM is here. Overdue: libvirt may still go on. A lost race: the lease is another's."""
    given: List[LeaseId] = []
    for kind in (ActionKind.START, ActionKind.STOP, ActionKind.MIGRATE):
        vm, done = Vm(), threading.Event()
        vm.outcome = outcome
        worker = ActionWorker(
            vm, ManualClock(), lambda: Definition("<domain/>", LEASE), lambda: "", done.set, give_back=given.append
        )
        assert worker.order(Action(kind))
        assert done.wait(10)
        report = worker.report()
        assert report is not None and report.outcome is outcome
    assert given == ([LEASE] if outcome is Outcome.FAILED else [])
