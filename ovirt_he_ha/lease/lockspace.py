"""Both lockspaces of this host, who else lives in them, and who owns the VM's lease: looked at all the time, never
waited for."""

import errno
import logging
import threading
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Callable, Dict, Generic, Iterable, Mapping, Optional, Tuple, TypeVar

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.core.fencing import WORRYING
from ovirt_he_ha.core.liveness import LATE
from ovirt_he_ha.core.model import (
    MAX_HOST_ID,
    HostLease,
    LeaseFacts,
    LeaseId,
    LeaseOwner,
    LockspaceState,
    Reading,
)
from ovirt_he_ha.core.seams import Lockspaces
from ovirt_he_ha.lease import daemon_status, vm_lease, watchdog
from ovirt_he_ha.lease.binding import Sanlock, code_of, load, text_of
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus
from ovirt_he_ha.lease.loops import Loop
from ovirt_he_ha.lease.membership import Membership, leave_all
from ovirt_he_ha.lease.reset_watch import ResetWatch
from ovirt_he_ha.lease.watchdog import Tie

log = logging.getLogger(__name__)

T = TypeVar("T")

WHITEBOARD = "hosted-engine"
ALERT = 1.0  # product seconds between two looks while somebody waits for a dead owner
CALM = 5.0  # otherwise
# The owner's record, then: nobody starts the VM on what it says while all is calm, and who runs the VM audits it by
# himself. Younger than what counts as known (25 s), so that the first decision after the calm has it.
OWNER_CALM = 10.0
HUNG = 10.0  # a question to the daemon takes milliseconds, the owner one read of the storage
JOIN_LIMIT = 20.0  # io_timeouts that a join may take: 14 while another host is watched, and room
HUNG_FLOOR = 2.0  # wall seconds: a busy machine does not become faster when the lab's clock does
WHOLE_SECOND = 1.0  # sanlock counts whole ones: its "0 s ago" is up to one old
ASK_AGAIN = 60.0  # product seconds until sanlock's program is started again when it did not tell
_HOST = throttled("host")
FLAGS = {
    1: HostLease.UNKNOWN,
    2: HostLease.FREE,
    3: HostLease.LIVE,
    4: HostLease.FAIL,
    5: HostLease.DEAD,
}


@dataclass(frozen=True)
class _Measured(Generic[T]):
    value: Optional[T] = None
    unknown: str = "not-yet"
    at: Optional[float] = None


@dataclass(frozen=True)
class _Renewal:
    """A host's last renewal as sanlock saw it: what it wrote, and when we first saw that. sanlock itself counts the
    silence of a host that it never saw renew from its own first look."""

    timestamp: int
    at: float


@dataclass(frozen=True)
class _Left:
    """A host that sanlock calls FREE, and since when it says so of this generation."""

    host_id: int
    generation: int
    at: float


