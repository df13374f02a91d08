"""oVirt's own agent: its start, its loop, its end. A generator of the seconds it waits; whatever raises in the loop
ends it, and systemd starts it again 10 s later.
"""

from typing import Dict, Generator, Iterator, Optional

from ovirt_he_ha.sim.upstream_broker import Broker, BrokerGone
from ovirt_he_ha.sim.upstream_door import CallHangs, Door, SanlockFault
from ovirt_he_ha.sim.upstream_score import Weights
from ovirt_he_ha.sim.upstream_slots import (
    GLOBAL,
    AgentDies,
    Peer,
    Published,
    TooNew,
    parse_flags,
    parse_host,
    write_host,
)
from ovirt_he_ha.sim.upstream_states import (
    FORCE_STOP,
    START,
    Collected,
    Facts,
    Machine,
    Step,
    enter,
    refresh,
    step,
)
from ovirt_he_ha.sim.upstream_vdsm import Doing, Vdsm, VdsmError

START_UP = 3.0  # seconds of the interpreter and of vdsm's connection
GATE = 2.0  # looks at local maintenance before anything else runs
DOMAIN_LOOK = 5.0
DOMAIN_LIMIT = 245.0
SERVICE_DOWN = 30.0  # shortest delay after a cycle that found a service down
CLEANING_TRIES = 10
CLEANING_PAUSE = 1.0


class Files:
    """This host's ha.conf, as the operator's command writes it."""

    def __init__(self) -> None:
        self._local_maintenance = False

    @property
    def local_maintenance(self) -> bool:
        return self._local_maintenance

    def set_local_maintenance(self, on: bool) -> None:
        self._local_maintenance = on


