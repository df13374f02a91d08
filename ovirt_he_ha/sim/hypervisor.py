"""qemu and libvirt on one host, with what was measured of them and the lease.

qemu opens its disks before it has the lease; libvirt takes that in the moment in which the CPUs start. A create whose
lease has a stale owner blocks until sanlock knows more, and meanwhile no call to that libvirt returns. A VM that is
paused gives its lease back; a resume takes it again, if it can be had, and asks nothing else.
"""

from dataclasses import dataclass
from random import Random
from typing import Callable, Dict, List, Optional, Protocol

from ovirt_he_ha.core.model import Outcome
from ovirt_he_ha.hypervisor.process import EngineProcess
from ovirt_he_ha.sim.appliance import Cpus, Guest
from ovirt_he_ha.sim.clock import SECOND, Scope, Timeline
from ovirt_he_ha.sim.move import Move
from ovirt_he_ha.sim.sanlock import SIGNAL_SECONDS, Sanlock

SPAWN = 0.3  # seconds until qemu is there, its images open
CPUS = 0.9  # until libvirt asks for the lease
MAKE_ROOM = 1.0  # until a paused copy is gone
GIVE_UP = 0.3  # until a refused qemu is gone
LAST_WORD = 0.3  # until libvirt tells of an end
SOCKET = 0.5  # until libvirtd, going on again, reads what waited for it
FOR_EVER = 1e6
PAUSE_SWITCH = 0.3  # a migration's switch-over

Done = Callable[[Outcome, str], None]


class Site(Protocol):
    """The machine around: ``event`` goes to the broker's watch, ``cpus_changed`` to the invariants."""

    number: int
    scope: Scope
    random: Random

    def sanlock(self) -> Optional[Sanlock]: ...

    def vm_event(self, event: str, detail: str, copy: "Copy") -> None: ...

    def cpus_changed(self, copy: "Copy", before: str) -> None: ...

    def io_hangs(self) -> bool: ...

    def boot_seconds(self) -> Optional[float]: ...

    def process_appeared(self) -> None: ...

    def trace(self, what: str) -> None: ...


@dataclass
class Flow:
    """What goes wrong with one libvirt. ``create_error``: outcome of every create; ``ignore_shutdown``: the guest
    does; ``move``: what the next migrations come to."""

    create_error: str = ""
    ignore_shutdown: bool = False
    shutdown_seconds: float = 5.0
    move: str = ""
    move_seconds: float = 8.0


class Copy:
    """One qemu process: a copy of the engine VM. Implements what sanlock asks of a holder."""

    def __init__(self, libvirt: "Libvirt", pid: int, incoming: bool, guest: Guest, number: int) -> None:
        self.libvirt = libvirt
        self.pid = pid
        self.incoming = incoming
        self.guest = guest
        self.number = number  # of all copies that ever were, in the cluster
        self.domain_id = libvirt.next_id()
        self.born = libvirt.timeline.now
        self.cpus = Cpus.STARTING
        self.pause_reason = "starting-up"
        self.outgoing = False
        self.deaf = False  # stopped by SIGSTOP: SIGTERM does not reach it
        self.stop_requested = False
        self.ended_by = ""
        self.dying = False
        self.ran = False
        self.hung_writes = False  # its writes hung in the kernel when its CPUs stopped
        self.lease = (0, 0)
        self._process: Optional[EngineProcess] = None

    @property
    def host(self) -> int:
        return self.libvirt.site.number

    @property
    def alive(self) -> bool:
        return self.cpus != Cpus.GONE

    @property
    def process(self) -> EngineProcess:
        found, ticks = self._process, self.born // 10_000_000
        if found is None or found.start_ticks != ticks or found.incoming != self.incoming:
            found = self._process = EngineProcess(self.pid, ticks, self.incoming)
        return found

    def set_cpus(self, cpus: str, reason: str = "") -> None:
        before, self.cpus, self.pause_reason = self.cpus, cpus, reason
        if before == cpus:
            return
        if cpus == Cpus.RUNNING:
            self.ran = True
            self.guest.runs(True)
        elif before == Cpus.RUNNING:
            self.hung_writes = self.libvirt.site.io_hangs()
            self.guest.runs(False)
        self.libvirt.site.cpus_changed(self, before)

    def signal(self, kill: bool) -> None:
        if not kill and self.deaf:
            return
        self.libvirt.kill(self, "signal")


