"""The only subscription to libvirt's events about the engine VM, and the regular look that makes up for lost ones.

Events say why something happened, a look says what is: an event takes effect together with the look that follows it, so
that one which is late or comes twice is never read alone. The watch survives restarts of libvirtd and adopts what runs
when it is started itself. The end of the VM's process is noticed through a pidfd in the same instant, also while
libvirt is away.
"""

import logging
import queue
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.core.model import EngineFacts, GuestCounters, LeaseId, Reading
from ovirt_he_ha.core.seams import Clock
from ovirt_he_ha.hypervisor.connection import Connection, HypervisorError, Native, Overdue, Unreachable
from ovirt_he_ha.hypervisor.domain_reader import STOP_MARK, DomainReader
from ovirt_he_ha.hypervisor.engine_life import MIGRATION, EngineLife, Look, Run
from ovirt_he_ha.hypervisor.process import EngineProcess, ExitWatch, ProcessTable

log = logging.getLogger(__name__)

POLL = 5.0  # product s between two looks
POLL_CLOSE = 1.0  # product s while a migration, a pause or an ending is under way, or libvirt is away
POLL_FLOOR = 0.25  # wall s: a look costs libvirtd 1-3 ms
EVENT_GAP = 0.05  # wall s between two looks that events ask for: a guest can make as many events as it likes
LOOK_DEADLINE = 5.0  # product s
STATS_DEADLINE = 2.0  # product s; a qemu that does not answer its monitor blocks this call, once
UNREACHABLE = "unreachable"
OVERDUE = "overdue"
ERROR = "error"

STOPPED_WORDS = {
    0: "shutdown",
    1: "destroyed",
    2: "crashed",
    3: "migrated",
    4: "saved",
    5: "failed",
    6: "from-snapshot",
}
SUSPEND_WORDS = {
    0: "user",
    1: MIGRATION,
    2: "ioerror",
    3: "watchdog",
    4: "restored",
    5: "from-snapshot",
    6: "api-error",
    7: "postcopy",
    8: "postcopy-failed",
}

Apply = Callable[[EngineLife], None]


