"""The engine comes back: with one host that could run it, within the time that the product itself announces.

Looked at once a second. The clock runs while the engine is away and one host is *able*: on, its daemons up, its way to
the storage free, not in maintenance, fenced; and, where a copy is there all the same, that copy's host is. It stands
while the cluster is in global maintenance, or nobody can know whether it is (slot 0 holds noise). Back-offs are
announced too: a countdown that a host's own decision shows moves the deadline behind it.
"""

from typing import TYPE_CHECKING, Optional

from ovirt_he_ha.core.model import GLOBAL_SLOT
from ovirt_he_ha.core.slot import decode_global
from ovirt_he_ha.core.timers import announced_bounds
from ovirt_he_ha.sim.clock import SECOND, ns

if TYPE_CHECKING:
    from ovirt_he_ha.sim.host import Host
    from ovirt_he_ha.sim.world import World

ROOM = 15.0  # seconds for the start itself, and for looking
ILL = 700.0  # seconds that an engine which runs and is ill may take: 300 of uptime, 300 of bad health, and its stop
COUNTDOWNS = frozenset(
    (
        "start-backoff", "crash-backoff", "restart", "hand-over-end", "lost-race", "last-resort", "hung", "hung-budget",
        "starting-limit", "power-off", "migration-deadline", "migration-retry", "peer-starting", "grace", "away",
        "better-peer", "move-budget",
    )
)  # fmt: skip


class Progress:
    """``enabled`` False: the scenario breaks on purpose what progress needs."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.enabled = True
        self._since: Optional[int] = None
        self._deadline = 0

    def look(self, healthy: bool) -> None:
        if healthy or not self.enabled or not self._possible():
            self._since = None
            return
        now = self._world.timeline.now
        if self._since is None:
            self._since = now
            self._deadline = now + ns(self._bound())
        self._deadline = max(self._deadline, self._announced())
        if now > self._deadline:
            away = (now - self._since) // SECOND
            self._world.invariants.violate("progress", 0, f"away for {away} s")
            self.enabled = False

    def _bound(self) -> float:
        world = self._world
        boot = world.guest_boot or 0.0
        ranks = 15.0 * min(len(world.hosts), 8)
        takeover = announced_bounds(world.disk.io_timeout, world.disk.watchdog)["host-loss"]
        return (ILL if world.running_copy() is not None else takeover) + boot + ranks + ROOM

    def _announced(self) -> int:
        """The latest moment at which a host says that something can happen next."""
        latest = 0
        for number, decision in self._world.last_decision.items():
            host = self._world.hosts[number]
            if host.agent is None:
                continue
            for countdown in decision.countdowns:
                if countdown.event in COUNTDOWNS:
                    left = countdown.at - host.clock.monotonic()
                    latest = max(latest, self._world.timeline.now + ns(left + ROOM + (self._world.guest_boot or 0.0)))
        return latest

    def _possible(self) -> bool:
        world = self._world
        if world.guest_boot is None or decode_global(world.volume.get(GLOBAL_SLOT)).value is not False:
            return False
        copies = world.copies()
        if copies:
            return all(able(world.hosts[copy.host]) for copy in copies)
        owner = world.hosts.get(world.disk.owner.host_id)
        if owner is not None and owner.power and owner.sanlock() is not None and not able(owner, rests=True):
            return False
        return any(able(host) for host in world.hosts.values())


def left_by_theirs(world: "World") -> bool:
    """The lease is in the name of a living upstream host that runs no copy: only that host can take it, as long as it
    lives, and upstream's agents may try elsewhere for ever."""
    owner = world.hosts.get(world.disk.owner.host_id)
    if owner is None or not owner.spec.upstream or world.copies():
        return False
    return owner.power and owner.sanlock() is not None


def able(host: "Host", rests: bool = False) -> bool:
    """Could run the VM now. ``rests``: in maintenance counts too."""
    daemon = host.sanlock()
    trouble = host.path.trouble
    return (
        host.power
        and host.scope.running
        and host.agent is not None
        and host.broker is not None
        and not host.broker.hung
        and daemon is not None
        and daemon.storage_works
        and (rests or not host.ha_conf.maintenance)
        and host.goes_down_at is None
        and host.libvirt.problem == ""
        and not host.libvirt.flow.create_error
        and not host.definition_problem
        and host.conditions.network == 1.0
        and not host.conditions.unknown
        and ((host.fenced and host.spec.watchdog) or host.allow_unfenced)
        and host.conf_id == host.number
        and trouble == type(trouble)()
    )
