"""Scenarios run one after another, or in several processes; what is told of each does not depend on how many there
are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, List, Mapping, Optional, Sequence, Tuple

from ovirt_he_ha.sim.announcements import Announcements
from ovirt_he_ha.sim.clock import stamp
from ovirt_he_ha.sim.coverage import Coverage
from ovirt_he_ha.sim.recordings import recording_to
from ovirt_he_ha.sim.run import laboratory, run, workers
from ovirt_he_ha.sim.scenario import Scenario
from ovirt_he_ha.sim.world import World


@dataclass(frozen=True)
class Order:
    """One scenario, and what is wanted of it. ``seed`` instead of its own; ``record``: below which directory."""

    scenario: Scenario
    seed: Optional[int] = None
    trace: bool = False
    coverage: bool = False
    record: Optional[Path] = None

    @property
    def cost(self) -> float:
        """More is longer: every host looks at every other one."""
        return self.scenario.length * self.scenario.cluster.hosts**2


@dataclass(frozen=True)
class Report:
    """``lines``: the verdict, and one for each complaint; nothing of them depends on the machine. ``virtual``: seconds.
    ``seen``: what of the policy, as in :class:`Coverage`."""

    passed: bool
    lines: Tuple[str, ...]
    virtual: float
    seen: Mapping[Tuple[str, str], int] = field(default_factory=dict)


def reports(orders: Sequence[Order], jobs: int) -> Iterator[Report]:
    """In the order of the orders. Raises OSError when a recording cannot be written."""
    if jobs == 1:
        with laboratory():
            yield from map(report, orders)
        return
    with workers(min(jobs, len(orders))) as pool:
        # The longest are begun first, so that none of them runs alone at the end.
        begun = sorted(range(len(orders)), key=lambda index: -orders[index].cost)
        answers = {index: pool.apply_async(report, (orders[index],)) for index in begun}
        for index in range(len(orders)):
            yield answers[index].get()


def report(order: Order) -> Report:
    """Its expectations, the invariants, and that every order was announced before."""
    scenario, covered, announced = order.scenario, Coverage(), Announcements()
    record = recording_to(order.record, scenario.name)

    def tweak(world: World) -> None:
        record(world)
        announced.tweak(world)

    result = covered.run(scenario, order.seed, tweak) if order.coverage else run(scenario, order.seed, tweak)
    world, complaints = result.world, result.complaints + [f"not announced: {each}" for each in announced.complaints]
    lines: List[str] = []
    if order.trace:
        lines += [f"# {scenario.name}: {scenario.about.splitlines()[0]}", *map(str, world.notes)]
    verdict = "FAILED" if complaints else "passed"
    lines.append(f"{verdict} {scenario.name} ({stamp(world.timeline.now)} s, {world.timeline.events} events)")
    lines += [f"    {complaint}" for complaint in complaints]
    return Report(not complaints, tuple(lines), world.now, covered.seen)
