"""The product's own lockspace code over a simulated daemon: its binding, its status answer, and its loops without
threads."""

import errno
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Type

from ovirt_he_ha.core.model import HostLease, LeaseId, LockspaceState
from ovirt_he_ha.lease.binding import Disks
from ovirt_he_ha.lease.daemon_status import DEADLINE, DaemonStatus, NoStatus
from ovirt_he_ha.lease.daemon_status import Space as StatusSpace
from ovirt_he_ha.lease.lockspace import SanlockLockspaces, _Measured, _state
from ovirt_he_ha.lease.loops import Loop
from ovirt_he_ha.lease.membership import Membership
from ovirt_he_ha.sim.clock import SECOND, Beat, HostClock, Scope, Timeline, ns
from ovirt_he_ha.sim.sanlock import HOSTS_AFTER, Hanging, Sanlock, SanlockCode, Space

_FLAGS = {HostLease.UNKNOWN: 1, HostLease.FREE: 2, HostLease.LIVE: 3, HostLease.FAIL: 4, HostLease.DEAD: 5}

Daemon = Callable[[], Optional[Sanlock]]
WHOLE_WAY = 8


class SanlockBinding:
    """The Python binding of one host, whichever daemon runs there now; ``daemon()`` is None when none does."""

    SanlockException: Type[Exception] = SanlockCode
    LSFLAG_ADD = 1
    LSFLAG_REM = 2

    def __init__(self, daemon: Daemon, timeline: Timeline) -> None:
        self._daemon = daemon
        self._timeline = timeline

    def _ask(self, what: str) -> Sanlock:
        daemon = self._daemon()
        if daemon is None:
            raise SanlockCode(errno.ECONNREFUSED, what, "Connection refused")
        if daemon.hung_until > self._timeline.now:
            raise Hanging(daemon.hung_until)
        return daemon

    def add_lockspace(self, lockspace: bytes, host_id: int, path: str, *, wait: bool = True) -> None:
        raise NotImplementedError("a join that blocks is LaterMembership's")

    def rem_lockspace(self, lockspace: bytes, host_id: int, path: str, *, unused: bool = False) -> None:
        self._ask("rem_lockspace").leave(lockspace.decode(), unused)

    def get_lockspaces(self) -> List[Dict[str, Any]]:
        daemon = self._ask("get_lockspaces")
        return [_listed(space) for space in daemon.spaces.values()]

    def get_hosts(self, lockspace: bytes, host_id: int = 0) -> List[Dict[str, Any]]:
        daemon = self._ask("get_hosts")
        space = daemon.spaces.get(lockspace.decode())
        if space is None or not (space.held or space.failed):
            raise SanlockCode(errno.ENOENT, "get_hosts", "No such file or directory")
        if self._timeline.now - space.joined_at < ns(HOSTS_AFTER):
            raise SanlockCode(errno.EAGAIN, "get_hosts", "Resource temporarily unavailable")
        known = space.seen or {}
        if host_id and host_id not in known:
            return [{"host_id": host_id, "generation": 0, "timestamp": 0, "io_timeout": 0, "flags": 2}]
        return [
            {
                "host_id": each,
                "generation": space.generation if each == space.host_id else space.generations.get(each, 0),
                "timestamp": seen[0] // SECOND,
                "io_timeout": daemon.io,
                "flags": _FLAGS[daemon.flag(space, each)],
            }
            for each, seen in sorted(known.items())
            if each == host_id or (seen[0] and not host_id)  # an id that nobody has is not listed
        ]

    def read_resource_owners(
        self, lockspace: bytes, resource: bytes, disks: Disks, *, align: int = 0, sector: int = 0
    ) -> List[Dict[str, Any]]:
        daemon = self._ask("read_resource_owners")
        if daemon.path.lease_hang_until > self._timeline.now:
            raise Hanging(daemon.path.lease_hang_until)
        if daemon.path.lease_error:
            raise SanlockCode(-202, "read_resource_owners", "Sanlock I/O error")
        owner = daemon.disk.owner
        if not owner.host_id:
            return []
        found = {"host_id": owner.host_id, "generation": owner.generation, "timestamp": owner.timestamp}
        return [{**found, "io_timeout": 0, "flags": 0}]

    def write_lockspace(self, lockspace: bytes, path: str, *, align: int = 0, sector: int = 0) -> None:
        self._ask("write_lockspace").disk.ids.pop(lockspace.decode(), None)

    def write_resource(
        self, lockspace: bytes, resource: bytes, disks: Disks, *, align: int = 0, sector: int = 0
    ) -> None:
        raise SanlockCode(errno.EPERM, "write_resource", "no daemon of ours does that")


