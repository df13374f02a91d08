"""One machine: its power, clock and watchdog, its way to the storage, and what runs on it."""

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Dict, Optional, Tuple

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.definition_source import Effective
from ovirt_he_ha.config.files import HaConf
from ovirt_he_ha.core.model import Action, Budgets, Decision, LeaseId, Safeguards, ScoreConfig, State
from ovirt_he_ha.core.seams import BlockIO
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.lease.reset_watch import ResetWatch
from ovirt_he_ha.sim.appliance import Cpus, Guest
from ovirt_he_ha.sim.clock import SECOND, Entry, HostClock, Scope, ns
from ovirt_he_ha.sim.hypervisor import Copy, Libvirt
from ovirt_he_ha.sim.probes import Conditions
from ovirt_he_ha.sim.sanlock import KEEPALIVE, Sanlock, Space
from ovirt_he_ha.sim.seats import AgentSeat, BrokerSeat
from ovirt_he_ha.sim.volume import Door, Path
from ovirt_he_ha.sim.watch import Mail
from ovirt_he_ha.storage.errors import StorageError

if TYPE_CHECKING:
    from ovirt_he_ha.sim.world import World

RESTART = 2.0  # systemd starts a daemon again after so many seconds
LEASE = LeaseId("storage-domain", "engine-disk", "/srv/engine-disk.lease", 0)
WHITEBOARD = "hosted-engine"


@dataclass
class HostSpec:
    """How one host differs from the others. ``start``: seconds after the world's beginning at which it is switched on
    (cold) or its daemons start (warm). ``conf_id``: the host id in its configuration, its own number if 0. ``rate``: of
    its clock."""

    start: float = 0.0
    rate: float = 1.0
    jitter: float = 0.05
    latency: float = 0.002
    conf_id: int = 0
    watchdog: bool = True
    allow_unfenced: bool = False
    migrates: bool = True
    upstream: bool = False  # oVirt's own daemons sit on it
    boot: float = 60.0
    conditions: Dict[str, object] = field(default_factory=dict)


