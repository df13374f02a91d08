"""What one cycle does with a decision, and in which order. The policy is the real one; its neighbours are recorded."""

from dataclasses import replace
from typing import Any, Callable, List, Optional

import pytest

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    Carried,
    Decision,
    Fence,
    HostLease,
    LeaseOwner,
    Outcome,
    Reading,
    Snapshot,
    State,
)
from ovirt_he_ha.core.timers import Timers
from tests.core.world import PAUSED, World


class Parts:
    """Everything around a cycle; ``log`` is what was done, in its order."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.log: List[object] = []
        self.report: Optional[ActionReport] = None
        self.cycle = Cycle(self, self, self, self, self.save, Timers(), world.carried)  # type: ignore[arg-type]

    def collect(self, carried: Carried, stopping: bool = False) -> Snapshot:
        self.world.carried = carried
        self.world.more = {"stopping": stopping}
        snapshot: Snapshot = self.world.snapshot()
        return replace(snapshot, report=self.report)

    def order(self, what: object) -> bool:
        self.log.append(what)
        if isinstance(what, Action):
            self.report = ActionReport(what, self.world.now)
        return True

    def taken(self, report: Optional[ActionReport]) -> None:
        self.log.append(("taken", report))

    def abort_migration(self) -> None:
        self.log.append("abort")

    def save(self, carried: Carried) -> None:
        self.log.append("save")

    def publish(self, snapshot: Snapshot, decision: Decision) -> None:
        self.log.append("publish")

    def ordered(self) -> List[ActionKind]:
        return [entry.kind for entry in self.log if isinstance(entry, Action)]


def test_budgets_are_on_disk_before_the_action_and_the_slot_comes_last() -> None:
    parts = Parts(World())
    parts.cycle.run_one_cycle()
    kinds = [type(entry).__name__ if isinstance(entry, Action) else entry for entry in parts.log]
    assert kinds.index("save") < kinds.index("Action") < kinds.index("publish")
    assert parts.ordered() == [ActionKind.START]


def test_s2_the_kill_that_was_decided_is_carried_out_before_everything_else() -> None:
    parts = Parts(World(state=State.ENGINE_UP).runs(paused_for=3.0, pause_reason="user").vm(PAUSED))
    parts.cycle.run_one_cycle()
    assert isinstance(parts.log[0], Fence)
    assert parts.ordered() == []


def test_s8_a_stopping_agent_orders_nothing() -> None:
    parts = Parts(World())
    assert parts.cycle.run_one_cycle(stopping=True).state is State.AGENT_STOPPED
    assert parts.ordered() == []


def test_s8_a_stopping_agent_orders_nothing_whatever_was_decided() -> None:
    world = World()
    parts = Parts(world)
    collect = parts.collect
    parts.collect = lambda carried, stopping=False: collect(carried)  # type: ignore[method-assign]
    decision = parts.cycle.run_one_cycle(stopping=True)
    assert decision.action is not None and decision.action.kind is ActionKind.START
    assert parts.ordered() == []


def test_a_migration_past_its_deadline_is_aborted() -> None:
    world = World(state=State.ENGINE_UP).runs()
    parts = Parts(world)
    parts.report = ActionReport(Action(ActionKind.MIGRATE, 2, "x", 10.0), world.now - 11)
    parts.cycle.carried = replace(parts.cycle.carried, migration=parts.report.action)
    parts.cycle.run_one_cycle()
    assert "abort" in parts.log


def test_an_action_that_finished_is_acknowledged() -> None:
    parts = Parts(World(own_start_at=10_000.0))
    parts.report = ActionReport(Action(ActionKind.START), 9_990.0, Outcome.FAILED, 9_999.0)
    parts.cycle.run_one_cycle()
    assert ("taken", parts.report) in parts.log


# --- the last look before create ------------------------------------------------------------------------------------


def set_global_maintenance(world: Any) -> None:
    world.global_maintenance = Reading.of(True)


def set_local_maintenance(world: Any) -> None:
    world.host = replace(world.host, local_maintenance=Reading.of(True))


def lose_the_flag(world: Any) -> None:
    world.global_maintenance = Reading.missing("overdue")


def take_the_lease(world: Any) -> None:
    world.owner = Reading.of(LeaseOwner(2, 1))
    world.flags[2] = HostLease.LIVE


def lose_the_owner(world: Any) -> None:
    world.owner = Reading.missing("error")


def lose_libvirt(world: Any) -> None:
    world.engine = Reading.missing("overdue")


def see_a_new_host(world: Any) -> None:
    world.flags[7] = HostLease.LIVE


def lose_the_network(world: Any) -> None:
    world.monitors = replace(world.monitors, network=Reading.of(0.0))


CHANGES = (
    set_global_maintenance,
    set_local_maintenance,
    lose_the_flag,
    take_the_lease,
    lose_the_owner,
    lose_libvirt,
    see_a_new_host,
    lose_the_network,
)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "after another cycle"])
@pytest.mark.parametrize("change", CHANGES)
def test_s4_s9_what_changed_since_the_decision_forbids_the_start(change: Callable[[Any], None], later: bool) -> None:
    world = World()
    parts = Parts(world)
    parts.cycle.run_one_cycle()
    assert parts.ordered() == [ActionKind.START]
    if later:
        world.now += 1
        parts.cycle.run_one_cycle()
    assert parts.cycle.objection_to_start(parts.collect) == ""
    change(world)
    assert parts.cycle.objection_to_start(parts.collect)


def test_s4_no_start_before_the_first_decision() -> None:
    parts = Parts(World())
    assert parts.cycle.objection_to_start(parts.collect)