class SanlockLockspaces(Lockspaces):
    """Four threads: one per lockspace (a join blocks), one for the hosts (the daemon's memory), one for the owner (the
    storage).

    ``may_join`` is asked before the storage domain's lockspace is joined (see Membership). ``on_change`` is called
    from these threads when something in ``facts`` changed, ages apart; it must not block. ``ask_watchdog`` is asked
    once per join; ``reset_watch`` remembers what it said. ``ask_status`` is asked at every look at the hosts for this
    host's own renewal (the host list shows it a whole renewal, 20 s, late); it raises NoStatus. ``read_owner`` reads
    the owner from the volume and raises LeaseUnreadable (sanlock's own call reads 1 MiB each time, and is what is used
    without it). Raises SanlockMissing when the binding is not installed.
    """

    def __init__(
        self,
        lease: LeaseId,
        ids_path: str,
        whiteboard_path: str,
        clock: Optional[SystemClock] = None,
        *,
        sector_size: int = 512,
        alert_poll: float = ALERT,
        calm_poll: float = CALM,
        may_join: Callable[[], bool] = lambda: True,
        on_change: Callable[[], None] = lambda: None,
        ask_watchdog: Callable[[], Optional[Tie]] = watchdog.tie,
        reset_watch: Optional[ResetWatch] = None,
        ask_status: Callable[[], DaemonStatus] = daemon_status.ask,
        read_owner: Optional[Callable[[], LeaseOwner]] = None,
        api: Optional[Sanlock] = None,
    ) -> None:
        self._api = api or load()
        self._lease = lease
        self._clock = clock or SystemClock()
        self._sector_size = sector_size
        self._alert_poll = alert_poll
        self._calm_poll = calm_poll
        self._on_change = on_change
        self._ask_watchdog = ask_watchdog
        self._reset_watch = reset_watch or ResetWatch(self._clock)
        self._ask_status = ask_status
        self._read_owner = read_owner or (lambda: vm_lease.owner(self._lease, self._sector_size, self._api))
        self._alert = False
        self._host_id: Optional[int] = None
        self._io_timeout = 10
        self._own_generation: Optional[int] = None
        self._armed: Optional[bool] = None
        self._asked: Optional[int] = None  # the generation in which sanlock was asked for its watchdog
        self._ask_again_at = 0.0
        self._owner_due = 0.0
        self._hosts: _Measured[Mapping[int, HostLease]] = _Measured()
        self._renewals: Dict[int, _Renewal] = {}
        self._left: Optional[_Left] = None  # the host of the lease's owner
        self._renewed_at: Optional[float] = None  # this host's own, by sanlock's word
        self._owner: _Measured[LeaseOwner] = _Measured()
        self._starting = threading.Lock()
        self._started = False
        self._domain = self.membership(lease.lockspace, ids_path, may_join=may_join, only_unused=True)
        self._whiteboard = self.membership(WHITEBOARD, whiteboard_path)
        self._domain_loop = self.loop("lockspace domain", self._domain.step, self._join_limit(self._domain))
        self._whiteboard_loop = self.loop("lockspace", self._whiteboard.step, self._join_limit(self._whiteboard))
        self._hosts_loop = self.loop("lease hosts", self._look_at_hosts, self._hung)
        self._owner_loop = self.loop("lease owner", self._look_at_owner, self._hung)
        self._loops = (self._domain_loop, self._whiteboard_loop, self._hosts_loop, self._owner_loop)

    # --- the seam -------------------------------------------------------------------------------------------------

    def want(self, host_id: int) -> None:
        """1..2000; ValueError otherwise. What this process holds under another id is given back first."""
        if not 1 <= host_id <= MAX_HOST_ID:
            raise ValueError(f"host id {host_id}: expected 1 to {MAX_HOST_ID}")
        self._host_id = host_id
        for each in (self._domain, self._whiteboard):
            each.want(host_id)
        with self._starting:
            if not self._started:
                self._started = True
                for loop in self._loops:
                    loop.start()
        self._wake()

    def set_alert(self, alert: bool) -> None:
        """Somebody waits for a dead owner: look every second."""
        if alert != self._alert:
            self._alert = alert
            self._wake()

    def use_sector_size(self, sector_size: int) -> None:
        """The domain's, once it could be looked at: 512 or 4096. Until then the constructor's counts."""
        self._sector_size = sector_size

    def facts(self) -> LeaseFacts:
        now = self._clock.monotonic()
        owner, left = self._owner.value, self._left
        if owner is None or (left is not None and left.host_id != owner.host_id):
            left = None  # it is of the owner before
        lockspace, whiteboard = self.states()
        return LeaseFacts(
            lockspace=lockspace,
            whiteboard=whiteboard,
            hosts=_reading(self._hosts, self._hosts_loop, now),
            owner=_reading(self._owner, self._owner_loop, now),
            own_generation=self._own_generation,
            io_timeout=self._io_timeout,
            watchdog_armed=self._armed,
            reset_within=self._reset_watch.within(),
            owner_silent=self._owner_silent(now),
            joining_for=self._joining_for(),
            renewed_ago=None if self._renewed_at is None else max(0.0, now - self._renewed_at),
            owner_left=None if left is None else left.generation,
            owner_left_for=None if left is None else max(0.0, now - left.at),
        )

    def states(self) -> "Tuple[Reading[LockspaceState], Reading[LockspaceState]]":
        return _state(self._domain, self._domain_loop), _state(self._whiteboard, self._whiteboard_loop)

    def _joining_for(self) -> Optional[float]:
        pairs = ((self._domain, self._domain_loop), (self._whiteboard, self._whiteboard_loop))
        return max((loop.busy_for() or 0.0 for member, loop in pairs if member.joining), default=None)

    def _owner_silent(self, now: float) -> Optional[float]:
        owner = self._owner.value
        renewal = None if owner is None else self._renewals.get(owner.host_id)
        silent = 0.0 if renewal is None else now - renewal.at
        return silent if silent >= LATE * self._io_timeout else None

    def problems(self) -> Mapping[str, str]:
        """Lockspace -> what its state alone does not say; for status and journal."""
        members = (self._domain, self._whiteboard)
        return {each.name: each.status.detail for each in members if each.status.detail}

    def leave(self, deadline: float) -> None:
        """Returns by ``deadline`` wall seconds; what hangs goes on behind it. Nothing is joined again before
        ``want``."""
        for each in (self._domain, self._whiteboard):
            each.want(None)
        leaving = threading.Thread(target=self.give_back, name="leave", daemon=True)
        leaving.start()
        leaving.join(deadline)

    def give_back(self) -> None:
        """What ``leave`` does on its own thread."""
        leave_all((self._domain, self._whiteboard))
        self.given_back()

    def given_back(self) -> None:
        """sanlock has answered both leaves."""
        members = (self._domain, self._whiteboard)
        if all(each.status.state is LockspaceState.NOT_HELD for each in members):
            self._reset_watch.left()

    def close(self) -> None:
        """End the threads that can end."""
        for loop in self._loops:
            loop.stop()

    # --- what the threads do --------------------------------------------------------------------------------------

    def _look_at_hosts(self) -> None:
        try:
            found = self._api.get_hosts(self._lease.lockspace.encode())
        except self._api.SanlockException as error:
            code = code_of(error)
            why = {errno.ENOENT: "not-held", errno.EAGAIN: "not-yet"}.get(code, "error")
            if why == "error":
                log.warning(
                    "hosts of lockspace %s: %s", self._lease.lockspace, text_of(error), extra=throttled("hosts")
                )
            self._own_generation = self._asked = self._armed = None
            self._renewals = {}
            self._renewed_at = self._left = None
            self._set_hosts(_Measured(None, why, self._clock.monotonic()))
            return
        flags = {int(host["host_id"]): FLAGS.get(int(host["flags"]), HostLease.UNKNOWN) for host in found}
        own = next((host for host in found if host["host_id"] == self._host_id), None)
        if own is not None:
            self._own_generation = int(own["generation"])
            self._io_timeout = int(own["io_timeout"]) or self._io_timeout
        now = self._clock.monotonic()
        self.note_renewals(((int(host["host_id"]), int(host["timestamp"])) for host in found), now)
        self._look_for_owner(flags, now)
        self._set_hosts(_Measured(MappingProxyType(flags), "", now))
        if own is not None:
            self._look_at_watchdog()
        self.look_at_own_renewal()

    def _look_for_owner(self, flags: Mapping[int, HostLease], now: float) -> None:
        """The host of the lease's owner, where sanlock's list leaves it out, as it does with each that is FREE. What it
        left in the lease's own generation is kept, also when it is back: that generation is over."""
        owner, before = self._owner.value, self._left
        if owner is None or not owner.host_id:
            self._left = None
            return
        if before is not None and (before.host_id, before.generation) == (owner.host_id, owner.generation):
            return
        left: Optional[_Left] = None
        if flags.get(owner.host_id, HostLease.FREE) is HostLease.FREE:
            left = self._free(owner.host_id, now)
        if left is not None and before is not None:
            left = before if (left.host_id, left.generation) == (before.host_id, before.generation) else left
        self._left = left
        if left is not before:
            self._on_change()

    def _free(self, host_id: int, now: float) -> Optional[_Left]:
        """None: it is not, or sanlock does not say."""
        try:
            found = self._api.get_hosts(self._lease.lockspace.encode(), host_id)
        except self._api.SanlockException as error:
            log.warning("host %d in lockspace %s: %s", host_id, self._lease.lockspace, text_of(error), extra=_HOST)
            return None
        for host in found:
            if int(host["host_id"]) == host_id and FLAGS.get(int(host["flags"])) is HostLease.FREE:
                return _Left(host_id, int(host["generation"]), now)
        return None

    def look_at_own_renewal(self) -> None:
        """What is not told leaves what was known, which grows old. One that is no longer late is news: a start waits
        for it."""
        asked = self._clock.monotonic()
        ago, before = self.own_renewal(), self._renewed_at
        if ago is None:
            return
        self._renewed_at = asked - ago - WHOLE_SECOND
        limit = WORRYING * self._io_timeout
        if asked - self._renewed_at < limit and (before is None or asked - before >= limit):
            self._on_change()

    def own_renewal(self) -> Optional[int]:
        """sanlock's whole seconds since it last renewed this host's id; None: it does not say. Bounded by the deadline
        of one question (2 s)."""
        try:
            space = self._ask_status().spaces.get(self._lease.lockspace)
        except NoStatus:
            return None
        return None if space is None else space.renewed_ago

    def note_renewals(self, timestamps: Iterable[Tuple[int, int]], now: float) -> None:
        """What sanlock saw of each host: (host id, timestamp)."""
        seen = self._renewals
        listed = []
        for host_id, timestamp in timestamps:
            listed.append(host_id)
            known = seen.get(host_id)
            if known is None or known.timestamp != timestamp:
                seen[host_id] = _Renewal(timestamp, now)
        if len(seen) > len(listed):
            self._renewals = {host_id: seen[host_id] for host_id in listed}

    def _look_at_watchdog(self) -> None:
        """Once per join: a sanlock that was started again, with other options, has another generation."""
        now = self._clock.monotonic()
        if self._asked == self._own_generation or now < self._ask_again_at:
            return
        before, tie = self._armed, self._ask_watchdog()
        self._ask_again_at = now + ASK_AGAIN
        if tie is not None:
            self._asked = self._own_generation
            if tie.daemon:
                self._reset_watch.held_by(tie.daemon, tie.armed, 8.0 * self._io_timeout + LeaseFacts.watchdog)
        self._armed = None if tie is None else tie.armed  # not before it is known whether this host is to be reset
        if self._armed != before:
            self._on_change()

    def _set_hosts(self, measured: "_Measured[Mapping[int, HostLease]]") -> None:
        before, self._hosts = self._hosts, measured
        if (before.value, before.unknown) != (measured.value, measured.unknown):
            self._on_change()

    def _look_at_owner(self) -> None:
        now = self._clock.monotonic()
        if not self._alert and now < self._owner_due:
            return
        # Half a look early rather than half a look late: the thread comes round a little after its time.
        self._owner_due = now + (OWNER_CALM / CALM - 0.5) * self._calm_poll
        try:
            found = self._read_owner()
            measured = _Measured(found, "", self._clock.monotonic())
        except vm_lease.LeaseUnreadable as error:
            log.warning("%s", error, extra=throttled("owner"))
            measured = _Measured(None, "error", self._clock.monotonic())
        before, self._owner = self._owner, measured
        if (before.value, before.unknown) != (measured.value, measured.unknown):
            self._hosts_loop.wake()  # another owner may be one that is not listed
            self._on_change()

    # --- parts ----------------------------------------------------------------------------------------------------

    def membership(self, name: str, path: str, **how: Any) -> Membership:
        """A simulated world has its own: there, a join that blocks is an event that comes later."""
        return Membership(name, path, self._api, self._changed, **how)

    def loop(self, name: str, step: Callable[[], None], limit: Callable[[], float]) -> Loop:
        """The thread of one question; without threads in a simulated world."""
        return Loop(name, step, self._clock, self._interval, limit)

    def _hung(self) -> float:
        return max(HUNG, HUNG_FLOOR * self._clock.scale)

    def _interval(self) -> float:
        return self._clock.wall_seconds(self._alert_poll if self._alert else self._calm_poll)

    def _join_limit(self, member: Membership) -> Callable[[], float]:
        return lambda: JOIN_LIMIT * self._io_timeout if member.joining else self._hung()

    def _wake(self) -> None:
        self._owner_due = 0.0
        for loop in self._loops:
            loop.wake()

    def _changed(self) -> None:
        """A lockspace changed: its hosts and the lease in it are worth a look."""
        self._owner_due = 0.0
        self._hosts_loop.wake()
        self._owner_loop.wake()
        self._on_change()


def _state(member: Membership, loop: Loop) -> "Reading[LockspaceState]":
    state = member.status.state
    age = 0.0 if member.joining else loop.age()
    if loop.overdue:
        return Reading.missing("overdue", age)
    if state is LockspaceState.UNKNOWN:
        return Reading.missing("not-yet", age)
    return Reading.of(state, age or 0.0)


def _reading(measured: "_Measured[T]", loop: Loop, now: float) -> "Reading[T]":
    age = None if measured.at is None else max(0.0, now - measured.at)
    if loop.overdue:
        return Reading.missing("overdue", age)
    if measured.value is None:
        return Reading.missing(measured.unknown, age)
    return Reading.of(measured.value, age or 0.0)