class Host:
    """Body of the daemons, site of the hypervisor, machine of sanlock."""

    lease_space = LEASE.lockspace

    def __init__(self, world: "World", number: int, spec: HostSpec, random: Random) -> None:
        self.world = world
        self.number = number
        self.spec = spec
        self.random = random
        self.timeline = world.timeline
        self.timers = Timers()
        self.lease = LEASE
        self.conf_id = spec.conf_id or number
        self.hostname = f"host{number}"
        self.jitter = spec.jitter
        self.allow_unfenced = spec.allow_unfenced
        self.migration_address = f"192.0.2.{number}" if spec.migrates else ""
        self.score_config = ScoreConfig()
        self.cpu_model = "simulated"
        self.conditions = Conditions(**spec.conditions)  # type: ignore[arg-type]
        self.mail = Mail()
        self.path = Path(Random(f"{world.seed}:path:{number}"), spec.latency)
        self.ha_conf = HaConf()
        self.ha_conf_problem = ""
        self.goes_down_at: Optional[int] = None  # an orderly shutdown waits until then at the most
        self.safeguards = Safeguards(
            lock_manager="sanlock", second_network=True, deployment="simulated", libvirt="9.0.0", sanlock="3.8.5"
        )
        self.budgets: Optional[Tuple[str, Budgets]] = None
        self.definition_problem = ""
        self.definition_since = 0.0
        self.supervised = True  # systemd starts daemons again
        self.broker_wanted = self.agent_wanted = True
        self.boots = 0
        self.power = False
        self.stunned = False
        self.fenced = spec.watchdog  # whether the sanlock that runs has a watchdog
        self._sleeps = False
        self.scope = Scope()
        self.scope.end()
        self.clock = HostClock(self.timeline, 0.0, spec.rate)
        self.boot_id = ""
        self.reset_watch = ResetWatch(self.clock)
        self.libvirt = Libvirt(self.timeline, self, world.next_copy)
        self.sanlock_daemon: Optional[Sanlock] = None
        self.broker: Optional[BrokerSeat] = None
        self.agent: Optional[AgentSeat] = None
        self._fires: Optional[Entry] = None
        self._asked_reset: Optional[Entry] = None
        self._stun_ends: Optional[Entry] = None

    # --- power -------------------------------------------------------------------------------------------------------

    def switch_on(self, uptime: float = 0.0, daemons_after: float = 0.0) -> None:
        """From here the daemons start by themselves, ``daemons_after`` seconds later."""
        if self.power:
            return
        self.power = True
        self.goes_down_at = None
        self.stunned = False
        self.boots += 1
        self.scope = Scope()
        self.boot_id = f"boot-{self.number}-{self.boots}"
        self.clock = HostClock(self.timeline, uptime, self.spec.rate)
        self.reset_watch = ResetWatch(self.clock)
        self.libvirt = Libvirt(self.timeline, self, self.world.next_copy)
        self.trace("power on")
        self.timeline.after(daemons_after, self.start_sanlock, self.scope)
        self.timeline.after(daemons_after + 0.5, self.start_broker, self.scope)
        self.timeline.after(daemons_after + 1.0, self.start_agent, self.scope)

    def switch_off(self, why: str = "power off") -> None:
        if not self.power:
            return
        self.trace(why)
        self.power = False
        self.scope.end()
        for seat in (self.broker, self.agent):
            if seat is not None:
                seat.scope.end()
        self.broker = self.agent = None
        if self.sanlock_daemon is not None:
            self.sanlock_daemon.scope.end()
        self.sanlock_daemon = None
        self.disarm_watchdog()
        self._forget_reset()
        for copy in self.libvirt.processes():
            copy.set_cpus(Cpus.GONE)
        self.libvirt.domain = None
        self.libvirt.strays.clear()
        self.stunned = False

    def go_down(self, seconds: float) -> None:
        """An orderly shutdown: it waits until the agent says that the VM has left, for so long at most."""
        if not self.power or self.goes_down_at is not None:
            return
        self.trace("goes down")
        self.goes_down_at = self.timeline.now + ns(seconds)
        if self.agent is not None:
            self.agent.wake()
        self._look_whether_down()

    def seconds_to_shutdown(self) -> Optional[float]:
        if self.goes_down_at is None:
            return None
        return (self.goes_down_at - self.timeline.now) / SECOND

    def _look_whether_down(self) -> None:
        if self.goes_down_at is None or not self.power:
            return
        record = None if self.agent is None else self.agent.cycle.decided
        left = record is not None and record.state is State.LOCAL_MAINTENANCE
        if not left and self.agent is not None and self.timeline.now < self.goes_down_at:
            self.timeline.after(1.0, self._look_whether_down, self.scope)
            return
        self.stop_agent()
        self.stop_broker()
        self.timeline.after(1.0, self._end_shutdown, self.scope)

    def _end_shutdown(self) -> None:
        """Unless it was called off in this last second. At the next boot systemd starts the daemons again."""
        if self.goes_down_at is None:
            return
        self.switch_off("shut down")
        self.broker_wanted = self.agent_wanted = True

    def reset(self, why: str) -> None:
        self.switch_off(why)
        self.timeline.after(self.spec.boot, self.switch_on)

    def stun(self, seconds: float, suspend: bool = False) -> None:
        """Nothing of this machine runs for so long. Its watchdog does, unless it sleeps with the machine."""
        if not self.power or self.stunned:
            return
        self.trace("suspended" if suspend else "stunned")
        self.stunned = True
        self._sleeps = suspend
        self.timeline.hold(self.scope)
        for copy in self.libvirt.processes():
            copy.guest.runs(False)
        if suspend:
            self.clock.suspend()
        elif self.fenced and self.sanlock_daemon is not None:
            fire = self.world.disk.watchdog - KEEPALIVE * self.random.random()
            if fire < seconds:
                self._stun_ends = self.timeline.after(fire, lambda: self.reset("reset by the watchdog, stunned"))
                return
        self._stun_ends = self.timeline.after(seconds, self._wake_up)

    def _wake_up(self) -> None:
        if not self.stunned or not self.power:
            return
        self.clock.resume()
        self.stunned = False
        self.trace("runs again")
        for copy in self.libvirt.processes():
            if copy.cpus == Cpus.RUNNING:
                copy.guest.runs(True)
                self.world.invariants.woke(copy, self._sleeps)
        self.timeline.go_on(self.scope)

    # --- watchdog ----------------------------------------------------------------------------------------------------

    def arm_watchdog(self, space: Space) -> None:
        renewed, generation = space.renewed, space.generation
        latest = renewed + self.world.disk.dead_after
        if space.name == self.lease_space:
            self.timeline.at(
                latest + ns(0.5), lambda: self.world.invariants.lease_must_be_over(self, renewed, generation)
            )
        if not self.fenced:
            return
        moment = latest - ns(KEEPALIVE * self.random.random())
        # Each lockspace has a line of its own to the watchdog: the first that ends counts.
        if self._fires is not None and self._fires[0] <= moment:
            return
        self.disarm_watchdog()
        self._fires = self.timeline.at(moment, self._fire)

    def _fire(self) -> None:
        self._fires = None
        self.reset("reset by the watchdog")

    def want_reset(self, wanted: bool) -> None:
        """Asked of wdmd by the agent: one of its clients is overdue, or is not any more."""
        if wanted and self._asked_reset is None and self.fenced:
            self.trace("asks wdmd for a reset")
            seconds = self.world.disk.watchdog + KEEPALIVE * self.random.random()
            self._asked_reset = self.timeline.after(seconds, lambda: self.reset("reset by the watchdog, as it asked"))
        elif not wanted:
            self._forget_reset()

    def _forget_reset(self) -> None:
        if self._asked_reset is not None:
            self.timeline.cancel(self._asked_reset)
            self._asked_reset = None

    def disarm_watchdog(self) -> None:
        if self._fires is not None:
            self.timeline.cancel(self._fires)
            self._fires = None

    # --- daemons -----------------------------------------------------------------------------------------------------

    def sanlock(self) -> Optional[Sanlock]:
        return self.sanlock_daemon

    def start_sanlock(self) -> None:
        if self.sanlock_daemon is None and self.power:
            self.fenced = self.spec.watchdog
            self.sanlock_daemon = Sanlock(
                self.timeline, Scope(self.scope), self.world.disk, self.path, self.hostname, self.random,
                self.spec.watchdog, self,
            )  # fmt: skip

    def kill_sanlock(self) -> None:
        daemon, self.sanlock_daemon = self.sanlock_daemon, None
        if daemon is None:
            return
        self.trace("sanlock killed")
        daemon.killed()
        if self.broker is not None:
            self.broker.lockspaces.daemon_died()

    def start_broker(self) -> None:
        if self.broker is None and self.power and self.broker_wanted:
            self.broker = BrokerSeat(self)

    def start_agent(self) -> None:
        if self.agent is None and self.power and self.agent_wanted:
            self.agent = AgentSeat(self)

    def kill_broker(self, again: bool = True) -> None:
        seat, self.broker = self.broker, None
        if seat is not None:
            self.trace("broker killed")
            seat.killed()
            if again and self.supervised:
                self.timeline.after(RESTART + 0.5, self.start_broker, self.scope)

    def kill_agent(self, again: bool = True) -> None:
        seat, self.agent = self.agent, None
        if seat is not None:
            self.trace("agent killed")
            seat.killed()
            if again and self.supervised:
                self.timeline.after(RESTART + 0.5, self.start_agent, self.scope)

    def stop_agent(self) -> None:
        seat, self.agent = self.agent, None
        self.agent_wanted = False
        if seat is not None:
            self.trace("agent stopped")
            seat.say_goodbye()

    def stop_broker(self) -> None:
        seat, self.broker = self.broker, None
        self.broker_wanted = False
        if seat is not None:
            self.trace("broker stopped")
            seat.stopped()

    # --- what the daemons ask ----------------------------------------------------------------------------------------

    def open_volume(self) -> BlockIO:
        trouble = self.path.trouble
        if trouble.open_error:
            raise StorageError(trouble.open_error, "volume")
        return Door(self.world.volume, self.path, self.timeline, self.number, self.scope)

    def page(self) -> Tuple[bool, float]:
        copy = self.world.running_copy()
        return (False, 30.0) if copy is None else copy.guest.page()

    def definition(self) -> Effective:
        stamp = int(self.clock.monotonic() // 60.0) * 60
        if self.definition_problem:
            return Effective("", 0, stamp, self.definition_problem, "simulated")
        return Effective("<domain/>", self.world.memory_mib, stamp, "", "")

    def destination(self, host_id: int) -> Optional[Libvirt]:
        target = self.world.hosts.get(host_id)
        reachable = target is not None and target.scope.running and self.world.migration_network
        return target.libvirt if target is not None and reachable else None

    def decided(self, cycle: Cycle, decision: Decision) -> None:
        self.world.decided(self, cycle, decision)

    def ordered(self, cycle: Cycle, action: Action) -> None:
        self.world.ordered(self, cycle, action)

    # --- what the hypervisor and sanlock ask -------------------------------------------------------------------------

    def vm_event(self, event: str, detail: str, copy: Copy) -> None:
        if self.broker is not None:
            self.broker.watch.event(event, detail, copy)

    def cpus_changed(self, copy: Copy, before: str) -> None:
        self.world.cpus_changed(self, copy, before)

    def process_appeared(self) -> None:
        if self.agent is not None:
            self.agent.guard.process_appeared()

    def io_hangs(self) -> bool:
        return self.path.lease_hang_until > self.timeline.now

    def boot_seconds(self) -> Optional[float]:
        return self.world.guest_boot

    def lockspace_joined(self, space: Space) -> None:
        self.trace(f"sanlock: {space.name} joined, generation {space.generation}")
        if space.name == self.lease_space:
            self.world.invariants.joined(self, space.generation)

    def trace(self, what: str) -> None:
        self.world.note(self.number, what)

    # --- a world that begins in the middle ---------------------------------------------------------------------------

    def preset(self, uptime: float) -> None:
        """Switched on for long, with both lockspaces; the daemons start a little later."""
        self.switch_on(uptime, daemons_after=max(0.0, self.spec.start))
        self.start_sanlock()

    def preset_lockspaces(self) -> None:
        daemon = self.sanlock_daemon
        if daemon is None:
            return
        peers = {host.conf_id: max(1, self.timeline.now) for host in self.world.hosts.values() if host is not self}
        daemon.preset(LEASE.lockspace, self.conf_id, "ids", 1, peers)
        daemon.preset(WHITEBOARD, self.conf_id, "hosted-engine.lockspace", 1, peers)

    def preset_vm(self) -> None:
        """The VM runs here, and has for long."""
        daemon = self.sanlock_daemon
        if daemon is None:
            return
        guest = Guest(self.timeline, 0.0)
        copy = self.libvirt.spawn(guest, incoming=False)
        copy.born -= min(ns(3600.0), ns(self.clock.monotonic()))
        daemon.acquire(copy, lambda outcome: copy.set_cpus(Cpus.RUNNING))