class Libvirt:
    """libvirtd of one host, from boot to end of the machine; ``up`` is False while the daemon is not there (its
    domains live on)."""

    def __init__(self, timeline: Timeline, site: Site, copies: Callable[[], int]) -> None:
        self.timeline = timeline
        self.site = site
        self.up = True
        self.hung_until = 0
        self.flow = Flow()
        self.domain: Optional[Copy] = None
        self.strays: List[Copy] = []  # processes of the VM that libvirt does not know
        self._copies = copies
        self._ids = 0
        self._pids = 1000
        self._freezing: Dict[int, str] = {}
        self._freezes = 0
        self._move: Optional[Move] = None
        self._start: Optional[Start] = None

    # --- state -------------------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    @property
    def frozen(self) -> bool:
        """No call returns: a create waits for a lease."""
        return bool(self._freezing) or self.hung_until > self.timeline.now

    @property
    def problem(self) -> str:
        if not self.up:
            return "unreachable"
        return "overdue" if self.frozen else ""

    def processes(self) -> List[Copy]:
        found = [each for each in self.strays if each.cpus != Cpus.GONE] if self.strays else []
        domain = self.domain
        return [domain, *found] if domain is not None and domain.cpus != Cpus.GONE else found

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.timeline.after(seconds, action, self.site.scope)

    def freeze(self, why: str) -> int:
        self._freezes += 1
        self._freezing[self._freezes] = why
        return self._freezes

    def thaw(self, token: int) -> None:
        self._freezing.pop(token, None)

    def spawn(self, guest: Guest, incoming: bool) -> Copy:
        self._pids += self.site.random.randrange(1, 50)
        copy = Copy(self, self._pids, incoming, guest, self._copies())
        self.domain = copy
        sanlock = self.site.sanlock()
        if sanlock is not None:
            sanlock.register(copy)
        self.site.process_appeared()
        return copy

    # --- start -------------------------------------------------------------------------------------------------------

    def create(self, deadline: float, done: Done) -> None:
        """The product's start, what it asks libvirt for and what becomes of it."""
        if self.up and self.frozen and not self._freezing:
            self._create_later(deadline, done)
            return
        if self._unable(deadline, done):
            return
        here = self.domain
        if here is not None and here.cpus == Cpus.PAUSED and here.pause_reason != "migration":
            self.kill(here, "destroyed")  # a paused copy is never resumed: it makes room
            self.after(MAKE_ROOM, lambda: self._room_made(here, deadline - MAKE_ROOM, done))
        else:
            self._request(deadline, done)

    def _request(self, deadline: float, done: Done) -> None:
        """``createXML`` itself."""
        here = self.domain
        if here is not None:
            running = here.cpus == Cpus.RUNNING
            done(Outcome.OK if running else Outcome.REFUSED, "it runs here already" if running else "busy")
            return
        if any(each.alive for each in self.strays):
            done(Outcome.REFUSED, "stray-process")
            return
        if self.flow.create_error:
            self.after(SPAWN, lambda: done(Outcome.FAILED, self.flow.create_error))
            return
        self.after(SPAWN, lambda: self._spawned(deadline, done))

    def _create_later(self, deadline: float, done: Done) -> None:
        """libvirtd stands still, and reads the request when it goes on: the VM may be made long after its caller gave
        up. Further calls find this one pending."""
        token, answer = self.freeze("create"), Answer(done)
        until = self.timeline.now + round(deadline * SECOND)
        self.after(deadline, lambda: answer.give(Outcome.OVERDUE, "libvirt does not answer"))

        def look() -> None:
            if token not in self._freezing:
                answer.give(Outcome.FAILED, "libvirt is not there")
            elif self.hung_until > self.timeline.now:
                self.after(SOCKET, look)
            else:
                self.thaw(token)
                left = (until - self.timeline.now) / SECOND
                self._request(FOR_EVER if answer.given else left, answer.give)

        self.after(SOCKET, look)

    def _room_made(self, before: Copy, deadline: float, done: Done) -> None:
        if before.alive:
            done(Outcome.REFUSED, "still-paused")
        else:
            self.create(deadline, done)

    def _unable(self, deadline: float, done: Done) -> bool:
        if not self.up:
            self.after(0.01, lambda: done(Outcome.FAILED, "libvirt is not there"))
        elif self._freezing:
            done(Outcome.REFUSED, "pending")
        elif self.frozen:
            self.after(deadline, lambda: done(Outcome.OVERDUE, "libvirt does not answer"))
        else:
            return False
        return True

    def _spawned(self, deadline: float, done: Done) -> None:
        if self.domain is not None:
            done(Outcome.FAILED, "it exists already")
            return
        copy = self.spawn(Guest(self.timeline, self.site.boot_seconds()), incoming=False)
        self.after(CPUS, lambda: Start(self, copy, deadline, done).ask_lease())

    # --- stop --------------------------------------------------------------------------------------------------------

    def shutdown(self, deadline: float, done: Done) -> None:
        if not self.up:
            self.after(0.01, lambda: done(Outcome.FAILED, "libvirt is not there"))
            return
        if self.frozen:
            self.after(deadline, lambda: done(Outcome.OVERDUE, "libvirt does not answer"))
            return
        copy = self.domain
        if copy is not None:
            copy.stop_requested = True
            self.site.vm_event("stop-requested", "", copy)
            if not self.flow.ignore_shutdown and copy.guest.obeys and copy.cpus == Cpus.RUNNING:
                self.after(self.flow.shutdown_seconds, lambda: self.power_off(copy))
        self.after(0.05, lambda: done(Outcome.OK, "ACPI"))

    def power_off(self, copy: Copy) -> None:
        """The guest has switched itself off."""
        if copy.alive and copy.cpus == Cpus.RUNNING:
            self.site.vm_event("shutdown", "guest", copy)
            self.kill(copy, "shutdown")

    def destroy(self, deadline: float, done: Done) -> None:
        """By libvirt or by signal: it works without libvirt."""
        targets = self.processes()
        for copy in targets:
            self.kill(copy, "destroyed")
        self._await_end(targets, self.timeline.now + round(deadline * SECOND), done)

    def _await_end(self, targets: List[Copy], until: int, done: Done) -> None:
        if not any(copy.alive for copy in targets):
            done(Outcome.OK, "")
        elif self.timeline.now >= until:
            done(Outcome.OVERDUE, "process is in state D")
        else:
            self.after(0.5, lambda: self._await_end(targets, until, done))

    def kill(self, copy: Copy, word: str) -> None:
        """SIGKILL, or an end of its own. A process with I/O that hangs in the kernel ends when the I/O does."""
        if not copy.alive:
            return
        copy.ended_by = copy.ended_by or word
        if copy.dying:
            return
        copy.dying = True
        self.after(SIGNAL_SECONDS * (0.1 + 0.4 * self.site.random.random()), lambda: self._end(copy))

    def _end(self, copy: Copy) -> None:
        if not copy.alive:
            return
        if self.site.io_hangs():
            self.after(0.5, lambda: self._end(copy))
            return
        self.gone(copy)

    def gone(self, copy: Copy) -> None:
        copy.set_cpus(Cpus.GONE)
        sanlock = self.site.sanlock()
        if sanlock is not None:
            sanlock.ended(copy.pid)
        if self.domain is copy:
            self.domain = None
        if copy in self.strays:
            self.strays.remove(copy)
        self.site.trace(f"VM process {copy.pid} ended ({copy.ended_by or 'crashed'})")
        self.site.vm_event("process-gone", "", copy)
        word = {"signal": "crashed", "": "crashed"}.get(copy.ended_by, copy.ended_by)
        self.after(LAST_WORD * (0.5 + self.site.random.random()), lambda: self.site.vm_event("stopped", word, copy))
        move = self._move
        if move is not None and move.copy is copy:
            self.after(LAST_WORD, move.source_ended)

    # --- pause -------------------------------------------------------------------------------------------------------

    def pause(self, reason: str) -> bool:
        """A killed qemu that hangs in the kernel hears of it no more, and keeps its lease."""
        copy = self.domain
        if copy is None or copy.cpus != Cpus.RUNNING or copy.dying:
            return False
        copy.set_cpus(Cpus.PAUSED, reason)
        self._release(copy)
        self.site.vm_event("suspended", reason, copy)
        return True

    def resume(self) -> bool:
        """By somebody's hand: nothing of ours does it. It succeeds whenever the lease can be had."""
        copy = self.domain
        sanlock = self.site.sanlock()
        if copy is None or copy.cpus != Cpus.PAUSED or sanlock is None or not self.up:
            return False
        sanlock.acquire(copy, lambda outcome: self._resumed(copy, outcome))
        return True

    def _resumed(self, copy: Copy, outcome: str) -> None:
        if outcome == "" and copy.alive and not copy.dying:
            copy.set_cpus(Cpus.RUNNING)
            self.site.vm_event("resumed", "", copy)

    def _release(self, copy: Copy) -> None:
        sanlock = self.site.sanlock()
        if sanlock is not None:
            sanlock.release(copy.pid)

    # --- move --------------------------------------------------------------------------------------------------------

    def migrate(self, target: "Optional[Libvirt]", deadline: float, done: Done) -> None:
        if self._unable(deadline, done):
            return
        copy = self.domain
        if copy is None or copy.cpus != Cpus.RUNNING:
            done(Outcome.REFUSED, "not-here" if copy is None else "paused")
            return
        self._move = Move(self, copy, target, deadline, done)
        self._move.begin()

    def abort_migration(self) -> None:
        if self._move is not None:
            self._move.abort()

    def moved(self, move: Move) -> None:
        if self._move is move:
            self._move = None

    # --- the daemon --------------------------------------------------------------------------------------------------

    def daemon_down(self) -> None:
        """A create that waited for a lease fails, and yet sanlock goes on and gets its qemu the lease. A running VM
        goes on."""
        self.up = False
        self._freezing.clear()
        if self._move is not None:
            self._move.cut()
        if self._start is not None:
            self._start.broken()

    def daemon_up(self) -> None:
        """What has not begun to run is ended; what ran is known again."""
        self.up = True
        copy = self.domain
        if copy is not None and copy.cpus == Cpus.STARTING:
            self.kill(copy, "failed")


