"""The watch over libvirt without libvirt: its events, late or lost, and the regular look that makes up for them, told
to the product's own :class:`EngineLife`."""

from typing import Callable, Optional, Tuple

from ovirt_he_ha.broker.monitors.process_times import ProcessTimes
from ovirt_he_ha.core.model import EngineFacts, GuestCounters, Reading
from ovirt_he_ha.hypervisor.engine_life import EngineLife, Look, Run
from ovirt_he_ha.hypervisor.events import LOOK_DEADLINE, POLL, POLL_CLOSE
from ovirt_he_ha.sim.appliance import Cpus
from ovirt_he_ha.sim.clock import Beat, HostClock, Scope, Timeline
from ovirt_he_ha.sim.hypervisor import Copy, Libvirt

_RUNS = {Cpus.STARTING: Run.PAUSED, Cpus.PAUSED: Run.PAUSED, Cpus.RUNNING: Run.RUNNING}

Apply = Callable[[EngineLife], None]


class Mail:
    """How libvirt's events come: ``delay`` seconds late, or not at all."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.lost = False


class SimWatch:
    """What the engine monitor asks (``EngineSource``). Lives as long as its broker; a new one adopts what runs."""

    def __init__(
        self,
        libvirt: Libvirt,
        clock: HostClock,
        timeline: Timeline,
        scope: Scope,
        guard_lost: Callable[[], bool],
        mail: Mail,
    ) -> None:
        self._libvirt = libvirt
        self._clock = clock
        self._timeline = timeline
        self._scope = scope
        self._guard_lost = guard_lost
        self._mail = mail
        self._life = EngineLife()
        self._problem = "not-yet"
        self._tried_at: Optional[float] = None
        self._good_at: Optional[float] = None
        self._lost_at: Optional[float] = None
        self._on_change: Callable[[], None] = lambda: None
        self._beat = Beat(timeline, scope, self._look)

    # --- EngineSource ------------------------------------------------------------------------------------------------

    def start(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._beat.wake()

    def stop(self, deadline: float) -> None:
        self._beat.stop()

    def facts(self) -> Reading[EngineFacts]:
        now = self._clock.monotonic()
        if self._problem and not self._ended_while_away(now):
            return Reading.missing(self._problem, None if self._tried_at is None else now - self._tried_at)
        age = 0.0 if self._good_at is None or self._problem else now - self._good_at
        return Reading.of(self._life.facts(now), max(0.0, age))

    def _ended_while_away(self, now: float) -> bool:
        age = self._life.facts(now).exit_age
        if self._life.copy is not None or self._lost_at is None or age is None:
            return False
        return age <= now - self._lost_at

    # --- looks -------------------------------------------------------------------------------------------------------

    @property
    def nothing_here(self) -> bool:
        """libvirt answers, and has no VM, as before."""
        libvirt = self._libvirt
        return not (self._problem or libvirt.domain or self._life.copy or libvirt.problem)

    def _look(self) -> Optional[float]:
        problem = self._libvirt.problem
        if self.nothing_here:
            self._tried_at = self._good_at = self._clock.monotonic()  # nothing is here, as before
            return self._clock.world(POLL)
        before = self._signature()
        if problem == "overdue":
            self._timeline.spend(LOOK_DEADLINE)
        now = self._clock.monotonic()
        self._note(problem, now)
        self._life.guard_lost = self._guard_lost()
        if not problem:
            self._see(now)
        self._life.settle(now)
        if self._signature() != before:
            self._on_change()
        return self._clock.world(self._interval())

    def _note(self, problem: str, now: float) -> None:
        if problem and not self._problem:
            self._lost_at = now
        if not problem:
            self._lost_at = None
            self._good_at = now
        self._problem, self._tried_at = problem, now

    def _see(self, now: float) -> None:
        copy = self._libvirt.domain
        if copy is None:
            self._life.absent(now)
            return
        if self._life.believed_over(copy.domain_id):
            self._life.reborn(copy.process, now)
        look = Look(
            run=_RUNS[copy.cpus],
            domain_id=copy.domain_id,
            pause_reason=copy.pause_reason if copy.cpus != Cpus.RUNNING else "",
            outgoing=copy.outgoing,
            incoming=copy.incoming and copy.cpus == Cpus.STARTING,
            lease_defined=True,
            stop_requested=copy.stop_requested,
            agent_connected=copy.guest.agent,
        )
        self._life.seen(look, now)
        present = self._life.copy
        if present is not None and not present.over:
            born = now - (self._timeline.now - copy.born) * 1e-9 * self._clock.rate
            self._life.adopt(copy.process, born)
            counters = GuestCounters(now, copy.guest.demand(), copy.guest.requests())
            self._life.counted(counters)

    def _interval(self) -> float:
        copy = self._life.copy
        if self._problem:
            return POLL_CLOSE
        busy = copy is not None and (copy.over or copy.outgoing or copy.incoming or copy.run is not Run.RUNNING)
        return POLL_CLOSE if busy else POLL

    # --- events ------------------------------------------------------------------------------------------------------

    def event(self, kind: str, detail: str, copy: Copy) -> None:
        """libvirt says something. What the process itself tells (its end) needs no libvirt and is never lost."""
        if kind == "process-gone":
            self._take(kind, detail, copy)
        elif not self._mail.lost and self._libvirt.up:
            self._timeline.after(0.01 + self._mail.delay, lambda: self._take(kind, detail, copy), self._scope)

    def _take(self, kind: str, detail: str, copy: Copy) -> None:
        before = self._signature()
        now = self._clock.monotonic()
        item = _item(kind, detail, copy, now)
        if item is not None:
            self._life.guard_lost = self._guard_lost()
            item(self._life)
        if self._signature() != before:
            self._on_change()
        self._beat.wake(0.05)

    def _signature(self) -> Tuple[object, ...]:
        return (self._problem, *self._life.essence(self._clock.monotonic()))


def _item(kind: str, detail: str, copy: Copy, now: float) -> Optional[Apply]:
    handlers = {
        "started": lambda life: life.started(now, detail == "migrated"),
        "resumed": lambda life: life.resumed(now),
        "suspended": lambda life: life.suspended(now, detail),
        "shutdown": lambda life: life.powered_off(detail == "guest"),
        "stopped": lambda life: life.stopped(detail, now),
        "process-gone": lambda life: life.process_gone(copy.process, now),
        "migrating": lambda life: life.migrating_out(),
        "job-completed": lambda life: life.migration_done(),
        "stop-requested": lambda life: life.stop_requested(now),
    }
    return handlers.get(kind)


class SimTimes(ProcessTimes):
    """CPU times of the simulated qemu processes of one host."""

    def __init__(self, libvirt: Libvirt) -> None:
        super().__init__()
        self._libvirt = libvirt

    def _copy(self, pid: int) -> Optional[Copy]:
        return next((each for each in self._libvirt.processes() if each.pid == pid), None)

    def used(self, pid: int) -> Optional[Tuple[int, int]]:
        copy = self._copy(pid)
        return None if copy is None else (copy.process.start_ticks, int(copy.guest.demand() * 100) + 1)

    def vcpu_demand(self, pid: int) -> Optional[Tuple[float, ...]]:
        copy = self._copy(pid)
        return None if copy is None else (copy.guest.demand(),)
