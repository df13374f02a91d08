"""How often a simulated broker reads the slots: as the product's reading thread, which runs here beside it."""

from typing import Any, Callable, List

import pytest

from ovirt_he_ha.broker.daemon import Broker
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.sim.clock import SHORTEST, HostClock, Timeline, ns
from ovirt_he_ha.sim.run import laboratory
from ovirt_he_ha.sim.world import ClusterSpec, World

TIMERS = Timers()
BEGIN, END = 60.0, 160.0
ROUNDED = 0.002  # seconds: a turn that comes a nanosecond before it is due comes again after 1 ms

Drive = Callable[[World], None]


class Turns:
    """In the place of the event that ends the product's reading thread: who waits for it lets the world go on."""

    def __init__(self, timeline: Timeline, clock: HostClock, until: float) -> None:
        self._timeline = timeline
        self._clock = clock
        self._until = ns(until)

    def is_set(self) -> bool:
        return self._timeline.now >= self._until

    def wait(self, seconds: float) -> None:
        took = self._timeline.lag
        self._timeline.run(self._timeline.now + took + ns(self._clock.world(max(seconds, SHORTEST))))


def simulated(world: World) -> None:
    world.run(END)


def by_the_products_thread(world: World) -> None:
    host = world.hosts[1]
    assert host.broker is not None
    host.broker._reading.stop()
    broker: Any = host.broker.broker
    broker._stopping = Turns(world.timeline, host.clock, END)
    Broker._keep_reading(broker)


def reads(engine_on: int, drive: Drive) -> List[float]:
    """Seconds between two looks at the slots, by the host's clock. Nobody writes the own slot, which reads as well."""
    with laboratory():
        world = World(ClusterSpec(hosts=2, engine_on=engine_on), 7)
        world.run(10.0)
        for host in world.hosts.values():
            if host.number != engine_on and host.agent is not None:
                host.agent.killed()
        world.run(BEGIN)
        seen = watch(world)
        drive(world)
    return [later - earlier for earlier, later in zip(seen, seen[1:])]


def watch(world: World) -> List[float]:
    """When host 1 looks at the slots from now on."""
    seen: List[float] = []
    seat = world.hosts[1].broker
    assert seat is not None
    look = seat.whiteboard._look

    def looked(now: float) -> None:
        seen.append(now)
        look(now)

    seat.whiteboard._look = looked  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize(
    "engine_on, interval",
    [pytest.param(2, TIMERS.slot_read_well, id="calm"), pytest.param(0, TIMERS.slot_read_alert, id="not-calm")],
)
def test_it_reads_as_often_as_the_product(engine_on: int, interval: float) -> None:
    ours, products = reads(engine_on, simulated), reads(engine_on, by_the_products_thread)
    for found in (ours, products):
        assert len(found) >= int((END - BEGIN) / interval) - 2
        assert found == pytest.approx([interval] * len(found), abs=ROUNDED)


def test_it_reads_often_one_turn_after_the_last_good_record_became_old() -> None:
    with laboratory():
        world = World(ClusterSpec(hosts=2, engine_on=2), 7)
        world.run(BEGIN)
        seat, other = world.hosts[1].broker, world.hosts[2].agent
        assert seat is not None and other is not None
        other.killed()
        seen = watch(world)
        world.run(END)
        old = seat.whiteboard._last[2].changed_at + 3 * TIMERS.cycle
        # Every turn sees whether it is calm; nothing wakes the thread for a record that only grows old.
        often = [at for at in seen if at >= old]
    assert often[0] - old <= TIMERS.slot_read_alert
    assert len(often) > 10
    for earlier, later in zip(often, often[1:]):
        assert later - earlier == pytest.approx(TIMERS.slot_read_alert, abs=ROUNDED)
