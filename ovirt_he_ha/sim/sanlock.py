"""sanlock: the leases on the shared storage, and one daemon per host, as they were measured.

Seconds below are in ``io`` = io_timeout (10 s by default). A join takes ``2 io + 1``. A renewal comes every ``2 io``
and reads all other hosts' leases. A host whose renewal was last *seen* to change ``8 io`` ago is FAIL, and DEAD
another ``watchdog`` seconds later; what is seen is up to ``2 io`` old, so a dead host's lease can be had 140 to 161 s
after its end. On the host itself, ``8 io`` after the last renewal that worked, sanlock signals whoever holds a lease:
SIGTERM every second, and SIGKILL another ``4 io`` later, unless it can renew again by then; if any of them is still
there at ``8 io + watchdog``, the watchdog resets the machine (up to 10 s earlier, as its last keepalive was up to 10 s
old).

A lease is granted when it is free, when it is the host's own, when its owner's host left its lockspace, or came back
under another generation (a restarted daemon that joined again: at once, whatever still runs there), or is DEAD. It is
refused at once while the owner was seen to renew within the last ``2 io``, and waited for otherwise.

Each of this is compared with the real daemon's doing by tests/contract/test_lease_reality.py.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Callable, Dict, List, Optional, Protocol, Tuple

from ovirt_he_ha.core.model import HostLease, LeaseOwner
from ovirt_he_ha.sim.clock import SECOND, Scope, Timeline, ns
from ovirt_he_ha.sim.volume import Path

GRACE = 4  # io_timeouts from SIGTERM to SIGKILL
SIGNAL_SECONDS = 0.2  # from the signal to the end of qemu
LEAVE_SECONDS = 2.0
KEEPALIVE = 10.0  # seconds between two keepalives of the watchdog daemon
FRESH = 2  # io_timeouts: an owner seen to renew since then is alive, and acquire says so at once
HOSTS_AFTER = 0.9  # seconds after a join in which the list of hosts is not there yet


@dataclass
class DeltaLease:
    """One host id of one lockspace, on the disk. ``renewed`` 0: free."""

    name: str
    generation: int
    renewed: int


class LeaseDisk:
    """What stands on the storage. ``owner``: the record of the VM's lease. ``on_owner`` is told of every change."""

    def __init__(self, io_timeout: int = 10, watchdog: int = 60) -> None:
        self.io_timeout = io_timeout
        self.watchdog = watchdog
        self.ids: Dict[str, Dict[int, DeltaLease]] = {}
        self.owner = LeaseOwner(0)
        self.on_owner: Callable[[LeaseOwner, LeaseOwner], None] = lambda before, after: None
        self.fail_after = ns(8 * io_timeout)
        self.dead_after = ns(8 * io_timeout + watchdog)

    def space(self, name: str) -> Dict[int, DeltaLease]:
        return self.ids.setdefault(name, {})

    def set_owner(self, owner: LeaseOwner) -> None:
        before, self.owner = self.owner, owner
        if before != owner:
            self.on_owner(before, owner)


class Holder(Protocol):
    """A process that may hold the lease: qemu."""

    pid: int
    lease: Tuple[int, int]  # host id and generation under which it last had the lease

    def signal(self, kill: bool) -> None:
        """SIGTERM or SIGKILL: it may be deaf to the first, and stuck for both."""
        ...


class SanlockCode(Exception):
    """As the binding's exception: ``args`` is (code, what failed, why)."""


class Hanging(BaseException):
    """The call does not return before ``until`` (world time). No error: whoever made it waits, and asks again."""

    def __init__(self, until: int) -> None:
        super().__init__(until)
        self.until = until


@dataclass
class Space:
    """One lockspace of one daemon. ``seen``: host id -> (renewal, when it was first seen here)."""

    name: str
    host_id: int
    path: str
    generation: int = 0
    held: bool = False
    leaving: bool = False
    failed: bool = False  # its renewals did; it is listed as before until nobody holds a lease in it
    renewed: int = 0
    joined_at: int = 0
    seen: Optional[Dict[int, Tuple[int, int]]] = None
    generations: Dict[int, int] = field(default_factory=dict)  # as they were when that renewal was seen
    looked: int = 0
    news: int = 0  # counts what changes in ``seen``, ``generations`` and ``generation``


