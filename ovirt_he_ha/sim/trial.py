"""One scenario of the swarm, run to its end: what went wrong, what was covered, and a digest of everything."""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Mapping, Tuple

from ovirt_he_ha.sim.clock import SECOND
from ovirt_he_ha.sim.coverage import Coverage
from ovirt_he_ha.sim.expectation import Expectation
from ovirt_he_ha.sim.faults import schedule
from ovirt_he_ha.sim.invariants import Violation
from ovirt_he_ha.sim.progress import left_by_theirs
from ovirt_he_ha.sim.run import laboratory
from ovirt_he_ha.sim.scenario import Scenario
from ovirt_he_ha.sim.world import World

STEP = 30.0  # seconds between two looks whether all is well again
WELL = 60.0  # seconds of a good page after the healing that end a world
LATEST = 2400.0  # seconds after the healing at which a world ends in any case
HEAL = "heal"


@dataclass(frozen=True)
class Outcome:
    """``virtual``: seconds. ``seen``: what of the policy, as in :class:`Coverage`."""

    violations: Tuple[Violation, ...]
    virtual: float
    events: int
    digest: str
    seen: Mapping[Tuple[str, str], int]

    @property
    def signature(self) -> str:
        """What a smaller scenario must still show: the first rule that was broken; for an exception also where."""
        if not self.violations:
            return ""
        first = self.violations[0]
        return f"{first.rule} {first.text.partition(':')[0]}" if first.rule == "exception" else first.rule


def attempt(scenario: Scenario, complete: bool = False) -> Outcome:
    """Run it until a rule is broken, or the engine has been well for a while after the last fault. ``complete``: to its
    length and not further, whatever happens, and nothing is ``seen``."""
    covered = Coverage()
    with laboratory(), nullcontext() if complete else covered.links():
        world = World(scenario.cluster, scenario.seed)
        world.progress.enabled = scenario.progress
        if not complete:
            covered.tweak(world)
        for fault in scenario.faults:
            schedule(world, fault)
        if complete:
            world.run(scenario.length)
        else:
            _run(world, scenario.length)
        _judge(world, scenario)
        for kind, times in world.began.items():
            covered.seen["fault", kind] = times
        return Outcome(
            tuple(world.invariants.violations), world.now, world.timeline.events, _digest(world), covered.seen
        )


def shown(scenario: Scenario, outcome: Outcome) -> Scenario:
    """The scenario that ends soon after what went wrong; later faults had no part in it."""
    if not outcome.violations:
        return scenario
    first = outcome.violations[0]
    length = float(first.at // SECOND + 2)
    missed = Expectation("healthy", {"at": length - 1.0})
    faults = tuple(fault for fault in scenario.faults if fault.at < length)
    return replace(scenario, faults=faults, length=length, expect=(missed,) if first.rule == "progress" else ())


def _run(world: World, length: float) -> None:
    moment = 0.0
    while moment < length + LATEST and not world.timeline.stopped:
        moment += STEP
        world.run(moment)
        if world.invariants.violations or (moment >= length + WELL and _is_well(world)):
            return


def _judge(world: World, scenario: Scenario) -> None:
    """Long after everything was healed there is nothing left to wait for, but for upstream hosts."""
    healed = [fault.at for fault in scenario.faults if fault.kind == HEAL]
    if not healed or world.now < healed[-1] + LATEST or not scenario.progress or (world.health and world.health[-1][1]):
        return
    if left_by_theirs(world):
        return
    world.invariants.violate("progress", 0, f"not back {LATEST:.0f} s after everything was healed")


def _is_well(world: World) -> bool:
    if not world.health:
        return False
    since, good = world.health[-1]
    return good and world.timeline.now - since >= WELL * SECOND


def _digest(world: World) -> str:
    found = hashlib.sha256()
    for note in world.notes:
        found.update(f"{note}\n".encode())
    for slot, data in sorted(world.volume.slots.items()):
        found.update(b"%d:" % slot + data)
    found.update(f"{world.timeline.events} {world.disk.owner}".encode())
    return found.hexdigest()[:16]