class EngineWatch:
    """``facts()`` and ``counters()`` never block and are safe from any thread.

    ``lease``: what the running definition's lease is compared with. ``guard_lost()``: whether this host's hold of the
    lockspace is known to be lost; it must not block (it tells a VM that sanlock killed from one that crashed).
    """

    def __init__(
        self,
        uri: str,
        vmid: str,
        lease: Optional[LeaseId],
        clock: Clock,
        guard_lost: Optional[Callable[[], bool]] = None,
        table: Optional[ProcessTable] = None,
        poll: float = POLL,
    ) -> None:
        self._vmid = vmid.lower()
        self._clock = clock
        self._guard_lost = guard_lost if guard_lost is not None else lambda: False
        self._table = table if table is not None else ProcessTable()
        self._poll = poll
        self._lock = threading.Lock()
        self._life = EngineLife(clock.scale)
        self._problem = "not-yet"
        self._tried_at: Optional[float] = None
        self._good_at: Optional[float] = None
        self._lost_at: Optional[float] = None
        self._subscribed = 0
        self._look_at_job = True
        self._count_at = 0.0
        self._looked_at = 0.0  # wall s
        self._inbox: queue.SimpleQueue[Optional[Apply]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._on_change: Callable[[], None] = lambda: None
        self._thread: Optional[threading.Thread] = None
        self._exits = ExitWatch(self._process_exited, self._table)
        self._connection = Connection(uri, clock, self._subscribe, self._closed)
        self._statistics = Connection(uri, clock)
        self._reader = DomainReader(self._connection.libvirt, self._vmid, lease)

    def start(self, on_change: Callable[[], None]) -> None:
        """``on_change()`` is called from the watch's threads after every change; it should only wake somebody."""
        self._on_change = on_change
        self._thread = threading.Thread(target=self._run, name="engine-watch", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Returns False if a libvirt call still hangs after ``seconds`` of wall time (its thread is a daemon)."""
        self._stopping.set()
        self._inbox.put(None)
        self._exits.close()
        if self._thread is not None:
            self._thread.join(seconds)
        closed = [connection.close(seconds / 4) for connection in (self._connection, self._statistics)]
        return all(closed) and (self._thread is None or not self._thread.is_alive())

    def facts(self) -> Reading[EngineFacts]:
        """Unknown while libvirt does not answer (``unreachable``, ``overdue``, ``error``), except for what needs no
        libvirt: that the VM's process has ended since."""
        now = self._clock.monotonic()
        with self._lock:
            if self._problem and not self._ended_while_away():
                return Reading.missing(self._problem, None if self._tried_at is None else now - self._tried_at)
            age = 0.0 if self._good_at is None or self._problem else now - self._good_at
            return Reading.of(self._life.facts(now), max(0.0, age))

    def counters(self) -> Optional[GuestCounters]:
        """The last ones read of the copy that runs here."""
        with self._lock:
            return self._life.copy.counters if self._life.copy is not None else None

    def _ended_while_away(self) -> bool:
        facts = self._life.facts(self._clock.monotonic())
        since_loss = None if self._lost_at is None else self._clock.monotonic() - self._lost_at
        return (
            self._life.copy is None
            and since_loss is not None
            and facts.exit_age is not None
            and facts.exit_age <= since_loss
        )

    # --- the watch's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        events: List[Apply] = []
        while not self._stopping.is_set():
            before = self._signature()
            try:
                self._look(events)
                self._settle()
            except Exception:
                # No thread or descriptor left, or a defect. Without this thread nobody would see the VM any more.
                log.exception("The look at the engine VM failed; it is tried again", extra=throttled("defect"))
                self._note(ERROR, self._clock.monotonic())
            if self._signature() != before:
                self._on_change()
            events = self._wait()

    def _wait(self) -> List[Apply]:
        """Until the next look is due, or an event asks for one; what has arrived by then."""
        try:
            item = self._inbox.get(timeout=self._interval())
        except queue.Empty:
            return []
        self._stopping.wait(max(0.0, self._looked_at + EVENT_GAP - time.monotonic()))
        events: List[Apply] = [] if item is None else [item]
        for _ in range(self._inbox.qsize()):  # no more than there are now: they may come faster than they are taken
            item = self._inbox.get()
            if item is not None:
                events.append(item)
        return events

    def _interval(self) -> float:
        with self._lock:
            copy = self._life.copy
            close = bool(self._problem) or (
                copy is not None and (copy.over or copy.outgoing or copy.incoming or copy.run is not Run.RUNNING)
            )
        return max(POLL_FLOOR, (POLL_CLOSE if close else self._poll) / self._clock.scale)

    def _apply(self, item: Apply) -> None:
        lost = self._guard_lost()
        with self._lock:
            self._life.guard_lost = lost
            item(self._life)

    def _settle(self) -> None:
        now = self._clock.monotonic()
        self._apply(lambda life: _nothing(life.settle(now)))

    def _signature(self) -> Tuple[object, ...]:
        with self._lock:
            return (self._problem, *self._life.essence(self._clock.monotonic()))

    # --- looks ----------------------------------------------------------------------------------------------------

    def _look(self, events: List[Apply]) -> None:
        problem = ""
        look: Optional[Look] = None
        try:
            look = self._connection.call("look at the engine VM", self._look_native, LOOK_DEADLINE)
        except Overdue:
            problem = OVERDUE
        except Unreachable:
            problem = UNREACHABLE
        except HypervisorError as e:
            log.warning("The engine VM's state cannot be read: %s", e)
            problem = ERROR
        self._looked_at = time.monotonic()
        now = self._clock.monotonic()
        self._note(problem, now)
        self._accept(events, None if problem else lambda life: _seen(life, look, now))
        if problem:
            return
        if look is not None:
            self._doubt(look, now)
        self._find_process()
        if now >= self._count_at:
            self._count()
            self._count_at = now + self._poll

    def _accept(self, events: List[Apply], look: Optional[Apply]) -> None:
        """The events, and the look that was made after them, in one step."""

        def both(life: EngineLife) -> None:
            for item in events:
                item(life)
            if look is not None:
                look(life)

        self._apply(both)

    def _note(self, problem: str, now: float) -> None:
        with self._lock:
            if problem and not self._problem:
                self._lost_at = now
            if not problem:
                self._lost_at = None
                self._good_at = now
            self._problem = problem
            self._tried_at = now
            self._look_at_job = bool(problem)

    def _doubt(self, look: Look, now: float) -> None:
        """libvirt shows the copy whose process has ended, or a new one that got the same number from a restarted
        libvirtd."""
        with self._lock:
            doubtful = self._life.believed_over(look.domain_id)
        process = self._newest_process() if doubtful else None
        if process is not None:
            self._accept([lambda life: life.reborn(process, now)], lambda life: life.seen(look, now))

    def _newest_process(self) -> Optional[EngineProcess]:
        try:
            found = self._table.find(self._vmid)
        except OSError as e:
            log.warning("The process table cannot be read: %s", e)
            return None
        return max(found, key=lambda each: each.start_ticks, default=None)

    def _find_process(self) -> None:
        """The pid of a copy that has none yet; from then on its end is noticed without libvirt."""
        with self._lock:
            copy = self._life.copy
        if copy is None or copy.over:
            self._exits.watch(None)
            return
        if copy.process is not None:
            return
        process = self._newest_process()
        if process is None:
            return
        started_at = self._clock.monotonic() - self._table.age(process) * self._clock.scale
        self._apply(lambda life: life.adopt(process, started_at))
        self._exits.watch(process)
        self._count_at = 0.0  # a copy that is new here is counted at once

    def _count(self) -> None:
        with self._lock:
            copy = self._life.copy
        if copy is None or copy.over:
            return
        stat = self._table.stat(copy.process.pid) if copy.process is not None else None
        requests: Optional[int] = None
        try:
            requests = self._statistics.call("count its disk requests", self._reader.requests, STATS_DEADLINE)
        except HypervisorError as e:
            log.debug("The engine VM's disk counters cannot be read: %s", e)
        counters = GuestCounters(self._clock.monotonic(), None if stat is None else stat.cpu, requests)
        self._apply(lambda life: life.counted(counters))

    def _look_native(self, native: Native) -> Optional[Look]:
        with self._lock:
            copy = self._life.copy
            ask_job = self._look_at_job or copy is None or copy.outgoing or copy.incoming
        return self._reader.look(native, ask_job)

    # --- events (libvirt's thread: record, and leave) -------------------------------------------------------------

    def _subscribe(self, native: Native, number: int) -> None:
        libvirt = self._connection.libvirt
        with self._lock:
            self._subscribed = number
            self._look_at_job = True
        handlers: Dict[int, Callable[..., Optional[Apply]]] = {
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: self._lifecycle,
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: self._reboot,
            libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: self._look_again,
            libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION: self._iteration,
            libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED: self._job_completed,
            libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: self._metadata_change,
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: self._agent_lifecycle,
        }
        for event, handler in handlers.items():
            native.domainEventRegisterAny(None, event, self._receive, (number, handler))

    def _receive(self, native: Native, domain: Any, *rest: Any) -> None:
        *values, (number, handler) = rest
        if number != self._subscribed or domain.UUIDString() != self._vmid:
            return
        item = handler(self._clock.monotonic(), *values)
        if item is not None:
            self._inbox.put(item)

    def _lifecycle(self, now: float, event: int, detail: int) -> Optional[Apply]:
        libvirt = self._connection.libvirt
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            incoming = detail == libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED
            return lambda life: life.started(now, incoming)
        if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            return lambda life: life.resumed(now)
        if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            return lambda life: life.suspended(now, SUSPEND_WORDS.get(detail, "unknown"))
        if event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
            by_guest = detail != libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST
            return lambda life: life.powered_off(by_guest)
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            return lambda life: life.stopped(STOPPED_WORDS.get(detail, "failed"), now)
        return self._look_again(now)

    def _reboot(self, now: float) -> Optional[Apply]:
        return lambda life: life.rebooted(now)

    def _iteration(self, now: float, iteration: int) -> Optional[Apply]:
        return lambda life: life.migrating_out()

    def _job_completed(self, now: float, parameters: object) -> Optional[Apply]:
        return lambda life: life.migration_done()

    def _metadata_change(self, now: float, kind: int, namespace: Optional[str]) -> Optional[Apply]:
        return (lambda life: life.stop_requested(now)) if namespace == STOP_MARK else None

    def _agent_lifecycle(self, now: float, state: int, reason: int) -> Optional[Apply]:
        connected = state == self._connection.libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
        return lambda life: life.agent(connected)

    def _look_again(self, now: float, *values: object) -> Optional[Apply]:
        return lambda life: None

    def _closed(self, number: int) -> None:
        if number == self._subscribed:
            self._inbox.put(lambda life: None)

    def _process_exited(self, process: EngineProcess) -> None:
        """On the exit watch's thread: the watch's own may be inside a libvirt call that waits for this very qemu."""
        now = self._clock.monotonic()
        before = self._signature()
        self._apply(lambda life: life.process_gone(process, now))
        if self._signature() != before:
            self._on_change()
        self._inbox.put(lambda life: None)


def _seen(life: EngineLife, look: Optional[Look], now: float) -> None:
    if look is None:
        life.absent(now)
    else:
        life.seen(look, now)


def _nothing(value: object) -> None:
    """A statement in a lambda's place."""