class Answer:
    """Only the first one counts."""

    def __init__(self, done: Done) -> None:
        self._done = done
        self.given = False

    def give(self, outcome: Outcome, detail: str) -> None:
        if not self.given:
            self.given = True
            self._done(outcome, detail)


class Start:
    """A create between the spawn of qemu and its answer."""

    def __init__(self, libvirt: Libvirt, copy: Copy, deadline: float, done: Done) -> None:
        self.libvirt = libvirt
        self.copy = copy
        self.answer = Answer(done)
        self.token = 0
        self.orphaned = False
        libvirt._start = self
        libvirt.after(max(0.0, deadline - SPAWN - CPUS), self._overdue)

    def ask_lease(self) -> None:
        libvirt, copy = self.libvirt, self.copy
        if not copy.alive or copy.dying:
            self._finish(Outcome.FAILED, "its process ended")
            return
        sanlock = libvirt.site.sanlock()
        if sanlock is None or not libvirt.up:
            libvirt.kill(copy, "failed")
            self._finish(Outcome.FAILED, "Failed to acquire lock: no sanlock")
            return
        self.token = libvirt.freeze("create")
        sanlock.acquire(copy, self._answered)

    def _answered(self, outcome: str) -> None:
        libvirt, copy = self.libvirt, self.copy
        libvirt.thaw(self.token)
        if not copy.alive or copy.dying:
            libvirt._release(copy)
            self._finish(Outcome.FAILED, "its process ended")
        elif self.orphaned and outcome == "":
            return  # nobody is there to let its CPUs run
        elif outcome == "":
            copy.set_cpus(Cpus.RUNNING)
            libvirt.site.trace(f"VM process {copy.pid} runs")
            libvirt.site.vm_event("resumed", "", copy)
            libvirt.site.vm_event("started", "booted", copy)
            self._finish(Outcome.OK, "")
        else:
            libvirt.kill(copy, "failed")
            lost = outcome == "busy"
            self._finish(Outcome.LOST_RACE if lost else Outcome.FAILED, f"Failed to acquire lock: {outcome}")

    def broken(self) -> None:
        """libvirtd is gone, and qemu is as it was."""
        self.orphaned = True
        self._finish(Outcome.FAILED, "the connection broke")

    def _overdue(self) -> None:
        """The caller gives up, and ends the process that waits: its CPUs have not run."""
        if self.answer.given:
            return
        if self.copy.cpus == Cpus.STARTING:
            self.libvirt.kill(self.copy, "failed")
        self._finish(Outcome.OVERDUE, "create does not return")

    def _finish(self, outcome: Outcome, detail: str) -> None:
        if self.libvirt._start is self:
            self.libvirt._start = None
        self.answer.give(outcome, detail)
