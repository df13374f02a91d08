"""The whole cluster: time, storage, hosts, the guest, and who watches over them."""

import traceback
from dataclasses import dataclass, field
from random import Random
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.core.model import GLOBAL_SLOT, Action, Decision
from ovirt_he_ha.core.slot import encode_global
from ovirt_he_ha.sim.appliance import Cpus
from ovirt_he_ha.sim.clock import SECOND, Beat, Scope, Timeline, ns, stamp
from ovirt_he_ha.sim.host import Host, HostSpec
from ovirt_he_ha.sim.hypervisor import Copy
from ovirt_he_ha.sim.invariants import Invariants
from ovirt_he_ha.sim.progress import Progress
from ovirt_he_ha.sim.sanlock import LeaseDisk
from ovirt_he_ha.sim.upstream_machine import UpstreamMachine
from ovirt_he_ha.sim.volume import Volume

LOOK = 1.0  # seconds between two looks of the engine's users at its page


@dataclass(frozen=True)
class ClusterSpec:
    """What a world is made of. ``warm``: it begins with all hosts up and the VM on ``engine_on``; else all machines are
    off, and are switched on one after another. ``guest_boot``: seconds from CPUs to a good page."""

    hosts: int = 3
    warm: bool = True
    engine_on: int = 1
    io_timeout: int = 10
    watchdog: int = 60
    guest_boot: float = 40.0
    memory_mib: int = 4096
    skew: float = 5.0
    each: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """Something that happened: ``at`` in nanoseconds, ``host`` 0 for the cluster."""

    at: int
    host: int
    what: str

    def __str__(self) -> str:
        who = f"host{self.host}" if self.host else "cluster"
        return f"{stamp(self.at):>12} {who:<8} {self.what}"


