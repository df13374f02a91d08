"""What a simulated host measures. The engine's monitor is the product's own; the other values are the host's."""

from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Tuple, TypeVar

from ovirt_he_ha.broker.monitors.engine import Engine, PageProbe, PageSample, aged, engine_changed, page_changed
from ovirt_he_ha.broker.monitors.frame import Monitor, Unmeasured
from ovirt_he_ha.broker.monitors.health_page import PageResult
from ovirt_he_ha.broker.monitors.storage_latency import StorageLatency
from ovirt_he_ha.core.model import EngineFacts, Health, Monitors, Reading
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.sim.clock import Beat, HostClock, Scope, Still, Timeline
from ovirt_he_ha.sim.watch import SimTimes, SimWatch

T = TypeVar("T")
TYPES = ("network", "mgmt-bridge", "mem-free", "cpu-load-no-engine", "cpu-load", "engine-health", "storage-domain")


@dataclass
class Conditions:
    """How a host is. ``network``: share of probes that are answered. ``page_way``: whether it can reach the health
    page at all. ``unknown``: names of monitors that tell nothing."""

    network: float = 1.0
    bridge: bool = True
    mem_free: int = 16384
    cpu_load: float = 0.1
    page_way: bool = True
    unknown: Tuple[str, ...] = ()


class EventMonitor(Monitor[T]):
    """The product's monitor, turned by events. A measurement that takes time is seen when it has ended. ``dormant()``:
    there is nothing to measure before somebody wakes it; ``steady(reading)``: until then it would measure the same."""

    def __init__(
        self,
        name: str,
        measure: Callable[[], T],
        clock: HostClock,
        interval: float,
        limit: float,
        on_change: Callable[[], None],
        significant: Callable[[Reading[T], Reading[T]], bool],
        timeline: Timeline,
        scope: Scope,
        dormant: Callable[[], bool] = lambda: False,
        steady: Callable[[Reading[T]], bool] = lambda reading: False,
    ) -> None:
        super().__init__(name, measure, clock, interval, limit, on_change, significant)
        self._state = Still()
        self._dormant = dormant
        self._steady = steady
        self._asked = True
        self._timeline = timeline
        self._scope = scope
        self._host_clock = clock
        self._every = interval
        self._beat = Beat(timeline, scope, self._turn)

    def start(self) -> None:
        self._beat.wake()

    def wake(self) -> None:
        self._asked = True
        self._beat.wake()

    def _turn(self) -> Optional[float]:
        asked, self._asked = self._asked, False
        if not asked and self._steady(self._reading):
            self._measured_at = self._clock.monotonic()
            return self._host_clock.world(self._every)
        self._began_at = self._clock.monotonic()
        result = self.outcome()
        if self._timeline.lag:
            self._timeline.after(0.0, lambda: self.take(result), self._scope)
        else:
            self.take(result)
        return None if self._dormant() else self._host_clock.world(self._every)


def _shown(conditions: Conditions, name: str, age: float) -> Reading[Any]:
    if name in conditions.unknown:
        return Reading.missing("error", age)
    return Reading.of(getattr(conditions, name), age)


def _never_was(reading: Reading[EngineFacts]) -> bool:
    """No clock of it runs."""
    return reading.value is not None and reading.value.exit_age is None


class SimProbes:
    """The broker's room of monitors. ``conditions()`` are the host's at the moment; what the slow monitors show of them
    is from their last round."""

    def __init__(
        self,
        watch: SimWatch,
        times: SimTimes,
        fetch: Callable[[], Tuple[bool, float]],
        conditions: Callable[[], Conditions],
        clock: HostClock,
        timeline: Timeline,
        scope: Scope,
        timers: Timers,
        on_change: Callable[[], None],
    ) -> None:
        self._watch = watch
        self._conditions = conditions
        self._clock = clock
        self._timeline = timeline
        self._timers = timers
        self._on_change = on_change
        self._answer = fetch
        self.storage = StorageLatency(clock, on_change)
        self._probe = PageProbe(self._fetch, clock)
        self._engine = Engine(watch, lambda: self._page_monitor.reading(), self._ask_page, clock, times)
        self._engine_monitor: EventMonitor[EngineFacts] = EventMonitor(
            "engine-health", self._engine.measure, clock, timers.engine_poll, 5.0, on_change, engine_changed,
            timeline, scope, steady=lambda reading: watch.nothing_here and _never_was(reading),
        )  # fmt: skip
        self._page_monitor: EventMonitor[PageSample] = EventMonitor(
            "health-page", self._probe.measure, clock, timers.engine_poll, timers.health_timeout + 2.0,
            self._engine_monitor.wake, page_changed, timeline, scope, dormant=lambda: self._asked is None,
        )  # fmt: skip
        self._asked: Optional[int] = None
        self._shown: Optional[Conditions] = None
        self._began = 0.0
        self._rounds = Beat(timeline, scope, self._round)

    # --- the room ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._began = self._clock.monotonic()
        self._watch.start(self._engine_monitor.wake)
        self._engine_monitor.start()
        self._page_monitor.start()
        self._rounds.wake(self._timers.network_round / 2)

    def stop(self, deadline: float) -> None:
        self._watch.stop(deadline)

    def engine(self) -> Reading[EngineFacts]:
        """As ``monitors().engine``."""
        return aged(self._engine_monitor.reading(), self._engine.lag())

    def engine_facts(self) -> Optional[EngineFacts]:
        """As ``engine().value``, whose clocks stand as they were measured."""
        return self._engine_monitor.reading().value

    def monitors(self) -> Monitors:
        shown, engine = self._shown, self.engine()
        if shown is None:
            return Monitors(storage_latency=self.storage.reading(), engine=engine)
        age = (self._clock.monotonic() - self._began) % self._timers.network_round

        return Monitors(
            network=_shown(shown, "network", age),
            bridge=_shown(shown, "bridge", age),
            mem_free=_shown(shown, "mem_free", age),
            cpu_load=_shown(shown, "cpu_load", age),
            storage_latency=self.storage.reading(),
            engine=engine,
        )

    def types(self) -> Tuple[str, ...]:
        return TYPES

    def legacy_text(self, name: str) -> str:
        return "None"

    def check_start(self, name: str, options: Mapping[str, str]) -> str:
        return name

    # --- measuring ---------------------------------------------------------------------------------------------------

    def conditions_changed(self) -> None:
        """The next round sees it."""
        if self._shown is not None:
            period = self._timers.network_round
            self._rounds.wake(self._clock.world(period - (self._clock.monotonic() - self._began) % period))

    def _round(self) -> Optional[float]:
        before, now = self._shown, self._conditions()
        self._shown = Conditions(**vars(now))
        if before is None or (before.network, before.bridge, before.unknown) != (now.network, now.bridge, now.unknown):
            self._on_change()
        return None

    def _ask_page(self, copy: Optional[int]) -> None:
        self._asked = copy
        if self._probe.want(copy):
            self._page_monitor.wake()

    def _fetch(self) -> PageResult:
        if not self._conditions().page_way:
            raise Unmeasured("no-route")
        good, seconds = self._answer()
        limit = self._timers.health_timeout
        self._timeline.spend(min(seconds, limit))
        if seconds >= limit:
            return PageResult(Health.BAD, "no answer in time")
        return PageResult(Health.GOOD) if good else PageResult(Health.BAD, "not healthy")
