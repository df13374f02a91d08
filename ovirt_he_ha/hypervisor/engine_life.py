"""What is known of the engine VM on this host, from libvirt's events and looks and from the process itself.

No I/O and no clock: every method is told ``now`` (product seconds, monotonic). A transient domain vanishes with its
last word, so the reason why the VM left is kept here. Not safe for threads: the watch that owns it has a lock.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Optional, Tuple

from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Exit, GuestCounters, Health, Vm
from ovirt_he_ha.hypervisor.process import EngineProcess

POWERING_DOWN = (
    300.0  # s after a shutdown was asked for, `Powering down` is shown; then the guest has plainly ignored it
)
LAST_EVENT = 0.5  # wall s; an event that libvirt sent before it answered "no such domain" is dispatched by then
WORD_WAIT = 3.0  # wall s; libvirt's last word on a process that was killed came 0.2-2 s after its end


class Run(str, Enum):
    """libvirt's domain states, as far as they differ for us."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"  # the guest has powered off, qemu is still there
    OFF = "off"


PAUSE_REASONS = {
    0: "unknown",
    1: "user",
    2: "migration",
    3: "save",
    4: "dump",
    5: "ioerror",
    6: "watchdog",
    7: "from-snapshot",
    8: "shutting-down",
    9: "snapshot",
    10: "crashed",
    11: "starting-up",
    12: "postcopy",
    13: "postcopy-failed",
    14: "api-error",
}
MIGRATION = "migration"
STARTING_UP = "starting-up"


@dataclass(frozen=True)
class Look:
    """One look at a domain that libvirt knows. ``pause_reason``: one of PAUSE_REASONS' words. ``outgoing``,
    ``incoming``, ``agent_connected``, ``lease_defined``: None when this look could not tell."""

    run: Run
    domain_id: int = -1  # libvirt's number of this life of the domain
    pause_reason: str = ""
    post_copy: bool = False
    outgoing: Optional[bool] = None
    incoming: Optional[bool] = None
    agent_connected: Optional[bool] = None
    lease_defined: Optional[bool] = None
    stop_requested: bool = False


@dataclass(frozen=True)
class Copy:
    """One life of the VM on this host, from create (or incoming migration) to its end."""

    since: float
    domain_id: int = -1
    run: Run = Run.PAUSED
    ran: bool = False  # its CPUs have run here
    running_since: Optional[float] = None
    paused_since: Optional[float] = None
    pause_reason: str = ""
    post_copy: bool = False
    outgoing: bool = False
    incoming: bool = False
    agent_seen: bool = False
    agent_connected: Optional[bool] = None
    lease_defined: Optional[bool] = None
    stop_requested_at: Optional[float] = None
    guest_powered_off: bool = False
    ended_from_outside: bool = False  # libvirt or a signal told qemu to quit
    process: Optional[EngineProcess] = None
    process_gone_at: Optional[float] = None
    absent_since: Optional[float] = None  # libvirt has no such domain any more
    counters: Optional[GuestCounters] = None

    @property
    def over(self) -> bool:
        return self.process_gone_at is not None or self.absent_since is not None


