"""A world in which nothing is left out and nothing is remembered is the same world, and takes longer."""

import dataclasses
from typing import Any, List, Tuple

import pytest

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.core.model import Decision
from ovirt_he_ha.sim import answers, chance, seats
from ovirt_he_ha.sim.host import Host
from ovirt_he_ha.sim.lockspaces import EventLockspaces
from ovirt_he_ha.sim.run import run
from ovirt_he_ha.sim.scenario import Scenario
from ovirt_he_ha.sim.world import World

SEEDS = (
    2,
    8,
    13,
)  # 8: a host's own record alone says that the engine is well; 13: sanlock lists hosts in another order


def course(scenario: Scenario) -> Tuple[Any, ...]:
    """What happened and when, to the nanosecond, what each decision was made from, to the last bit; and how many events
    it took."""
    seen: List[Any] = []

    def tweak(world: World) -> None:
        told, decided = world.volume.on_write, world.decided

        def write(writer: int, slot: int, data: bytes) -> None:
            seen.append((world.timeline.now, writer, slot, data))
            told(writer, slot, data)

        def decide(host: Host, cycle: Cycle, decision: Decision) -> None:
            seen.append((world.timeline.now, host.number, cycle.before, decision))
            decided(host, cycle, decision)

        world.volume.on_write = write
        world.decided = decide  # type: ignore[method-assign]

    world = run(scenario, tweak=tweak).world
    return list(map(str, world.notes)), world.volume.slots, seen, world.timeline.events


@pytest.mark.parametrize("seed", SEEDS)
def test_turns_that_are_left_out_would_have_done_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = dataclasses.replace(chance.scenario(seed), length=300.0)
    *quick, few = course(scenario)
    monkeypatch.setattr(seats.BrokerSeat, "_leave_out", lambda self, wait: None)
    monkeypatch.setattr(EventLockspaces, "_seen_of_hosts", lambda self: None)
    *plain, many = course(scenario)
    assert quick == plain
    assert few < many


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_that_are_remembered_are_those_of_the_product(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = dataclasses.replace(chance.scenario(seed), length=300.0)
    quick = course(scenario)
    monkeypatch.setattr("ovirt_he_ha.sim.quick.quick_functions", lambda: {each: each for each in answers.PLAIN})
    assert course(scenario) == quick