class World:
    """``run`` makes time pass. Same spec, seed and faults: same world, byte for byte."""

    def __init__(self, spec: ClusterSpec, seed: int = 0) -> None:
        self.spec = spec
        self.seed = seed
        self.timeline = Timeline()
        self.volume = Volume()
        self.disk = LeaseDisk(spec.io_timeout, spec.watchdog)
        self.memory_mib = spec.memory_mib
        self.guest_boot: Optional[float] = spec.guest_boot
        self.migration_network = True
        self.notes: List[Note] = []
        self.reasons: Dict[Tuple[int, str], Tuple[int, int]] = {}  # (host, code) -> first and last time
        self.health: List[Tuple[int, bool]] = []  # when the page turned good or bad
        self.states: Dict[int, str] = {}
        self.state_spans: Dict[int, List[Tuple[int, str]]] = {}
        self.orders: List[Tuple[int, int, str]] = []
        self.runs: List[Tuple[int, int, bool]] = []  # when a copy's CPUs began to run on a host, or its process ended
        self.seen: Dict[int, object] = {}  # what expectations looked at in their moment
        self.transitions: Dict[Tuple[str, str], int] = {}
        self.began: Dict[str, int] = {}  # kinds of faults, once per host
        self.decisions = 0
        self.flag_wanted: Optional[bool] = None  # what the operator last said of global maintenance
        self.last_decision: Dict[int, Decision] = {}
        self._copies = 0
        self.hosts: Dict[int, Host] = {}
        self.invariants = Invariants(self)
        self.progress = Progress(self)
        for number in self._numbers():
            self.hosts[number] = self._host(number)
        self.volume.on_write = self._written
        self.disk.on_owner = self.invariants.owner_changed
        self.timeline.after_each = self.invariants.after_event
        self._scope = Scope()
        Beat(self.timeline, self._scope, self._look).wake(0.5)
        self._begin()

    # --- the beginning -----------------------------------------------------------------------------------------------

    def _numbers(self) -> Sequence[int]:
        """The hosts' ids."""
        return range(1, self.spec.hosts + 1)

    def _host(self, number: int) -> Host:
        random = Random(f"{self.seed}:host:{number}")
        given = dict(self.spec.each.get(number, {}))
        given.setdefault("start", random.random() * self.spec.skew)
        given.setdefault("rate", 1.0 + (random.random() - 0.5) * 2e-4)
        given.setdefault("jitter", random.random() * 0.3)
        spec = HostSpec(**given)
        return (UpstreamMachine if spec.upstream else Host)(self, number, spec, random)

    def _begin(self) -> None:
        if not self.spec.warm:
            for host in self.hosts.values():
                self.timeline.after(host.spec.start, host.switch_on)
            return
        for host in self.hosts.values():
            host.preset(uptime=1000.0 + 100000.0 * host.random.random())
        for host in self.hosts.values():
            host.preset_lockspaces()
        self.volume.slots[GLOBAL_SLOT] = encode_global(False)
        if self.spec.engine_on:
            self.hosts[self.spec.engine_on].preset_vm()

    def next_copy(self) -> int:
        self._copies += 1
        return self._copies

    # --- time --------------------------------------------------------------------------------------------------------

    def run(self, until: float) -> None:
        """To that second of the world. What leaves the product's code as an exception is a violation, and the end."""
        try:
            self.timeline.run(ns(until))
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename.rpartition('/')[2]}:{frame.name}"
            self.invariants.violate("exception", 0, f"{type(error).__name__} in {place}: {error}")
            self.timeline.stopped = True
            self.crash = error

    crash: Optional[Exception] = None

    @property
    def now(self) -> float:
        return self.timeline.now / SECOND

    # --- looks -------------------------------------------------------------------------------------------------------

    def copies(self) -> List[Copy]:
        return [copy for host in self.hosts.values() if host.power for copy in host.libvirt.processes()]

    def running_copy(self) -> Optional[Copy]:
        """The copy that answers its users. With two (a violation), the first."""
        for host in self.hosts.values():
            if host.power and not host.stunned:
                for copy in host.libvirt.processes():
                    if copy.cpus == Cpus.RUNNING:
                        return copy
        return None

    def engine_host(self) -> Host:
        """Where the VM is, or was last; before it ever was anywhere, the first host."""
        copies = self.copies()
        if copies:
            self._engine_host = copies[0].host
        return self.hosts[self._engine_host]

    _engine_host = 1

    def _look(self) -> Optional[float]:
        copy = self.running_copy()
        healthy = copy is not None and copy.guest.healthy
        if not self.health or self.health[-1][1] != healthy:
            self.health.append((self.timeline.now, healthy))
            if len(self.health) > 1 or healthy:
                self.note(copy.host if copy is not None else 0, "engine is healthy" if healthy else "engine is away")
        self.progress.look(healthy)
        return LOOK

    # --- what is told ------------------------------------------------------------------------------------------------

    def note(self, host: int, what: str) -> None:
        self.notes.append(Note(self.timeline.now, host, what))

    def decided(self, host: Host, cycle: Cycle, decision: Decision) -> None:
        self.decisions += 1
        self.last_decision[host.number] = decision
        for reason in decision.reasons:
            key, now = (host.number, reason.code), self.timeline.now
            self.reasons[key] = (self.reasons.get(key, (now, now))[0], now)
        state = decision.state.value
        before = self.states.get(host.number)
        if state != before:
            self.states[host.number] = state
            self.state_spans.setdefault(host.number, []).append((self.timeline.now, state))
            pair = (before or "", state)
            self.transitions[pair] = self.transitions.get(pair, 0) + 1
            why = ", ".join(reason.code for reason in decision.reasons[:4])
            self.note(host.number, f"{before or 'agent'} -> {state}: {why}")
        self.invariants.decided(host, decision)

    def ordered(self, host: Host, cycle: Cycle, action: Action) -> None:
        target = f" to host{action.target_id}" if action.target_id else ""
        self.orders.append((self.timeline.now, host.number, action.kind.value))
        self.note(host.number, f"order: {action.kind.value}{target}")
        self.invariants.ordered(host, cycle, action)

    def upstream_state(self, host: Host, state: str) -> None:
        self.states[host.number] = state
        self.state_spans.setdefault(host.number, []).append((self.timeline.now, state))
        self.note(host.number, f"upstream agent: {state}")

    def upstream_ordered(self, host: Host, order: str) -> None:
        self.orders.append((self.timeline.now, host.number, order))
        self.note(host.number, f"upstream agent orders: {order}")

    def cpus_changed(self, host: Host, copy: Copy, before: str) -> None:
        self._engine_host = host.number
        if copy.cpus == Cpus.RUNNING or (copy.cpus == Cpus.GONE and before != Cpus.STARTING):
            self.runs.append((self.timeline.now, host.number, copy.cpus == Cpus.RUNNING))
        if copy.cpus == Cpus.PAUSED:
            self.note(host.number, f"VM process {copy.pid} paused ({copy.pause_reason})")
        self.invariants.cpus_changed(copy, before)

    def _written(self, writer: int, slot: int, data: bytes) -> None:
        self.invariants.written(writer, slot, data)
        if slot == GLOBAL_SLOT and writer:
            self.note(writer, "slot 0: " + data.rstrip(b"\0").decode("ascii", "replace"))