Granted = Callable[[str], None]


@dataclass
class _Wait:
    holder: Holder
    done: Granted


class Sanlock:
    """One host's daemon, from its start to its end. ``owner_name`` is the host's unique name. ``reset`` is the
    machine's watchdog line."""

    def __init__(
        self,
        timeline: Timeline,
        scope: Scope,
        disk: LeaseDisk,
        path: Path,
        owner_name: str,
        random: Random,
        watchdog: bool,
        machine: "Machine",
    ) -> None:
        self.timeline = timeline
        self.scope = scope
        self.disk = disk
        self.path = path
        self.name = owner_name
        self.random = random
        self.watchdog = watchdog
        self.started = timeline.now
        self.machine = machine
        self.spaces: Dict[str, Space] = {}
        self.holders: Dict[int, Holder] = {}
        self.held: Dict[int, Tuple[int, int]] = {}  # pid -> (host id, generation) of the lease it holds
        self.hung_until = 0
        self._waits: List[_Wait] = []

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def io(self) -> int:
        return self.disk.io_timeout

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self.timeline.after(seconds, action, self.scope)

    @property
    def storage_works(self) -> bool:
        return self.hung_until <= self.timeline.now and self.path.lease_io(self.timeline.now)

    # --- lockspaces --------------------------------------------------------------------------------------------------

    def join(self, name: str, host_id: int, path: str, done: Callable[[Optional[SanlockCode]], None]) -> None:
        """``done(None)`` once it is held, ``done(why)`` when refused."""
        present = self.spaces.get(name)
        if present is not None:
            code = 17 if (present.host_id, present.path) == (host_id, path) else 22
            self._after(0.001, lambda: done(SanlockCode(code, "add_lockspace", "exists")))
            return
        other = next((each for each in self.spaces.values() if each.host_id != host_id), None)
        if other is not None:
            self._after(0.001, lambda: done(SanlockCode(22, "add_lockspace", "Invalid argument")))
            return
        space = Space(name, host_id, path)
        self.spaces[name] = space
        before = self.disk.space(name).get(host_id)
        foreign = before is not None and before.renewed and before.name != self.name
        if foreign and before is not None:
            self._watch_foreign(space, before.renewed, self.timeline.now, done)
        else:
            self._after(2 * self.io + 1, lambda: self._joined(space, done))

    def _watch_foreign(
        self, space: Space, renewed: int, since: int, done: Callable[[Optional[SanlockCode]], None]
    ) -> None:
        """The id belongs to somebody: only after the time in which he must be dead it is looked at again."""
        if self._gone(space):
            return
        left = since + self.disk.dead_after - self.timeline.now
        if left > 0:
            self._after(left / SECOND, lambda: self._watch_foreign(space, renewed, since, done))
            return
        lease = self.disk.space(space.name).get(space.host_id)
        if self.storage_works and lease is not None and lease.renewed not in (0, renewed):
            del self.spaces[space.name]
            done(SanlockCode(-262, "add_lockspace", "Sanlock host id is busy"))
        else:
            self._after(2 * self.io + 1, lambda: self._joined(space, done, renewed))

    def _joined(self, space: Space, done: Callable[[Optional[SanlockCode]], None], dead: int = 0) -> None:
        """``dead``: the last renewal of the one who had the id, and must be dead."""
        if self._gone(space):
            done(SanlockCode(-268, "add_lockspace", "removed"))
            return
        if not self.storage_works:
            del self.spaces[space.name]
            done(SanlockCode(-202, "add_lockspace", "Sanlock lockspace add failure, IO timeout"))
            return
        ids = self.disk.space(space.name)
        before = ids.get(space.host_id)
        if before is not None and before.name != self.name and before.renewed not in (0, dead):
            # Two joined at the same time: the second look shows who wrote first.
            self._watch_foreign(space, before.renewed, self.timeline.now, done)
            return
        space.generation = before.generation + 1 if before is not None else 1
        ids[space.host_id] = DeltaLease(self.name, space.generation, max(1, self.timeline.now))
        space.held = True
        space.renewed = space.joined_at = self.timeline.now
        space.seen = {}
        space.news += 1
        self._read_others(space)
        self._after(2 * self.io, lambda: self._renew(space))
        self._expire_later(space)
        self.machine.lockspace_joined(space)
        done(None)

    def _gone(self, space: Space) -> bool:
        return self.spaces.get(space.name) is not space

    def leave(self, name: str, unused: bool) -> None:
        """Raises SanlockCode. Whoever holds a lease in it is killed, unless ``unused`` was asked for."""
        space = self.spaces.get(name)
        if space is None:
            raise SanlockCode(2, "rem_lockspace", "No such file or directory")
        ours = [self.holders[pid] for pid in sorted(self.held)] if name == self.machine.lease_space else []
        if unused and ours:
            raise SanlockCode(16, "rem_lockspace", "Device or resource busy")
        space.leaving = True
        for holder in ours:
            holder.signal(kill=True)
        self._after(LEAVE_SECONDS, lambda: self._left(space))

    def _left(self, space: Space) -> None:
        if self._gone(space):
            return
        if self.held and space.name == self.machine.lease_space:
            self._after(1.0, lambda: self._left(space))
            return
        self._give_up(space)

    def _give_up(self, space: Space) -> None:
        """At once if the storage works or says no, and when it goes on if it hangs. If it works, the id is free."""
        if self._gone(space):
            return
        if not self.storage_works and not self.path.lease_error:
            self._after(1.0, lambda: self._give_up(space))
            return
        if self.storage_works:
            self._free_id(space)
        del self.spaces[space.name]

    def _free_id(self, space: Space) -> None:
        lease = self.disk.space(space.name).get(space.host_id)
        if lease is not None and lease.generation == space.generation and lease.name == self.name:
            lease.renewed = 0

    # --- renewals ----------------------------------------------------------------------------------------------------

    def _renew(self, space: Space) -> None:
        """While holders are being killed it goes on: a storage that is back in that time is renewed on, they see it
        LIVE, and SIGKILL does not come. Only their end ends the lockspace then."""
        if self._gone(space) or not (space.held or space.failed):
            return
        if not self.storage_works:
            self._after(self.io / 2 + self.random.random(), lambda: self._renew(space))
            return
        if space.held and self.timeline.now >= space.renewed + ns(8 * self.io):
            return  # it stood still for too long: it has failed, whatever the storage says now
        lease = self.disk.space(space.name).get(space.host_id)
        if lease is None or lease.name != self.name or lease.generation != space.generation:
            return  # somebody took this id: no renewal of ours counts any more
        lease.renewed = space.renewed = self.timeline.now
        self._read_others(space)
        self._look_at_waits()
        self._after(2 * self.io, lambda: self._renew(space))

    def _read_others(self, space: Space) -> None:
        space.looked = self.timeline.now
        for host_id in self.disk.space(space.name):
            self._look_at(space, host_id)

    def _look_at(self, space: Space, host_id: int) -> None:
        """Before a lease is taken its owner's host id is read anew: what is known of it may be ``2 io`` old."""
        lease = self.disk.space(space.name).get(host_id)
        if lease is None or space.seen is None:
            return
        known = space.seen.get(host_id)
        if known is None or known[0] != lease.renewed:
            space.seen[host_id] = (lease.renewed, self.timeline.now)
            space.generations[host_id] = lease.generation
            space.news += 1

    def _expire_later(self, space: Space) -> None:
        wait = space.renewed + ns(8 * self.io) - self.timeline.now
        self._after(max(wait, 0) / SECOND, lambda: self._expire(space))

    def _expire(self, space: Space) -> None:
        """``8 io`` after the last renewal that worked."""
        if self._gone(space) or not space.held:
            return
        if self.timeline.now < space.renewed + ns(8 * self.io):
            self._expire_later(space)
            return
        if self.hung_until > self.timeline.now:
            # It stands still: it signals nobody, and its watchdog gets no sign of life.
            self.machine.arm_watchdog(space)
            self._after(1.0, lambda: self._expire(space))
            return
        space.held = False
        space.leaving = space.failed = True
        self.machine.trace("sanlock: lockspace lost, its renewals failed")
        self.machine.arm_watchdog(space)
        self._kill_holders(space, kill=False)
        self._after(GRACE * self.io, lambda: self._kill_if_silent(space))
        self._await_end(space)

    def _kill_if_silent(self, space: Space) -> None:
        left = space.renewed + ns((8 + GRACE) * self.io) - self.timeline.now
        if left <= 0:
            self._kill_holders(space, kill=True)
        if not self._gone(space):
            self._after(max(left / SECOND, 1.0), lambda: self._kill_if_silent(space))

    def _kill_holders(self, space: Space, kill: bool) -> None:
        if space.name != self.machine.lease_space or self._gone(space) or self.hung_until > self.timeline.now:
            return
        for pid in sorted(self.held):
            self.holders[pid].signal(kill)

    def _await_end(self, space: Space) -> None:
        """Without holders the watchdog need not fire, and the lockspace is given up."""
        if self._gone(space):
            return
        if self.held and space.name == self.machine.lease_space:
            self._kill_holders(space, kill=False)  # SIGTERM comes every second
            self._after(1.0, lambda: self._await_end(space))
            return
        space.failed = False
        self._give_up(space)
        if not any(each.failed for each in self.spaces.values()):
            self.machine.disarm_watchdog()

    # --- hosts -------------------------------------------------------------------------------------------------------

    def flag(self, space: Space, host_id: int) -> HostLease:
        lease = space.seen.get(host_id) if space.seen else None
        if lease is None:
            return HostLease.UNKNOWN
        renewed, seen_at = lease
        if not renewed:
            return HostLease.FREE
        if host_id == space.host_id:
            return HostLease.LIVE
        silent = self.timeline.now - seen_at
        if silent > self.disk.dead_after:
            return HostLease.DEAD
        if silent > self.disk.fail_after:
            return HostLease.FAIL
        # Until a change was seen, nobody knows whether that renewal is of today.
        return HostLease.UNKNOWN if seen_at <= space.joined_at else HostLease.LIVE

    def flags_until(self, space: Space) -> int:
        """The last moment at which every flag is what it is now, if nothing new is seen."""
        now, limits = self.timeline.now, (self.disk.fail_after, self.disk.dead_after)
        ends = [
            seen_at + limit
            for host_id, (renewed, seen_at) in (space.seen or {}).items()
            if renewed and host_id != space.host_id
            for limit in limits
            if now <= seen_at + limit
        ]
        return min(ends, default=now)

    # --- the VM's lease ----------------------------------------------------------------------------------------------

    def register(self, holder: Holder) -> None:
        self.holders[holder.pid] = holder

    def acquire(self, holder: Holder, done: Granted) -> None:
        """``done("")``: granted. ``done("busy")``: somebody has it. ``done("error")``. May take minutes."""
        wait = _Wait(holder, done)
        self._waits.append(wait)
        self._try(wait)

    def waiting(self, holder: Holder) -> bool:
        return any(wait.holder is holder for wait in self._waits)

    def _try(self, wait: _Wait) -> None:
        if wait not in self._waits:
            return
        space = self.spaces.get(self.machine.lease_space)
        if space is None or not space.held or space.leaving:
            self._answer(wait, "error")
        elif not self.storage_works:
            if not self.path.lease_hang_until > self.timeline.now:
                self._answer(wait, "error")
            else:
                self._after(1.0, lambda: self._try(wait))
        else:
            self._judge(wait, space)

    def _judge(self, wait: _Wait, space: Space) -> None:
        owner = self.disk.owner
        self._look_at(space, owner.host_id)
        if owner.host_id == space.host_id and owner.generation == space.generation and self.held:
            self._answer(wait, "error")  # another process of this host has it
        elif self._may_take(owner, space):
            self._grant(wait, space)
        elif self._seen_alive(owner.host_id, space):
            self._answer(wait, "busy")
        else:
            self._after(1.0, lambda: self._try(wait))

    def _may_take(self, owner: LeaseOwner, space: Space) -> bool:
        if owner.host_id in (0, space.host_id):
            return True
        lease = self.disk.space(space.name).get(owner.host_id)
        if lease is None or not lease.renewed or lease.generation != owner.generation:
            return True
        return self.flag(space, owner.host_id) is HostLease.DEAD

    def _seen_alive(self, host_id: int, space: Space) -> bool:
        seen = (space.seen or {}).get(host_id)
        return seen is not None and self.timeline.now - seen[1] <= ns(FRESH * self.io) and seen[1] > space.joined_at

    def _grant(self, wait: _Wait, space: Space) -> None:
        version = self.disk.owner.version + 1
        if wait.holder.pid not in self.holders:  # it was killed while it waited: taken, and given back at once
            self.disk.set_owner(LeaseOwner(0, space.generation, 0, version))
            self._answer(wait, "error")
            return
        self.held[wait.holder.pid] = wait.holder.lease = (space.host_id, space.generation)
        self.disk.set_owner(LeaseOwner(space.host_id, space.generation, self.timeline.now // SECOND + 1, version))
        self._answer(wait, "")

    def _answer(self, wait: _Wait, outcome: str) -> None:
        self._waits.remove(wait)
        wait.done(outcome)

    def _look_at_waits(self) -> None:
        for wait in list(self._waits):
            self._try(wait)

    def release(self, pid: int) -> None:
        """The VM was paused, or handed over."""
        ours = self.held.pop(pid, None)
        if ours is not None:
            self._clear_record(ours)

    def _clear_record(self, ours: Tuple[int, int]) -> None:
        """Not in a lockspace that fails or is being left, and not against an error: the record stays then. What hangs
        is done when that ends, if the lockspace is still held."""
        owner = self.disk.owner
        space = self.spaces.get(self.machine.lease_space)
        if (owner.host_id, owner.generation) != ours or self.held:
            return
        if space is None or not space.held or space.leaving:
            return
        if self.storage_works:
            self.disk.set_owner(LeaseOwner(0, owner.generation, 0, owner.version))
        elif not self.path.lease_error:
            self._after(1.0, lambda: self._clear_record(ours))

    def ended(self, pid: int) -> None:
        """A registered process is gone: what it held is free at once, if the storage can be written."""
        self.holders.pop(pid, None)
        self.release(pid)

    # --- a world that begins in the middle ---------------------------------------------------------------------------

    def preset(self, name: str, host_id: int, path: str, generation: int, peers: Dict[int, int]) -> None:
        """The lockspace is held, for long. ``peers``: the other hosts and their last renewals."""
        now = max(1, self.timeline.now)
        space = Space(name, host_id, path, generation, held=True, renewed=now, joined_at=now - ns(3600.0))
        space.seen = {peer: (renewed, now) for peer, renewed in peers.items()}
        space.generations = {peer: 1 for peer in peers}
        self.disk.space(name)[host_id] = DeltaLease(self.name, generation, now)
        space.seen[host_id] = (now, now)
        self.spaces[name] = space
        self._after(2 * self.io * (0.05 + 0.9 * self.random.random()), lambda: self._renew(space))
        self._expire_later(space)

    # --- the end of the daemon ---------------------------------------------------------------------------------------

    def killed(self) -> None:
        """kill -9: whoever held a lease runs on, unguarded; the watchdog fires when the lease would have expired."""
        for space in self.spaces.values():
            if space.held:
                self.machine.arm_watchdog(space)
        waits, self._waits = self._waits, []
        self.scope.end()
        for wait in waits:
            wait.done("error")


class Machine(Protocol):
    """What the daemon needs of its host. ``lease_space``: the lockspace in which the VM's lease lives."""

    lease_space: str

    def arm_watchdog(self, space: Space) -> None:
        """Reset the machine ``8 io + watchdog`` after that lockspace's last renewal, unless disarmed."""
        ...

    def disarm_watchdog(self) -> None: ...

    def lockspace_joined(self, space: Space) -> None: ...

    def trace(self, what: str) -> None: ...
