"""One scenario, run: the world it ends in, and everything that is wrong with it."""

import gc
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from ovirt_he_ha.broker import arguments, slot_reads
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import Slot
from ovirt_he_ha.sim.faults import schedule
from ovirt_he_ha.sim.scenario import Scenario
from ovirt_he_ha.sim.seats import quiet
from ovirt_he_ha.sim.world import World

REMEMBERED = 1024  # slots
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
    """What the product takes from its process is the same for every run: UTC, and no log. All hosts of a world read
    the same bytes, so what they say is worked out once."""
    before, undo, thresholds = os.environ.get("TZ"), quiet(), gc.get_threshold()
    gc.set_threshold(*COLLECTION)
    os.environ["TZ"] = "UTC"
    time.tzset()
    decode, places = slot.decode, (slot, slot_reads, arguments)
    quick = remembered(decode)
    for place in places:
        place.decode = quick  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for place in places:
            place.decode = decode  # type: ignore[attr-defined]
        undo()
        gc.set_threshold(*thresholds)
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def remembered(decode: Callable[[int, bytes], Slot]) -> Callable[[int, bytes], Slot]:
    """The same answers: a slot's meaning depends on nothing but its number and its bytes."""
    known: Dict[Tuple[int, bytes], Slot] = {}

    def answer(slot_id: int, data: bytes) -> Slot:
        key = (slot_id, bytes(data))
        found = known.get(key)
        if found is None:
            if len(known) >= REMEMBERED:
                known.clear()
            found = known[key] = decode(slot_id, data)
        return found

    return answer


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