class Agent:
    """One process. ``stopping`` is systemd's SIGTERM; it is looked at once per cycle, and not at all before the loop
    while local maintenance is on."""

    def __init__(
        self, door: Door, broker: Broker, vdsm: Vdsm, files: Files, weights: Weights, collection: float
    ) -> None:
        self._door = door
        self._broker = broker
        self._vdsm = vdsm
        self._files = files
        self._weights = weights
        self._collection = collection
        self.stopping = False
        self.machine = Machine()
        self.facts: Optional[Facts] = None
        self.conf_timestamp = 0
        self.why_it_ended = ""

    # --- from start to end ------------------------------------------------------------------------------------------

    def life(self) -> Iterator[float]:
        while self._files.local_maintenance:
            yield GATE
        yield START_UP
        try:
            self._check_vdsm()
            self._broker.start_monitors()
            yield from self._monitor_domain()
            yield from self._broker.lock_host_id(self._door.host_id)
            self._refresh_conf()
        except (AgentDies, BrokerGone, ServiceDown) as fault:
            self._ended(f"initialisation: {fault}")
            return
        try:
            yield from self._loop()
        except (AgentDies, BrokerGone) as fault:
            self._ended(str(fault))
        yield from self._leave()

    def _ended(self, why: str) -> None:
        self.why_it_ended = why
        self._door.trace(f"upstream agent ends: {why}")

    def _leave(self) -> Iterator[float]:
        """However the loop ended: the last record, and then the host id is released."""
        if self.facts is None:
            return
        try:
            self._publish(Machine("AgentStopped"), stopped=True)
            yield 0.5  # the write is queued; it was seen to win against the release
            self._broker.release_host_id()
        except BrokerGone as fault:
            self._ended(f"{self.why_it_ended}; {fault}")
            return
        self._stop_domain_monitor()

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _loop(self) -> Iterator[float]:
        waited = True
        while True:
            facts = self._collect()
            taken = step(self.machine, facts)
            ok = True
            if taken.action:
                ok = yield from self._act(taken.action)
            self._enter(taken, ok)
            began = self._door.monotonic()
            if self.stopping:
                return
            delay = float(taken.delay)
            try:
                if waited:
                    self._check_vdsm()
                    self._refresh_conf()
                    yield from self._broker.lock_host_id(self._door.host_id)
                if self._files.local_maintenance:
                    self._stop_domain_monitor()
                else:
                    yield from self._monitor_domain()
                self._publish(self.machine, stopped=False)
            except ServiceDown:
                delay = max(SERVICE_DOWN, delay)
            waited = taken.delay > 0
            yield max(0.0, delay - (self._door.monotonic() - began))

    def _enter(self, taken: Step, ok: bool) -> None:
        assert self.facts is not None
        before = self.machine.state
        self.machine = enter(self.machine, self.facts, taken, ok, self._weights)
        if before != self.machine.state:
            self._door.entered(before, self.machine.state)

    # --- collection -------------------------------------------------------------------------------------------------

    def _collect(self) -> Facts:
        start = int(self._door.monotonic())
        facts = self.facts
        if facts is None or facts.now.finish != start:
            stats = self._broker.get_stats()
            self._door.spend(self._collection)
            collected = self._collected(start, stats)
            empty = Facts(self._door.host_id, collected, ())
            facts = (empty if facts is None else facts).add(collected)
            self.facts = facts
            self.machine = refresh(self.machine, self._door.wall())
        return facts

    def _collected(self, start: int, stats: Dict[int, str]) -> Collected:
        peers: Dict[int, Peer] = {}
        for slot in sorted(stats):
            if slot in (GLOBAL, self._door.host_id):
                continue
            found = parse_host(slot, stats[slot])
            if not isinstance(found, TooNew):
                peers[slot] = found
        flags = parse_flags(stats[GLOBAL]) if GLOBAL in stats else {}
        measures = self._broker.measures
        return Collected(
            start=start,
            finish=int(self._door.monotonic()),
            peers=peers,
            global_maintenance=flags.get("maintenance", False),
            local_maintenance=self._files.local_maintenance,
            engine=self._broker.health.value,
            network=1.0 if measures is None else measures.network,
            # What cannot be measured is taken for up.
            bridge=True if measures is None or measures.bridge is None else measures.bridge,
            mem_free=None if measures is None else measures.mem_free,
            load=self._broker.load,
            mem_needed=self._door.mem_needed,
        )

    # --- publishing -------------------------------------------------------------------------------------------------

    def _publish(self, machine: Machine, stopped: bool) -> None:
        facts = self.facts
        assert facts is not None
        data = write_host(
            Published(
                host_id=self._door.host_id,
                timestamp=facts.now.start,
                score=machine.score,
                status=facts.now.engine,
                hostname=self._door.hostname,
                state=machine.state,
                maintenance=machine.state == "LocalMaintenance",
                stopped=stopped,
                conf_timestamp=self.conf_timestamp,
                timeout=machine.timeout,
                wall_offset=int(self._door.wall() - self._door.monotonic()),
            )
        )
        self._broker.put_stats(self._door.host_id, data)

    # --- services ---------------------------------------------------------------------------------------------------

    def _check_vdsm(self) -> None:
        if not self._vdsm.up:
            raise ServiceDown("vdsmd is not running")

    def _refresh_conf(self) -> None:
        self.conf_timestamp = int(self._door.monotonic())

    def _monitor_domain(self) -> Iterator[float]:
        """Ask vdsm to hold the storage domain's lockspace, and wait for it: without a record meanwhile. A failure is
        not noticed."""
        lockspace = self._door.domain_lockspace()
        waited = 0.0
        asked = False
        while waited <= DOMAIN_LIMIT:
            try:
                held = self._door.held(lockspace)
                if held:
                    return
                if held is False and not asked:
                    asked = True
                    self._door.join(lockspace, _ignore)
            except SanlockFault as fault:
                raise ServiceDown("sanlock is not running") from fault
            except CallHangs:
                waited = 0.0  # vdsm's thread stands, and this one with it
            yield DOMAIN_LOOK
            waited += DOMAIN_LOOK

    def _stop_domain_monitor(self) -> None:
        """Unless the VM is here, or may be."""
        try:
            if self._vdsm.vm() is None:
                self._door.leave(self._door.domain_lockspace())
        except (VdsmError, SanlockFault) as fault:
            self._door.trace(f"upstream agent: domain monitor not stopped: {fault}")

    # --- actions ----------------------------------------------------------------------------------------------------

    def _act(self, action: str) -> Generator[float, None, bool]:
        self._door.orders(action)
        try:
            if action == START:
                return (yield from self._start())
            if action == FORCE_STOP:
                return (yield from self._wait(self._vdsm.destroy()))
            self._vdsm.shutdown()
        except VdsmError:
            return False  # also a VM that is gone already
        return True

    def _start(self) -> Generator[float, None, bool]:
        """Whether vdsm accepted it: long before it runs."""
        self._refresh_conf()
        for _ in range(CLEANING_TRIES):
            found = self._vdsm.vm()
            if found is None:
                break
            if found.status in ("Up", "Powering up"):
                return True
            yield from self._wait(self._vdsm.destroy())
            yield CLEANING_PAUSE
        if self._vdsm.vm() is not None:
            return False
        self._vdsm.create()
        return True

    def _wait(self, doing: Doing) -> Generator[float, None, bool]:
        while doing.ok is None:
            yield 0.5
        return doing.ok


class ServiceDown(Exception):
    """A service that the agent needs is down: the cycle is not finished, and nothing published."""


def _ignore(code: int) -> None:
    """Nobody looks at it."""