def _listed(space: Space) -> Dict[str, Any]:
    flags = 2 if space.leaving and not space.failed else (0 if space.held or space.failed else 1)
    return {"lockspace": space.name.encode(), "host_id": space.host_id, "path": space.path, "flags": flags}


def status_of(daemon: Daemon, timeline: Timeline, lease: LeaseId) -> Callable[[], DaemonStatus]:
    """The daemon's status command; raises NoStatus. Bounded: one that hangs is given up after 2 s."""

    def ask() -> DaemonStatus:
        found = daemon()
        if found is None:
            raise NoStatus("refused", "/run/sanlock", "nobody listens")
        if found.hung_until > timeline.now:
            timeline.spend(DEADLINE)
            raise NoStatus("overdue", "/run/sanlock", f"no answer within {DEADLINE:g} s")
        spaces = {
            # One that is being joined is there, too: never renewed.
            space.name: StatusSpace(space.host_id, space.generation, found.io, _renewed_ago(space, timeline))
            for space in found.spaces.values()
        }
        held = tuple((lease.lockspace, lease.key, pid) for pid in sorted(found.held))
        return DaemonStatus(found.watchdog, spaces, tuple(sorted(found.holders)), held, f"{found.started}")

    return ask


def _renewed_ago(space: Space, timeline: Timeline) -> int:
    return max(0, timeline.now // SECOND - space.renewed // SECOND)


class EventLoop(Loop):
    """One of the product's loops, turned by events. A step that hangs is asked again when the hang ends; until then
    others see it overdue. ``dormant()``: the steps would look at nothing, so they wait for :meth:`wake`."""

    def __init__(
        self,
        name: str,
        step: Callable[[], None],
        clock: HostClock,
        timeline: Timeline,
        scope: Scope,
        interval: Callable[[], float],
        limit: Callable[[], float],
        dormant: Optional[Callable[[], bool]] = None,
    ) -> None:
        self.name = name
        self._step = step
        self._clock = clock
        self._rate = clock.rate
        self._timeline = timeline
        self._interval = interval
        self._limit = limit
        self._dormant = dormant
        self._since = None
        self._finished = None
        self._joining: Optional[Callable[[], bool]] = None
        self._beat = Beat(timeline, scope, self._turn)

    def start(self) -> None:
        self._beat.wake()

    def wake(self) -> None:
        self._beat.wake()

    def stop(self) -> None:
        self._beat.stop()

    def join(self, timeout: float) -> bool:
        return True

    def _turn(self) -> Optional[float]:
        began = self._clock.monotonic()
        if self._since is None:
            self._since = began
        try:
            self._step()
        except Hanging as hang:
            return (hang.until - self._timeline.now) / SECOND
        if self._joining is not None and self._joining():
            return None  # the step goes on; LaterMembership ends it
        timeline = self._timeline
        self._finished = began if timeline.shown == timeline.now else self._clock.monotonic()
        self._since = None
        if self._dormant is not None and self._dormant():
            return None
        return self._interval() / self._rate  # as clock.world

    def ended(self) -> None:
        self._finished = self._clock.monotonic()
        self._since = None

    @property
    def now(self) -> int:
        return self._timeline.now


class LaterMembership(Membership):
    """A join that blocks is an event that comes later; meanwhile its loop stands, as the thread would."""

    daemon: Daemon
    loop: EventLoop
    _calm: Tuple[object, ...] = ()  # what was so when a step last found it held
    _left_out = 0

    def step(self) -> None:
        """The product's. One that would see what the last one saw, and say it again, is left out, but for every
        eighth: that one must change nothing."""
        daemon = self.daemon()
        space = None if daemon is None else daemon.spaces.get(self.name)
        if daemon is None or space is None or space.leaving or daemon.hung_until > self.loop.now:
            super().step()
            return
        seen = (space, space.held, space.path, space.host_id, self._target, self._ours, self._status)
        if seen == self._calm:
            self._left_out += 1
            if self._left_out % WHOLE_WAY:
                return
            super().step()
            if (self._ours, self._status) != seen[-2:]:
                raise AssertionError(f"lockspace {self.name}: not what the last look saw: {self._status}")
            return
        super().step()
        held = self._status.state is LockspaceState.HELD and self.daemon() is daemon
        self._calm = (*seen[:-2], self._ours, self._status) if held else ()

    def _join(self, target: int) -> None:
        if not self.begin_join(target):
            return
        daemon = self.daemon()
        if daemon is None:
            self.end_join(target, SanlockCode(errno.ECONNREFUSED, "add_lockspace", "Connection refused"))
            return
        daemon.join(self.name, target, self.path, lambda refusal: self._answered(daemon, target, refusal))

    def _answered(self, daemon: Sanlock, target: int, refusal: Optional[SanlockCode]) -> None:
        if not self.joining:
            return
        self.end_join(target, refusal)
        self.loop.ended()
        self.loop.wake()

    def daemon_died(self) -> None:
        """Whoever waits for the daemon's answer gets an error."""
        if self.joining and self._target is not None:
            self._answered_by_nobody(self._target)

    def _answered_by_nobody(self, target: int) -> None:
        self.end_join(target, SanlockCode(errno.ECONNRESET, "add_lockspace", "Connection reset by peer"))
        self.loop.ended()
        self.loop.wake()


class EventLockspaces(SanlockLockspaces):
    """``facts`` and everything behind it is the product's; only time, threads and the daemon are not."""

    _said: Optional[Tuple[object, ...]] = None  # of the hosts, when they were last looked at
    _seen: Optional[Tuple[object, ...]] = None  # what that was made of, if it was taken to pieces
    _said_until = 0
    _left_out = 0

    def __init__(
        self,
        lease: LeaseId,
        clock: HostClock,
        timeline: Timeline,
        scope: Scope,
        daemon: Daemon,
        ids_path: str,
        whiteboard_path: str,
        **how: Any,
    ) -> None:
        self._timeline = timeline
        self._scope = scope
        self._daemon = daemon
        super().__init__(lease, ids_path, whiteboard_path, clock, api=SanlockBinding(daemon, timeline), **how)
        for member, loop in ((self._domain, self._domain_loop), (self._whiteboard, self._whiteboard_loop)):
            if isinstance(member, LaterMembership) and isinstance(loop, EventLoop):
                member.loop = loop
                loop._joining = lambda member=member: member.joining

    def membership(self, name: str, path: str, **how: Any) -> Membership:
        member = LaterMembership(name, path, self._api, self._changed, **how)
        member.daemon = self._daemon
        return member

    def loop(self, name: str, step: Callable[[], None], limit: Callable[[], float]) -> Loop:
        clock = self._clock
        assert isinstance(clock, HostClock)
        return EventLoop(name, step, clock, self._timeline, self._scope, self._interval, limit)

    def _interval(self) -> float:
        """The product's; a simulated clock's scale is 1."""
        return self._alert_poll if self._alert else self._calm_poll

    def _look_at_hosts(self) -> None:
        """The product's. What sanlock would answer as it did the last time is not taken to pieces again, but for every
        eighth time: then the same must come out."""
        now, seen = self._timeline.now, self._seen_of_hosts()
        as_before = seen is not None and seen == self._seen and now <= self._said_until
        said = self._said if as_before else self._said_of_hosts()
        measured = self._hosts
        if said is None or said != self._said or measured.value is None or self._asked != self._own_generation:
            self._said, self._seen = said, None
            super()._look_at_hosts()
            return
        self._left_out += 1
        at = self._clock.monotonic()
        self._hosts = _Measured(measured.value, measured.unknown, at)
        if not as_before:
            self._seen, self._said_until = seen, self._flags_until()
            self.note_renewals(self._renewed(), at)
        self.look_at_own_renewal()
        if self._left_out % WHOLE_WAY == 0:
            short = self._known_of_hosts()
            super()._look_at_hosts()
            if short != self._known_of_hosts():
                raise AssertionError(f"sanlock's hosts are not what the last look saw: {self._hosts}")

    def _seen_of_hosts(self) -> Optional[Tuple[object, ...]]:
        """What of sanlock's answer does not come with time alone; None: it cannot be asked."""
        daemon = self._daemon()
        space = None if daemon is None else daemon.spaces.get(self._lease.lockspace)
        if daemon is None or space is None or daemon.hung_until > self._timeline.now:
            return None
        return daemon, space, space.held, space.news, self._host_id, self._owner.value

    def _flags_until(self) -> int:
        daemon = self._daemon()
        space = None if daemon is None else daemon.spaces.get(self._lease.lockspace)
        return self._timeline.now if daemon is None or space is None else daemon.flags_until(space)

    def own_renewal(self) -> Optional[int]:
        """As the status command says it, without making the rest of its answer."""
        daemon = self._daemon()
        space = None if daemon is None else daemon.spaces.get(self._lease.lockspace)
        return None if space is None else _renewed_ago(space, self._timeline)

    def _known_of_hosts(self) -> Tuple[object, ...]:
        return (
            self._hosts, dict(self._renewals), self._own_generation, self._io_timeout, self._asked, self._armed,
            self._left,
        )  # fmt: skip

    def _renewed(self) -> Iterator[Tuple[int, int]]:
        daemon = self._daemon()
        space = None if daemon is None else daemon.spaces.get(self._lease.lockspace)
        seen = (space.seen if space is not None else None) or {}
        return ((host_id, each[0] // SECOND) for host_id, each in seen.items() if each[0])

    def _said_of_hosts(self) -> Optional[Tuple[object, ...]]:
        daemon = self._daemon()
        if daemon is None or daemon.hung_until > self._timeline.now:
            return None
        space = daemon.spaces.get(self._lease.lockspace)
        if space is None or not space.held or self._timeline.now - space.joined_at < ns(HOSTS_AFTER):
            return None
        found: List[object] = [space, self._host_id, self._owner.value]
        for host_id in space.seen or ():
            found += (host_id, space.generations.get(host_id), daemon.flag(space, host_id))
        return tuple(found)

    def domain_state(self) -> Optional[LockspaceState]:
        """As ``facts().lockspace.value``."""
        return _state(self._domain, self._domain_loop).value

    @property
    def alert(self) -> bool:
        """As it was last set."""
        return self._alert

    def listed(self) -> Optional[Mapping[int, HostLease]]:
        """As ``facts().hosts.value``."""
        return None if self._hosts_loop.overdue else self._hosts.value

    def leave(self, deadline: float) -> None:
        for each in (self._domain, self._whiteboard):
            each.want(None)
            try:
                each.leave()
            except Hanging:
                self._timeline.spend(deadline)
        self.given_back()

    def daemon_died(self) -> None:
        for each in (self._domain, self._whiteboard):
            if isinstance(each, LaterMembership):
                each.daemon_died()
