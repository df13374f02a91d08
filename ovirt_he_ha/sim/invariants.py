"""What must hold after every event, whatever was broken.

The rules are stated over the simulated world (which process runs, what stands on the disk), never over what the product
believes; only `unknown-reading` looks at the snapshot from which an action was decided.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Optional, Set, Tuple

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.core.model import (
    GLOBAL_SLOT,
    Action,
    ActionKind,
    Decision,
    HostLease,
    LeaseOwner,
    LockspaceState,
    Snapshot,
)
from ovirt_he_ha.core.moving import HAND_OVER
from ovirt_he_ha.sim.appliance import Cpus
from ovirt_he_ha.sim.clock import ns, stamp
from ovirt_he_ha.sim.hypervisor import Copy
from ovirt_he_ha.sim.upstream_slots import is_valid_for_upstream

if TYPE_CHECKING:
    from ovirt_he_ha.sim.host import Host
    from ovirt_he_ha.sim.world import World

RULES = {
    "two-copies": "two engine VMs with running CPUs or writes in flight",
    "no-lease": "a CPU runs although the lease on disk is not this copy's",
    "lease-ignored": "a start ordered although the lease has long been a live host's",
    "outlived-lease": "a copy still runs when its lease's hold must have ended",
    "rejoined": "a host joined the lockspace anew beside a copy: its lease is free for all",
    "resumed": "a copy goes on after another one ran",
    "maintenance": "an action other than fencing in global maintenance",
    "unknown-reading": "an action decided from an unknown reading",
    "foreign-slot": "a host wrote another host's slot",
    "bad-slot": "a published slot that ends or blinds an upstream reader",
    "moves": "more moves in an hour than the budget",
    "busy": "an agent that decides twice a second for a minute: a loop that feeds itself",
    "exception": "an exception left the product's code",
    "progress": "the engine stays away although a host could run it",
}

# Seconds after which every host has read the flag or knows that it has not: reads are at most so old when a start is
# decided; for what else is done 60 s count.
FLAG_FOR_START = 27.0
FLAG = 62.0
OWNER_KNOWN = 27.0  # seconds after which every host has read a new owner, or knows that it has not
HOUR = 3600.0
MINUTE = 60.0
BUSY = 150  # decisions of one agent in a minute; a takeover with all its events takes 60
# An agent that comes to such a copy when it is late: it looks, kills in vain, asks, and the device's time begins.
RESET_SECONDS = 75.0
WAKING = 3.0  # seconds after a sleep in which the guard looks and kills


@dataclass(frozen=True)
class Violation:
    at: int
    rule: str
    host: int
    text: str

    def __str__(self) -> str:
        where = f" on host{self.host}" if self.host else ""
        return f"{stamp(self.at)} s: {self.rule}{where}: {self.text}"


class Invariants:
    """``violations`` in the order in which they were seen; each rule is reported once per host."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.violations: List[Violation] = []
        self._said: Dict[Tuple[str, int], int] = {}
        self._last_runner: Optional[Copy] = None
        self._flag_since: Optional[int] = None
        self._owner_since = 0
        self._moves: Dict[Tuple[int, int], List[int]] = {}
        self._cleaned: Set[int] = set()  # slots that an operator had zeroed by another host
        self._turns: Dict[int, Tuple[int, int]] = {}  # of each agent: since when, and how many
        self._woken: Dict[Copy, int] = {}  # whose guard may take a moment to notice that they slept; how often

    def violate(self, rule: str, host: int, text: str) -> None:
        if (rule, host) in self._said:
            return
        self._said[(rule, host)] = self._world.timeline.now
        violation = Violation(self._world.timeline.now, rule, host, text)
        self.violations.append(violation)
        self._world.note(host, f"VIOLATION {rule}: {text}")

    # --- copies and the lease ----------------------------------------------------------------------------------------

    def cpus_changed(self, copy: Copy, before: str) -> None:
        self._world.timeline.touched = True
        if copy.cpus == Cpus.RUNNING:
            self._runs(copy, before != Cpus.STARTING)

    def woke(self, copy: Copy, slept: bool) -> None:
        """Its machine stood still, and goes on. ``slept``: with its watchdog, so that nothing could end the copy while
        its lease ran out; if that is somebody else's, it must be gone soon after."""
        self._world.timeline.touched = True
        if slept:
            self._woken[copy] = self._woken.get(copy, 0) + 1
            self._world.timeline.after(WAKING, lambda: self._awake(copy))
            return
        self._runs(copy, True)

    def _awake(self, copy: Copy) -> None:
        self._woken[copy] -= 1
        if self._woken[copy]:
            return
        del self._woken[copy]
        if copy.cpus == Cpus.RUNNING:
            self._world.timeline.touched = True
            self._runs(copy, True)

    def _runs(self, copy: Copy, again: bool) -> None:
        last = self._last_runner
        if again and last is not None and last is not copy:
            self.violate(
                "resumed", copy.host, f"process {copy.pid} goes on after process {last.pid} of host{last.host}"
            )
        self._last_runner = copy

    def owner_changed(self, before: LeaseOwner, after: LeaseOwner) -> None:
        self._world.timeline.touched = True
        self._owner_since = self._world.timeline.now

    def after_event(self) -> None:
        self._check_copies()

    def _check_copies(self) -> None:
        running = [
            copy
            for copy in self._world.copies()
            if copy.cpus == Cpus.RUNNING and not self._world.hosts[copy.host].stunned and copy not in self._woken
        ]
        if len(running) > 1:
            listed = ", ".join(f"process {copy.pid} on host{copy.host}" for copy in running)
            self.violate("two-copies", 0, listed)
        if running:
            self._check_writes(running[0])
        owner = self._world.disk.owner
        for copy in running:
            if (owner.host_id, owner.generation) != copy.lease:
                text = f"process {copy.pid} has {copy.lease}, the disk says ({owner.host_id}, {owner.generation})"
                self.violate("no-lease", copy.host, text)

    def _check_writes(self, runs: Copy) -> None:
        """What hung in the kernel when a copy was paused is written when the storage answers."""
        for copy in self._world.copies():
            host = self._world.hosts[copy.host]
            if copy.hung_writes and copy.cpus == Cpus.PAUSED and host.io_hangs() and self._could_be_reset(host):
                theirs = f"writes of process {copy.pid} on host{copy.host} hang"
                self.violate("two-copies", 0, f"{theirs}, process {runs.pid} on host{runs.host} runs")

    def _could_be_reset(self, host: "Host") -> bool:
        """There was somebody to ask for it, and a watchdog to do it. Nobody does on a host that its administrator left
        without either; one that slept may have been given up meanwhile."""
        agent = host.agent
        if not host.fenced or host.stunned or host.clock.slept or agent is None or agent.scope.root.held:
            return False
        return self._world.timeline.now - agent.born > ns(RESET_SECONDS)

    def joined(self, host: "Host", generation: int) -> None:
        for copy in host.libvirt.processes():
            if copy.cpus == Cpus.RUNNING and copy.lease[1] != generation:
                self.violate("rejoined", host.number, f"process {copy.pid} has the lease of {copy.lease[1]}")

    def lease_must_be_over(self, host: "Host", renewed: int, generation: int) -> None:
        """``8 io + watchdog`` after the last renewal of this generation: others may start from now on. A copy
        that got its lease under a later one has a time of its own."""
        daemon = host.sanlock()
        space = None if daemon is None else daemon.spaces.get(host.lease_space)
        if space is not None and space.held and space.renewed > renewed:
            known = set() if daemon is None else set(daemon.held)
        else:
            known = set()
        for copy in host.libvirt.processes() if host.power and not host.stunned else []:
            if self._outlives(copy, generation) and copy.pid not in known:
                self.violate("outlived-lease", host.number, f"process {copy.pid} runs, last renewal {stamp(renewed)} s")

    def _outlives(self, copy: Copy, generation: int) -> bool:
        return copy.cpus == Cpus.RUNNING and copy.lease[1] <= generation and copy not in self._woken

    # --- slots -------------------------------------------------------------------------------------------------------

    def cleaned(self, slot: int) -> None:
        """An operator has this slot zeroed: whoever he asks may write those zeros, also late."""
        self._cleaned.add(slot)

    def written(self, writer: int, slot: int, data: bytes) -> None:
        if slot == GLOBAL_SLOT:
            on = data.rstrip(b"\0") == b"maintenance=1"
            self._flag_since = (self._flag_since or self._world.timeline.now) if on else None
        if not writer:
            return
        asked = slot in self._cleaned and data == bytes(len(data))
        if slot not in (GLOBAL_SLOT, self._world.hosts[writer].conf_id) and not asked:
            self.violate("foreign-slot", writer, f"slot {slot}")
        trouble = self._world.hosts[writer].path.trouble
        problem = "" if trouble.torn else is_valid_for_upstream(data, slot)
        if problem:
            self.violate("bad-slot", writer, f"slot {slot}: {problem}")

    # --- decisions ---------------------------------------------------------------------------------------------------

    def decided(self, host: "Host", decision: Decision) -> None:
        """Nobody runs in circles."""
        now = self._world.timeline.now
        since, count = self._turns.get(host.number, (now, 0))
        if now - since > ns(MINUTE):
            since, count = now, 0
        self._turns[host.number] = (since, count + 1)
        if count >= BUSY:
            self.violate("busy", host.number, f"{count} decisions within {stamp(now - since)} s")

    def ordered(self, host: "Host", cycle: Cycle, action: Action) -> None:
        self._check_flag(host, action)
        if action.kind is ActionKind.START:
            self._check_lease(host)
        before = cycle.before
        if before is not None:
            unknown = _unknown(before, action.kind, host.timers.facts_stale)
            if unknown:
                self.violate("unknown-reading", host.number, f"{action.kind.value} with unknown {unknown}")
        self._count_move(host, cycle, action)

    def _check_flag(self, host: "Host", action: Action) -> None:
        since = self._flag_since
        if since is None or host.path.trouble.stale is not None:
            return
        limit = FLAG_FOR_START if action.kind is ActionKind.START else FLAG
        if self._world.timeline.now - since > ns(limit):
            self.violate("maintenance", host.number, f"{action.kind.value}, the flag is on since {stamp(since)} s")

    def _check_lease(self, host: "Host") -> None:
        owner, daemon = self._world.disk.owner, host.sanlock()
        space = None if daemon is None else daemon.spaces.get(host.lease_space)
        if daemon is None or space is None or owner.host_id in (0, host.conf_id):
            return
        lease = self._world.disk.space(space.name).get(owner.host_id)
        came_back = lease is None or lease.generation != owner.generation
        if came_back or daemon.flag(space, owner.host_id) in (HostLease.FREE, HostLease.DEAD):
            return
        known = max(self._owner_since, host.clock.born)
        if self._world.timeline.now - known > ns(OWNER_KNOWN):
            flag = daemon.flag(space, owner.host_id).value
            self.violate("lease-ignored", host.number, f"host {owner.host_id} has it, and is {flag}")

    def _count_move(self, host: "Host", cycle: Cycle, action: Action) -> None:
        leaves = host.ha_conf.maintenance or host.goes_down_at is not None
        if leaves or cycle.carried.migration_tries:  # nobody counts maintenance, nor a further try
            return
        handed = action.kind is ActionKind.STOP and cycle.carried.stop_purpose == HAND_OVER
        if action.kind is not ActionKind.MIGRATE and not handed:
            return
        now = self._world.timeline.now
        moves = self._moves.setdefault((host.number, host.boots), [])
        moves[:] = [at for at in moves if now - at < ns(HOUR)] + [now]
        if len(moves) > host.timers.moves_per_hour:
            self.violate("moves", host.number, f"{len(moves)} in one hour")


def _unknown(snapshot: Snapshot, kind: ActionKind, stale: float) -> str:
    engine = snapshot.monitors.engine
    if engine.value is None or (engine.age or 0.0) > stale:
        return "engine"
    if snapshot.global_maintenance.value is not False:
        return "global maintenance"
    if kind is not ActionKind.START:
        return ""
    if snapshot.host.local_maintenance.value is not False:
        return "local maintenance"
    leases = snapshot.leases
    for name, reading in (("lockspace", leases.lockspace), ("whiteboard", leases.whiteboard)):
        if reading.value is not LockspaceState.HELD or (reading.age or 0.0) > stale:
            return name
    if leases.owner.value is None or (leases.owner.age or 0.0) > stale:
        return "owner"
    return "" if snapshot.slots_age is not None and snapshot.slots_age <= stale else "slots"
