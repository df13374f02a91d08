"""The guard over the copy of the VM that runs here: is it still registered, renewed and owned by this host?

Three threads. One asks sanlock (its memory; bounded by a deadline), one reads the owner record (the storage; may hang
for as long as it likes), and the guard itself looks at the processes and the clocks and judges what the two last said.
It needs none of them for a kill: what has not answered is unknown, and a guard that nobody confirmed for
``6 * io_timeout`` is a lost one.
"""

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.core import fencing, reasons
from ovirt_he_ha.core.fencing import Copy, GuardFacts, Kind, OwnerLook, Registration, Verdict
from ovirt_he_ha.core.model import Fence, GuardReport, LeaseId, LeaseOwner
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.process import EngineProcess
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus
from ovirt_he_ha.lease.loops import Loop
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable

log = logging.getLogger(__name__)

TICK = 1.0  # product seconds between two verdicts while a copy is here
TICK_FLOOR = 0.05  # wall
KILL_SECONDS = 5.0  # product; then it counts as stuck, and is tried again
YOUNG_FLOOR = 5.0  # wall seconds: the start of qemu does not become faster with the lab's clock
NEWBORN_FLOOR = 0.5
STANDING_FLOOR = 10.0  # a busy machine is no host that died
# A sleep of the host shows as one jump between two ticks; less than this is the reading of two clocks.
SHORTEST_SLEEP = 0.2
# sanlock counts whole seconds: its "0 s ago" is up to one old.
WHOLE_SECOND = 1.0
STALE_ANSWERS = 3.0  # polls after which sanlock's answer is no longer a registration


class Order(Protocol):
    def __call__(self, fence: Optional[Fence], who: str) -> None: ...


@dataclass(frozen=True)
class GuardSeams:
    """``find``: the VM's processes here; may raise OSError. ``age``: wall seconds of one. ``sanlock``: bounded, raises
    NoStatus. ``owner``: may hang, raises LeaseUnreadable. ``asleep``: wall seconds this host slept since it booted
    (CLOCK_BOOTTIME minus CLOCK_MONOTONIC). ``order``: the kill path; returns at once. ``alive``: called after each
    completed round. ``ran``: whether a virtual CPU of one has ever run, None where that cannot be told; asked while it
    holds the lease, until it has. ``stuck``: the kill path's process has survived. ``reset``: whether this host must be
    reset by its watchdog, told every second while it must; returns at once."""

    find: Callable[[], Sequence[EngineProcess]]
    age: Callable[[EngineProcess], float]
    sanlock: Callable[[], DaemonStatus]
    owner: Callable[[], LeaseOwner]
    asleep: Callable[[], float]
    order: Order
    on_change: Callable[[], None] = lambda: None
    alive: Callable[[], None] = lambda: None
    ran: Callable[[EngineProcess], Optional[bool]] = lambda process: None
    stuck: Callable[[], bool] = lambda: False
    reset: Callable[[bool], None] = lambda wanted: None


