"""One scenario, run: the world it ends in, and everything that is wrong with it."""

import gc
import multiprocessing
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.pool import Pool
from typing import Callable, ContextManager, Iterator, List, Optional

from ovirt_he_ha.sim.faults import schedule
from ovirt_he_ha.sim.quick import quickened
from ovirt_he_ha.sim.scenario import Scenario
from ovirt_he_ha.sim.seats import quiet
from ovirt_he_ha.sim.world import World

# Objects between two collections. A world makes millions of short-lived tuples and hardly a cycle of references:
# looking for those took a tenth of the time.
COLLECTION = (100_000, 50, 50)
Tweak = Callable[[World], None]


@dataclass(frozen=True)
class Result:
    """``complaints``: violations of the invariants, and expectations that were not met; empty: passed."""

    scenario: Scenario
    world: World
    complaints: List[str]

    @property
    def passed(self) -> bool:
        return not self.complaints


@contextmanager
def laboratory() -> Iterator[None]:
    """What the product takes from its process is the same for every run: UTC, and no log. Around many runs it is set up
    once, and what worlds remember of the product's answers serves all of them."""
    before, undo, thresholds = os.environ.get("TZ"), quiet(), gc.get_threshold()
    gc.set_threshold(*COLLECTION)
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        with quickened():
            yield
    finally:
        undo()
        gc.set_threshold(*thresholds)
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def settle() -> None:
    """The laboratory, for a process that does nothing else until its end."""
    _settled.append(laboratory())
    _settled[-1].__enter__()


_settled: List[ContextManager[None]] = []


@contextmanager
def workers(jobs: int) -> Iterator[Pool]:
    """So many processes, each with a laboratory. Ctrl-C in a terminal reaches all of them, also while they are still
    being imported: they leave it to this one."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a new process inherits that
    try:
        pool = multiprocessing.get_context("spawn").Pool(jobs, settle)
    finally:
        signal.signal(signal.SIGINT, before)
    with pool:
        yield pool


def run(scenario: Scenario, seed: Optional[int] = None, tweak: Tweak = lambda world: None) -> Result:
    """``seed`` instead of the scenario's own; ``tweak`` is called on the new world (to break it on purpose)."""
    with laboratory():
        world = World(scenario.cluster, scenario.seed if seed is None else seed)
        world.progress.enabled = scenario.progress
        tweak(world)
        for fault in scenario.faults:
            schedule(world, fault)
        for expected in scenario.expect:
            expected.prepare(world)
        world.run(scenario.length)
        return Result(scenario, world, _complaints(scenario, world))


def _complaints(scenario: Scenario, world: World) -> List[str]:
    expected = {each.values["rule"] for each in scenario.expect if each.what == "violation"}
    found = [str(each) for each in world.invariants.violations if each.rule not in expected]
    for each in scenario.expect:
        complaint = each.complaint(world)
        if complaint:
            values = ", ".join(f"{key} {value}" for key, value in each.values.items())
            found.append(f"expected {each.what} ({values}): {complaint}")
    return found
