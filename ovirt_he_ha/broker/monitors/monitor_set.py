"""All monitors of this host: started and stopped together, read without waiting."""

import json
import logging
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.broker.monitors.bridge import Bridge, checked_name
from ovirt_he_ha.broker.monitors.cpu import CpuLoad, EngineCpu, one_minute_load
from ovirt_he_ha.broker.monitors.engine import (
    Engine,
    EngineSource,
    PageProbe,
    PageSample,
    aged,
    engine_changed,
    page_changed,
)
from ovirt_he_ha.broker.monitors.frame import Monitor, wall_seconds
from ovirt_he_ha.broker.monitors.health_page import HealthPage
from ovirt_he_ha.broker.monitors.memory import FreeMemory
from ovirt_he_ha.broker.monitors.network import Network
from ovirt_he_ha.broker.monitors.options import MonitorOptions, OptionError, UnknownMonitor, network_of_rpc
from ovirt_he_ha.broker.monitors.probes import Pace
from ovirt_he_ha.broker.monitors.process_times import ProcessTimes
from ovirt_he_ha.broker.monitors.storage_latency import StorageLatency
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Health, Monitors, Reading, Vm
from ovirt_he_ha.core.seams import Clock
from ovirt_he_ha.core.timers import Timers

log = logging.getLogger(__name__)

SPACING = 0.5  # product seconds between two network probes
PROBE_FLOOR = 0.5  # wall seconds: no time scale makes a round trip on a busy machine shorter
MEASURE_LIMIT = 5.0  # product seconds after which reading a file of /proc or /sys counts as hung
NOTHING = "None"  # what peers' tools read for "no value"


def _never(old: Reading[Any], new: Reading[Any]) -> bool:
    """Levels that move all the time: the next cycle reads them early enough."""
    return old.known != new.known


def engine_json(status: EngineStatus) -> str:
    """The engine's status as clients of the shared protocol parse it, separators and order included (some search
    the text for ``"vm": "up"``)."""
    words = {"vm": status.vm.value, "health": status.health.value, "detail": status.detail}
    if status.reason:
        words["reason"] = status.reason
    return json.dumps(words)