def host_sleep() -> float:
    """Wall seconds this host was suspended since it booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass
class _Watched:
    """One copy, as the guard saw it."""

    process: EngineProcess
    first_seen: float
    longest_sleep: float = 0.0
    held: bool = False
    registration: Optional[Registration] = None
    ran: bool = False


@dataclass
class _Seen:
    """What is known of the guard itself, since a copy is here."""

    confirmed_at: Optional[float] = None
    refused_since: Optional[float] = None
    blind: bool = False
    io_timeout: float = 10.0
    owner: Optional[OwnerLook] = None
    sleeps: List[Tuple[float, float]] = field(default_factory=list)  # (when seen, product seconds)


class Guard:
    """``round`` is one look and one verdict; ``start`` runs it for ever."""

    def __init__(self, lease: LeaseId, seams: GuardSeams, clock: SystemClock, timers: Timers) -> None:
        self._lease = lease
        self._seams = seams
        self._clock = clock
        self._timers = timers
        self._lock = threading.Lock()
        self._copies: Dict[EngineProcess, _Watched] = {}
        self._seen = _Seen()
        self._suspended: Dict[str, float] = {}
        self._report = GuardReport()
        self._asleep = seams.asleep()
        self._wake = threading.Event()
        self._stopped = False
        self._resetting = False
        self._sanlock_loop = self.loop("guard sanlock", self.ask_sanlock, timers.guard_poll)
        # A look takes time, and two of them must not be more than ``owner_audit`` apart.
        self._owner_loop = self.loop("guard owner", self.ask_owner, 0.8 * timers.owner_audit)

    # --- what others call -----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._sanlock_loop.start()
        self._owner_loop.start()
        threading.Thread(target=self._run, name="guard", daemon=True).start()

    def stop(self) -> None:
        """Does not wait."""
        self._stopped = True
        self._sanlock_loop.stop()
        self._owner_loop.stop()
        self._wake.set()

    @property
    def report(self) -> GuardReport:
        with self._lock:
            return self._report

    def suspend(self, seconds: float, who: str) -> None:
        """Our own start or hand-over is under way: for so many product seconds from now a copy without the lease is no
        mismatch. 0 ends what the same ``who`` asked for."""
        with self._lock:
            self._suspended[who] = self._clock.monotonic() + seconds

    # --- the three threads ------------------------------------------------------------------------------------------

    def ask_sanlock(self) -> None:
        """One question, while a copy is here."""
        if not self._copies:
            return
        asked = self._clock.monotonic()
        try:
            status = self._seams.sanlock()
        except NoStatus as problem:
            log.warning("%s", problem, extra=throttled("sanlock"))
            self._no_answer(problem.kind, asked)
            return
        with self._lock:
            self._confirm(status, asked)
            for watched in self._copies.values():
                self._register(watched, status, asked)

    def ask_owner(self) -> None:
        """One look at the volume, while a copy is here. A read error is unknown: the former look grows old."""
        if not self._copies:
            return
        started = self._clock.monotonic()
        try:
            owner = self._seams.owner()
        except LeaseUnreadable as problem:
            log.warning("%s", problem, extra=throttled("owner"))
            return
        with self._lock:
            self._seen.owner = OwnerLook(owner, started, self._clock.monotonic())

    def round(self) -> GuardReport:
        """Look at processes and clocks, judge each copy, order what follows. Raises OSError when /proc cannot be
        read."""
        now = self._clock.monotonic()
        self._scan(now)
        with self._lock:
            self._note_sleep(now)
            verdicts = [(self._judge(watched, now), process.pid) for process, watched in self._copies.items()]
        verdict, pid = max(verdicts, key=lambda each: each[0].kind, default=(Verdict(Kind.KEEP, ""), 0))
        self._order(verdict, pid)
        stuck = verdict.kind is Kind.KILL and self._seams.stuck()
        # Once asked, also while the next kill is tried, or sanlock gives no answer.
        self._reset((stuck or self._resetting) and self._is_reset_due(now))
        self._publish(verdict.report())
        return self._report

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                self.round()
            except Exception:
                # A defect, or no /proc: said; without completed rounds the daemon's watchdog starts the agent again.
                log.exception("the guard's round failed", extra=throttled("defect"))
            else:
                self._seams.alive()
            tick = TICK if self._copies else self._timers.guard_poll
            self._wake.wait(max(TICK_FLOOR, self._clock.wall_seconds(tick)))

    # --- looking ----------------------------------------------------------------------------------------------------

    def _scan(self, now: float) -> None:
        found = self._seams.find()
        with self._lock:
            if not self._copies:
                # What was known before is about another copy, perhaps hours old.
                self._seen = _Seen(io_timeout=self._seen.io_timeout)
            if list(found) == list(self._copies):
                return
            new = [process for process in found if process not in self._copies]
            self._copies = {each: self._copies.get(each) or _Watched(each, now) for each in found}
        if new:
            log.info("Guarding the VM's process %s", ", ".join(str(each.pid) for each in new))
            self._sanlock_loop.wake()
            self._owner_loop.wake()

    def _note_sleep(self, now: float) -> None:
        before, self._asleep = self._asleep, self._seams.asleep()
        slept = self._asleep - before
        if slept < SHORTEST_SLEEP:
            return
        seconds = slept * self._clock.scale
        log.warning("This host slept for %.1f s", seconds)
        self._seen.sleeps.append((now, seconds))
        for watched in self._copies.values():
            watched.longest_sleep = max(watched.longest_sleep, seconds)

    def _no_answer(self, kind: str, asked: float) -> None:
        with self._lock:
            seen = self._seen
            seen.blind = kind == "foreign"
            if kind != "refused":
                seen.refused_since = None
            elif seen.refused_since is None:
                seen.refused_since = asked

    def _confirm(self, status: DaemonStatus, asked: float) -> None:
        seen, space = self._seen, status.spaces.get(self._lease.lockspace)
        seen.refused_since = None
        seen.blind = space is not None and space.renewed_ago is None
        if space is None or space.renewed_ago is None:
            return
        seen.io_timeout = float(space.io_timeout)
        seen.confirmed_at = asked - space.renewed_ago - WHOLE_SECOND
        seen.sleeps = [(at, seconds) for at, seconds in seen.sleeps if at >= seen.confirmed_at]

    def _register(self, watched: _Watched, status: DaemonStatus, asked: float) -> None:
        pid, before = watched.process.pid, watched.registration
        space = status.spaces.get(self._lease.lockspace)
        known = pid in status.clients
        holds = (self._lease.lockspace, self._lease.key, pid) in status.held
        host_id, generation = (0, 0) if space is None else (space.host_id, space.generation)
        now = Registration(known, holds, host_id, generation, asked, asked)
        if before is not None and _answer(before) == _answer(now):
            now = Registration(known, holds, host_id, generation, before.since, asked)
        watched.registration = now
        watched.held = watched.held or holds

    # --- judging ----------------------------------------------------------------------------------------------------

    def _judge(self, watched: _Watched, now: float) -> Verdict:
        return fencing.judge(self._facts(watched, now), self._timers)

    def _facts(self, watched: _Watched, now: float) -> GuardFacts:
        seen, scale = self._seen, self._clock.scale
        registration = watched.registration
        if registration is not None and now - registration.at > STALE_ANSWERS * self._timers.guard_poll:
            registration = None
        age = self._seams.age(watched.process) * scale
        newborn = registration is not None and not registration.known and age < NEWBORN_FLOOR * scale
        return GuardFacts(
            now=now,
            copy=Copy(watched.process.pid, age, watched.process.incoming, watched.held),
            io_timeout=seen.io_timeout,
            confirmed_at=watched.first_seen if seen.confirmed_at is None else seen.confirmed_at,
            refused_since=seen.refused_since,
            blind=seen.blind,
            slept=sum(seconds for _, seconds in seen.sleeps),
            longest_sleep=watched.longest_sleep,
            registration=None if newborn else registration,
            owner=seen.owner,
            suspended_until=max(self._suspended.values(), default=0.0),
            young=max(self._timers.guard_young, YOUNG_FLOOR * scale),
            stands_since=self._stands_since(watched, registration),
        )

    def _stands_since(self, watched: _Watched, registration: Optional[Registration]) -> Optional[float]:
        if watched.ran or registration is None or not registration.holds:
            return None
        ran = self._seams.ran(watched.process)
        watched.ran = ran is True
        room = max(0.0, STANDING_FLOOR * self._clock.scale - self._timers.guard_standing)
        return registration.since + room if ran is False else None

    def _order(self, verdict: Verdict, pid: int) -> None:
        if verdict.kind is not Kind.KILL or verdict.reason is None:
            self._seams.order(None, "guard")
            return
        self._seams.order(Fence(reasons.describe(verdict.reason), KILL_SECONDS, pid), "guard")

    def _is_reset_due(self, now: float) -> bool:
        with self._lock:
            return any(fencing.reset_due(self._facts(each, now), True) for each in self._copies.values())

    def _reset(self, due: bool) -> None:
        if due or self._resetting:
            self._resetting = due
            self._seams.reset(due)

    def _publish(self, report: GuardReport) -> None:
        with self._lock:
            before, self._report = self._report, report
        if _essence(before) == _essence(report):
            return
        bad = report.reason is not None or report.state == "blind"
        log.log(
            logging.WARNING if bad else logging.INFO,
            "guard: %s%s",
            report.state or "no copy here",
            f", {reasons.describe(report.reason)}" if report.reason is not None else "",
            extra={"HE_GUARD": report.state, "HE_REASON": report.reason.code if report.reason else ""},
        )
        self._seams.on_change()

    def loop(self, name: str, step: Callable[[], None], interval: float) -> Loop:
        """The thread of one question; without threads in a simulated world."""
        wall = self._clock.wall_seconds(interval)
        return Loop(name, step, self._clock, lambda: wall, lambda: self._timers.facts_stale)


def _answer(registration: Registration) -> Tuple[bool, bool, int, int]:
    return registration.known, registration.holds, registration.host_id, registration.generation


def _essence(report: GuardReport) -> Tuple[str, str]:
    return report.state, "" if report.reason is None else report.reason.code