class EngineLife:
    """``scale``: product seconds in a wall second; libvirt does not run on product time. ``guard_lost``: set by the
    owner before it reports anything; True only when this host's hold of the lockspace is known to be lost."""

    def __init__(self, scale: float = 1.0) -> None:
        self.guard_lost = False
        self._word_wait = WORD_WAIT * scale
        self._last_event = LAST_EVENT * scale
        # The domain whose process is known to have ended, whatever libvirt still believes.
        self._dead_id = -1
        self._dead_process: Optional[EngineProcess] = None
        self.copy: Optional[Copy] = None
        self.last_exit = Exit.NONE
        self._exit_at: Optional[float] = None
        self._vm = Vm.DOWN  # the last published word, as upstream's monitor remembers it

    # --- looks ------------------------------------------------------------------------------------------------------

    def adopt(self, process: EngineProcess, started_at: float) -> None:
        """The process of the present copy, found in /proc. ``started_at``: its start on the clock of ``now``."""
        if self.copy is None or self.copy.process == process:
            return
        since = min(self.copy.since, started_at)
        running = self.copy.running_since
        # A copy that ran before we looked has run since its process began. One that came by migration has not: the
        # moment is not known, and counts from our first look.
        if running is not None and running == self.copy.since and not process.incoming:
            running = since
        self.copy = replace(self.copy, process=process, since=since, running_since=running)

    def seen(self, look: Look, now: float) -> None:
        """libvirt has the domain."""
        if look.run is Run.OFF:
            self.absent(now)
            return
        if look.domain_id >= 0 and self.believed_over(look.domain_id):
            return  # libvirt has not noticed the end of the process yet
        copy = self._copy_of(look, now)
        copy = self._running_or_paused(copy, look, now)
        self.copy = replace(
            copy,
            domain_id=look.domain_id,
            post_copy=look.post_copy,
            outgoing=copy.outgoing if look.outgoing is None else look.outgoing,
            incoming=copy.incoming if look.incoming is None else look.incoming,
            agent_seen=copy.agent_seen or look.agent_connected is True,
            agent_connected=copy.agent_connected if look.agent_connected is None else look.agent_connected,
            lease_defined=copy.lease_defined if look.lease_defined is None else look.lease_defined,
            stop_requested_at=_first(copy.stop_requested_at, now) if look.stop_requested else None,
        )
        self._vm = self._status(now).vm

    def believed_over(self, domain_id: int) -> bool:
        """Whether a look at this domain is taken for the old copy that libvirt has not buried yet. libvirtd numbers
        its domains anew after a restart, so the number alone does not prove it: see :meth:`reborn`."""
        if self.copy is not None and self.copy.over:
            return domain_id == self.copy.domain_id
        return self.copy is None and domain_id == self._dead_id

    def reborn(self, process: EngineProcess, now: float) -> None:
        """A living process of the VM was found although its copy is over: unless it is the very process that ended,
        it is a new copy."""
        if process == self._dead_process or (self.copy is not None and self.copy.process == process):
            return
        if self.copy is not None and self.copy.over:
            self._leave(self._cause_without_word(now), now)
        self._dead_id = -1

    def _copy_of(self, look: Look, now: float) -> Copy:
        copy = self.copy
        if copy is None:
            return Copy(since=now)
        if copy.domain_id in (-1, look.domain_id) and copy.absent_since is None:
            return copy
        self._leave(self._cause_without_word(now), now)
        return Copy(since=now)

    def absent(self, now: float) -> None:
        """libvirt has no such domain. Its word about the end, if there is one, is on its way."""
        if self.copy is not None and self.copy.absent_since is None:
            self.copy = replace(self.copy, absent_since=now)

    def settle(self, now: float) -> bool:
        """Give up waiting for libvirt's word on a copy that is over. True if something changed."""
        copy = self.copy
        if copy is None:
            return False
        absent = copy.absent_since is not None and now - copy.absent_since >= self._last_event
        gone = copy.process_gone_at is not None and now - copy.process_gone_at >= self._word_wait
        if absent or gone:
            self._leave(self._cause_without_word(now), now, missing=copy.process_gone_at is None)
        return absent or gone

    def counted(self, counters: GuestCounters) -> None:
        if self.copy is not None:
            self.copy = replace(self.copy, counters=counters)

    def agent(self, connected: bool) -> None:
        if self.copy is not None:
            self.copy = replace(self.copy, agent_connected=connected, agent_seen=self.copy.agent_seen or connected)

    # --- events ---------------------------------------------------------------------------------------------------

    def started(self, now: float, incoming: bool) -> None:
        copy = self._present_copy(now)
        if copy is not None:
            self.copy = replace(copy, incoming=incoming and not copy.ran)

    def resumed(self, now: float) -> None:
        """CPUs run. At a start libvirt says this before it says that the domain was started."""
        copy = self._present_copy(now)
        if copy is None:
            return
        copy = self._running_or_paused(copy, Look(Run.RUNNING), now)
        self.copy = replace(copy, outgoing=False, incoming=False)
        self._vm = self._status(now).vm

    def suspended(self, now: float, reason: str) -> None:
        """No new copy begins with this: after an end it is a word about the one that ended."""
        copy = None if self.copy is not None and self.copy.over else self._present_copy(now)
        if copy is None:
            return
        outgoing = copy.outgoing or (reason == MIGRATION and copy.ran)
        look = Look(Run.PAUSED, pause_reason=reason)
        self.copy = replace(self._running_or_paused(copy, look, now), outgoing=outgoing)
        self._vm = self._status(now).vm

    def _present_copy(self, now: float) -> Optional[Copy]:
        """For an event that only a living domain has: the copy here, or a new one. None: it came when the copy that is
        over still lived; its end, seen without libvirt, overtook it."""
        copy = self.copy
        if copy is not None and copy.over:
            if now <= min(at for at in (copy.process_gone_at, copy.absent_since) if at is not None):
                return None
            self._leave(self._cause_without_word(now), now)
            copy = None
        return copy if copy is not None else Copy(since=now)

    def migrating_out(self) -> None:
        if self.copy is not None and self.copy.ran:
            self.copy = replace(self.copy, outgoing=True)

    def migration_done(self) -> None:
        """The outgoing job ended, well or not: the next look tells which."""
        if self.copy is not None and self.copy.run is Run.RUNNING:
            self.copy = replace(self.copy, outgoing=False)

    def rebooted(self, now: float) -> None:
        """The guest starts anew within the same process: it gets the time of a boot again before it can count as
        hung."""
        if self.copy is not None:
            self.copy = replace(self.copy, running_since=now)

    def stop_requested(self, now: float) -> None:
        if self.copy is not None:
            self.copy = replace(self.copy, stop_requested_at=now)

    def powered_off(self, by_guest: bool) -> None:
        """qemu is about to quit: the guest's own doing, or told from outside."""
        if self.copy is not None:
            self.copy = replace(
                self.copy, run=Run.STOPPING, guest_powered_off=by_guest, ended_from_outside=not by_guest
            )

    def process_gone(self, process: EngineProcess, now: float) -> None:
        """Certain: it runs no more. Why is libvirt's to say, for a moment."""
        if self.copy is not None and self.copy.process == process and self.copy.process_gone_at is None:
            self.copy = replace(self.copy, process_gone_at=now)

    def stopped(self, word: str, now: float) -> None:
        """libvirt's last word: ``shutdown``, ``destroyed``, ``crashed``, ``migrated``, ``saved``, ``failed`` or
        ``from-snapshot``."""
        copy = self.copy
        if copy is None:
            # It came and went between two looks, or had left before libvirt's word arrived: a word corrects what was
            # guessed.
            if self.last_exit is Exit.CRASHED and self._exit_at is not None and now - self._exit_at <= self._word_wait:
                self._leave(self._cause(word, Copy(since=now, ran=True), now), now)
            return
        self._leave(self._cause(word, copy, now), now)

    # --- facts ----------------------------------------------------------------------------------------------------

    def facts(self, now: float) -> EngineFacts:
        return self._facts(now, aged=True)

    def essence(self, now: float) -> Tuple[object, ...]:
        """What is worth waking somebody for: the facts without ages and counters."""
        return self._facts(now, aged=False), self._exit_at, None if self.copy is None else self.copy.run

    def _facts(self, now: float, aged: bool) -> EngineFacts:
        def since(moment: Optional[float]) -> Optional[float]:
            return now - moment if aged and moment is not None else None

        copy = self.copy
        if copy is None or copy.over:
            return EngineFacts(self._status(now), self.last_exit, since(self._exit_at))
        return EngineFacts(
            self._status(now),
            self.last_exit,
            since(self._exit_at),
            uptime=since(copy.running_since),
            paused_for=since(copy.paused_since) if copy.pause_reason != STARTING_UP and not copy.incoming else None,
            pause_reason=copy.pause_reason,
            guest_agent=copy.agent_connected if copy.agent_seen else None,
            pid=copy.process.pid if copy.process is not None else None,
            lease_defined=copy.lease_defined,
            incoming=copy.incoming,
            outgoing=copy.outgoing,
            counters=copy.counters if aged else None,
        )

    def _status(self, now: float) -> EngineStatus:
        copy = self.copy
        if copy is None:
            return EngineStatus(self._vm, Health.BAD, "unknown" if self._vm is Vm.DOWN_MISSING else "Down")
        if copy.over:
            return EngineStatus(Vm.UNKNOWN, Health.UNKNOWN, "Down", "it has ended here; libvirt has not said why yet")
        detail = self._detail(copy, now)
        if detail == "Migration Destination":
            return EngineStatus(Vm.DOWN if self._vm in (Vm.DOWN, Vm.UP) else self._vm, Health.BAD, detail)
        health = Health.BAD if detail in ("Paused", "WaitForLaunch") else Health.UNKNOWN
        return EngineStatus(Vm.UP, health, detail, copy.pause_reason if detail == "Paused" else "")

    def _detail(self, copy: Copy, now: float) -> str:
        """vdsm's words."""
        if copy.incoming or copy.post_copy:
            return "Migration Destination"
        if copy.run is Run.STOPPING:
            return "Powering down"
        if copy.outgoing:
            return "Migration Source"
        if copy.run is Run.PAUSED:
            return "WaitForLaunch" if copy.pause_reason in (STARTING_UP, "") and not copy.ran else "Paused"
        asked = copy.stop_requested_at
        return "Powering down" if asked is not None and now - asked < POWERING_DOWN else "Up"

    def _running_or_paused(self, copy: Copy, look: Look, now: float) -> Copy:
        if look.run is Run.RUNNING:
            if copy.run is Run.RUNNING and copy.running_since is not None and copy.paused_since is None:
                return copy  # as at the last look
            running_since = copy.running_since if copy.running_since is not None else now
            return replace(
                copy, run=Run.RUNNING, ran=True, running_since=running_since, paused_since=None, pause_reason=""
            )
        if look.run is Run.STOPPING:
            return replace(copy, run=Run.STOPPING, ran=True)
        same = copy.run is Run.PAUSED and copy.paused_since is not None
        paused_since = copy.paused_since if same else now
        return replace(copy, run=Run.PAUSED, paused_since=paused_since, pause_reason=look.pause_reason)

    def _cause(self, word: str, copy: Copy, now: float) -> Exit:
        if word == "migrated":
            return Exit.MIGRATED
        if not copy.ran:
            return Exit.FAILED
        if copy.guest_powered_off:
            return self._power_off_cause(copy, now)
        if self.guard_lost:
            return Exit.LEASE_LOST
        if word in ("destroyed", "saved", "shutdown"):
            return Exit.REQUESTED
        return Exit.CRASHED

    def _cause_without_word(self, now: float) -> Exit:
        copy = self.copy
        if copy is None or not copy.ran:
            return Exit.FAILED
        if copy.guest_powered_off:
            return self._power_off_cause(copy, now)
        if self.guard_lost:
            return Exit.LEASE_LOST
        if copy.ended_from_outside:
            return Exit.REQUESTED
        return Exit.MIGRATED if copy.outgoing and copy.run is Run.PAUSED else Exit.CRASHED

    @staticmethod
    def _power_off_cause(copy: Copy, now: float) -> Exit:
        """libvirt reports a guest's power-off alike, whether a user of the guest wanted it or the ACPI button: the
        mark on the domain tells."""
        asked = copy.stop_requested_at
        return Exit.REQUESTED if asked is not None and now - asked < POWERING_DOWN else Exit.GUEST_SHUTDOWN

    def _leave(self, cause: Exit, now: float, missing: bool = False) -> None:
        expected = cause in (Exit.MIGRATED, Exit.REQUESTED)
        was_up = self._vm is Vm.UP or (self.copy is not None and self.copy.ran)
        if expected:
            self._vm = Vm.DOWN
        elif cause is Exit.FAILED:
            self._vm = Vm.DOWN if self._vm is Vm.UP else self._vm
        elif was_up:
            self._vm = Vm.DOWN_MISSING if missing else Vm.DOWN_UNEXPECTED
        if self.copy is not None and self.copy.process_gone_at is not None:
            self._dead_id = self.copy.domain_id
            self._dead_process = self.copy.process
        self.last_exit = cause
        self._exit_at = now
        self.copy = None


def _first(value: Optional[float], now: float) -> float:
    return now if value is None else value