class MonitorSet:
    """``on_change``: called on a monitor's thread at a change worth a new decision (every change of the engine's
    status, of the network's share, of the bridge). ``root``: where ``/proc``, ``/sys`` and ``/etc/resolv.conf`` are
    looked for."""

    def __init__(
        self,
        options: MonitorOptions,
        engine: EngineSource,
        clock: Clock,
        on_change: Callable[[], None],
        timers: Optional[Timers] = None,
        root: Path = Path("/"),
        dns_port: int = 53,
    ) -> None:
        """Raises OptionError naming the key that has no usable value. Nothing runs yet."""
        timers = timers or Timers()
        self._clock = clock
        self._source = engine
        self._vmid = options.vmid
        if not options.vmid:
            raise OptionError("vmid", "the engine VM's UUID", options.vmid)
        times = ProcessTimes(root / "proc")
        pace = Pace(
            spacing=wall_seconds(clock, SPACING), timeout=wall_seconds(clock, timers.probe_timeout, PROBE_FLOOR)
        )
        self._network = Network(options.network(), pace, time.monotonic, root / "etc" / "resolv.conf", dns_port)
        self._page = HealthPage(options.health_url, wall_seconds(clock, timers.health_timeout, 2.0), options.ca_file)
        self._probe = PageProbe(self._page.fetch, clock)
        self.storage = StorageLatency(clock, on_change)
        cpu = CpuLoad(EngineCpu(engine.facts, times), clock.monotonic, root / "proc")
        memory = FreeMemory(root / "proc")
        bridge = Bridge(options.bridge, root / "sys")
        self._engine = Engine(engine, lambda: self._page_monitor.reading(), self._ask_page, clock, times)

        def monitor(name: str, measure: Callable[[], Any], every: float, limit: float, **how: Any) -> Monitor[Any]:
            return Monitor(name, measure, clock, every, limit, how.pop("on_change", on_change), **how)

        cycle, limit = timers.cycle, MEASURE_LIMIT
        page_limit = timers.health_timeout + 2.0 * clock.scale
        self._network_monitor: Monitor[float] = monitor(
            "network", self._network.measure, timers.network_round, timers.network_round
        )
        self._bridge_monitor: Monitor[bool] = monitor("mgmt-bridge", bridge.measure, timers.engine_poll, limit)
        self._memory_monitor: Monitor[int] = monitor("mem-free", memory.measure, cycle, limit, significant=_never)
        self._cpu_monitor: Monitor[float] = monitor("cpu-load-no-engine", cpu.measure, cycle, limit, significant=_never)
        self._engine_monitor: Monitor[EngineFacts] = monitor(
            "engine-health", self._engine.measure, timers.engine_poll, limit, significant=engine_changed
        )
        self._page_monitor: Monitor[PageSample] = monitor(
            "health-page",
            self._probe.measure,
            timers.engine_poll,
            page_limit,
            significant=page_changed,
            on_change=self._engine_monitor.wake,
        )
        self._all: Tuple[Monitor[Any], ...] = (
            self._engine_monitor,
            self._page_monitor,
            self._network_monitor,
            self._bridge_monitor,
            self._memory_monitor,
            self._cpu_monitor,
        )
        self._texts: Dict[str, Callable[[], str]] = {
            "network": lambda: _text(self._network_monitor.reading(), str),
            "mgmt-bridge": lambda: _text(self._bridge_monitor.reading(), str),
            "mem-free": lambda: _text(self._memory_monitor.reading(), str),
            "cpu-load-no-engine": lambda: _text(self._cpu_monitor.reading(), "{:.4f}".format),
            "cpu-load": lambda: str(one_minute_load()),
            "engine-health": self._engine_text,
            "storage-domain": lambda: str(self.storage.valid()),
        }

    def start(self) -> None:
        """Start the watch over libvirt and all monitors; returns at once."""
        self._source.start(self._engine_monitor.wake)
        for monitor in self._all:
            monitor.start()

    def stop(self, deadline: float) -> List[str]:
        """End all threads and wait for them, at most ``deadline`` product seconds (at least 2 wall seconds) in all.

        Returns the names of those that hang (a resolver that does not answer): they are left to the process's end.
        """
        until = time.monotonic() + wall_seconds(self._clock, deadline, 2.0)
        for monitor in self._all:
            monitor.ask_stop()
        self._network.stop()
        self._page.abort()
        # Half of what is left: it closes two connections after its own thread, each with a deadline of its own.
        self._source.stop(max(0.0, until - time.monotonic()) * self._clock.scale / 2)
        hung = [monitor.name for monitor in self._all if not monitor.stop(until - time.monotonic())]
        if hung:
            log.warning("Monitors still hang after the stop: %s", ", ".join(hung))
        return hung

    def monitors(self) -> Monitors:
        """Everything that is known now, each with its age; never waits."""
        return Monitors(
            network=self._network_monitor.reading(),
            bridge=self._bridge_monitor.reading(),
            mem_free=self._memory_monitor.reading(),
            cpu_load=self._cpu_monitor.reading(),
            storage_latency=self.storage.reading(),
            engine=aged(self._engine_monitor.reading(), self._engine.lag()),
        )

    def types(self) -> Tuple[str, ...]:
        """The monitor types of the shared protocol."""
        return tuple(self._texts)

    def legacy_text(self, name: str) -> str:
        """The value as upstream's ``status_monitor`` gives it; ``None`` while it is not known. Raises
        UnknownMonitor."""
        try:
            text = self._texts[name]
        except KeyError:
            raise UnknownMonitor(name, ", ".join(self._texts)) from None
        return text()

    def check_start(self, name: str, options: Mapping[str, str]) -> str:
        """Upstream's ``start_monitor``: the monitors run anyway, with this host's own configuration; what the
        client asks for is checked. Returns the id. Raises UnknownMonitor, or OptionError for options that no
        monitor could run with."""
        if name not in self._texts:
            raise UnknownMonitor(name, ", ".join(self._texts))
        if name == "network":
            network_of_rpc(options)
        elif name == "mgmt-bridge":
            checked_name(options.get("bridge_name") or "")
        elif name in ("engine-health", "cpu-load-no-engine") and options.get("vm_uuid") != self._vmid:
            raise OptionError("vm_uuid", f"this host's engine VM, {self._vmid}", str(options.get("vm_uuid")))
        return name

    def _ask_page(self, copy: Optional[int]) -> None:
        if self._probe.want(copy):
            self._page_monitor.wake()

    def _engine_text(self) -> str:
        reading = self._engine_monitor.reading()
        if reading.value is not None:
            return engine_json(reading.value.status)
        if reading.unknown == "not-yet":
            return NOTHING
        return engine_json(EngineStatus(Vm.UNKNOWN, Health.UNKNOWN, "unknown"))


def _text(reading: Reading[Any], form: Callable[[Any], str]) -> str:
    return NOTHING if reading.value is None else form(reading.value)
