"""Which hosts exist, which are alive, and which of them should have the VM.

A peer's timestamp is never compared with a clock: clocks of two hosts have nothing in common. Only a *change* of its
slot counts, and it counts at the moment of the read that showed it. So silence grows with reads, not with our own time:
a host whose storage hangs sees frozen slots, and frozen slots say nothing of the peers.

Two questions are kept apart. *Alive*: its slot changed within the liveness limit; it can be counted on. *Established*:
we know enough of it to start the VM at all: its slot changed since we look, or stayed silent for the whole limit, or it
stopped cleanly, or sanlock says that its id is FREE or DEAD. A fresh agent that starts the VM before every known host
is established starts what may run elsewhere.
"""

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Callable, Dict, FrozenSet, Mapping, Optional, Tuple

from ovirt_he_ha.core.model import (
    GLOBAL_SLOT,
    Empty,
    EngineStatus,
    Health,
    HostLease,
    Invalid,
    LeaseFacts,
    Record,
    Seen,
    Slot,
    Snapshot,
    Vm,
)
from ovirt_he_ha.core.timers import Timers

# Why a host is established, and the one word for "not yet".
CHANGED = "changed"
SILENT = "silent"
STOPPED = "stopped"
FREE = "free"
DEAD = "dead"
WAITING = "waiting"

# Why there is no baseline at all.
SLOTS_UNREAD = "slots-unread"
SLOTS_STALE = "slots-stale"
HOSTS_WAITING = "hosts-waiting"

# In io_timeouts: sanlock renews its id every 2 and looks at the others as often. Silence is late from 4.5 on, and told.
LOOKS = 2.0
LATE = 4.5
# Flags of an owner that sanlock will call dead after a silence.
UNTIL_DEAD = (HostLease.LIVE.value, HostLease.FAIL.value)

_NO_RECORD = Empty()


@dataclass(frozen=True)
class Peer:
    """Another host as this one sees it now.

    ``established_by`` is ``changed``, ``silent``, ``stopped``, ``free``, ``dead``; ``waiting``: not established.
    ``silent_for``: seconds between its last seen change (or our first look) and the last read.
    """

    host_id: int
    slot: Slot
    lease: Optional[HostLease]
    alive: bool
    established_by: str
    silent_for: float

    @property
    def record(self) -> Optional[Record]:
        return self.slot if isinstance(self.slot, Record) else None

    @property
    def established(self) -> bool:
        return self.established_by != WAITING

    @property
    def score(self) -> int:
        return self.slot.score if isinstance(self.slot, Record) else 0

    @property
    def in_maintenance(self) -> bool:
        """In local maintenance, or on its way: a host that still has the VM shows no flag yet, but must not be sent
        what it is about to send away (two such hosts would hand it to each other for ever)."""
        if not isinstance(self.slot, Record):
            return False
        return self.slot.maintenance or (self.slot.extra_ok and self.slot.get("maintenance_state") != "")

    @property
    def eligible(self) -> bool:
        """May have the VM now: alive, not in maintenance, not stopped (that is not alive), score above 0."""
        return self.alive and not self.in_maintenance and self.score > 0


@dataclass(frozen=True)
class Survey:
    """The cluster in one cycle. ``seen`` is to be carried over to the next one.

    ``no_baseline`` is empty, or why no start is allowed yet: ``slots-unread``, ``slots-stale``, ``hosts-waiting``.
    ``baseline_in``: seconds until silence alone gives a baseline, None when that cannot be said.
    """

    peers: Mapping[int, Peer]
    seen: Mapping[int, Seen]
    no_baseline: str = ""
    baseline_in: Optional[float] = None

    @property
    def baseline(self) -> bool:
        return not self.no_baseline

    @cached_property
    def alive(self) -> Tuple[int, ...]:
        return tuple(host_id for host_id, peer in sorted(self.peers.items()) if peer.alive)

    @cached_property
    def waiting(self) -> Tuple[int, ...]:
        """Hosts that are not established."""
        return tuple(host_id for host_id, peer in sorted(self.peers.items()) if not peer.established)

    @cached_property
    def eligible(self) -> Tuple[Peer, ...]:
        """Best first: score descending, id ascending."""
        return tuple(sorted((peer for peer in self.peers.values() if peer.eligible), key=_order))

    @cached_property
    def too_new(self) -> Tuple[int, ...]:
        """Hosts that publish a format newer than ours."""
        return tuple(
            host_id
            for host_id, peer in sorted(self.peers.items())
            if isinstance(peer.slot, Invalid) and peer.slot.reason == "too-new"
        )


def survey(snapshot: Snapshot, timers: Timers) -> Survey:
    """Everything this module knows, from one snapshot: the way in for the policy."""
    own_id = snapshot.host.host_id
    flags = host_flags(snapshot.leases, timers)
    ids = known_hosts(snapshot.slots, flags, own_id)
    if snapshot.slots_age is None:
        seen: Mapping[int, Seen] = snapshot.carried.seen
        read_at = snapshot.now
    else:
        read_at = snapshot.now - snapshot.slots_age
        seen = observe(snapshot.carried.seen, snapshot.slots, ids, read_at)
    peers = {
        host_id: _peer(host_id, snapshot.slots, seen, flags, snapshot.now, read_at, timers) for host_id in sorted(ids)
    }
    reason, remaining = _baseline(snapshot.slots_age, peers, timers)
    return Survey(MappingProxyType(peers), seen, reason, remaining)


def host_flags(leases: LeaseFacts, timers: Timers) -> Mapping[int, HostLease]:
    """sanlock's flags, if they are known and fresh; else none: a DEAD of half a minute ago may be LIVE again."""
    hosts = leases.hosts
    if hosts.value is None or (hosts.age is not None and hosts.age > timers.facts_stale):
        return {}
    return hosts.value


def left_in_order(leases: LeaseFacts) -> bool:
    """The owner's host gave its id back in the generation in which it took the lease. sanlock does that only when every
    process that held a lease in that generation has ended, and a generation never comes back: whatever that host does
    under a later one, nobody holds this lease, and sanlock grants it at once. True however old the answer is."""
    owner = leases.owner.value
    return owner is not None and owner.host_id != 0 and leases.owner_left == owner.generation


def left_later_ends(leases: LeaseFacts) -> Optional[float]:
    """The owner's host gave its id back in a later generation than the lease's. That is of a sanlock that was started
    again, and says nothing of a VM that the first one left behind; but that VM's watchdog has fired when the time is
    over after which a host without renewals is dead. Returns the seconds until then, 0 at the least; None: it has not
    left so."""
    owner, left, since = leases.owner.value, leases.owner_left, leases.owner_left_for
    if owner is None or left is None or since is None or left <= owner.generation:
        return None
    return max(0.0, 10.0 * leases.io_timeout + leases.watchdog - since)


def owner_has_left(leases: LeaseFacts, flags: Mapping[int, HostLease]) -> bool:
    """The owner's host gave its id back, and whatever the lease guarded there has ended. ``flags``: sanlock's, fresh;
    without any nothing is known."""
    owner = leases.owner.value
    if owner is None or not flags:
        return False
    unlisted = flags.get(owner.host_id, HostLease.FREE) is HostLease.FREE
    return left_in_order(leases) or (unlisted and left_later_ends(leases) == 0.0)


def known_hosts(slots: Mapping[int, Slot], flags: Mapping[int, HostLease], own_id: int) -> FrozenSet[int]:
    """Whoever published something (readable or not), or holds or held an id; without ourselves and the global slot."""
    published = {host_id for host_id, slot in slots.items() if not isinstance(slot, Empty)}
    registered = {host_id for host_id, flag in flags.items() if flag is not HostLease.FREE}
    return frozenset((published | registered) - {own_id, GLOBAL_SLOT})


def token(slot: Slot) -> str:
    """What identifies the content of a slot. An unreadable one has the same token whatever its bytes are: a host that
    writes garbage every 10 s would never be silent, and so would keep everybody from starting for ever."""
    if isinstance(slot, Record):
        return f"{slot.timestamp}:{slot.crc32}"
    return "invalid" if isinstance(slot, Invalid) else "empty"


def observe(
    seen: Mapping[int, Seen], slots: Mapping[int, Slot], ids: FrozenSet[int], read_at: float
) -> Mapping[int, Seen]:
    """What we have seen of each host, after the read that began at ``read_at`` (monotonic seconds). Hosts that vanished
    are forgotten: when one comes back we look at it anew. A slot that shows an earlier content again has not changed:
    storage that answers now from one copy, now from another, would keep a dead host alive for ever."""
    result: Dict[int, Seen] = {}
    for host_id in sorted(ids):
        now_there = token(slots.get(host_id, _NO_RECORD))
        before = seen.get(host_id)
        if before is None:
            result[host_id] = Seen(now_there, read_at)
        elif now_there != before.token and now_there not in before.past:
            result[host_id] = before.followed_by(now_there, read_at)
        else:
            result[host_id] = before
    return MappingProxyType(result)


def is_alive(slot: Slot, seen: Optional[Seen], now: float, timers: Timers) -> bool:
    """A readable slot that changed less than the liveness limit ago, of an agent that has not said good-bye."""
    if not isinstance(slot, Record) or slot.stopped or seen is None or seen.changed_at is None:
        return False
    return now - seen.changed_at < timers.liveness_limit


def _is_gone(slot: Slot, flag: Optional[HostLease]) -> bool:
    """sanlock calls a host of ours dead: its VM's lease is over, and its slot, which may have changed less than the
    limit ago where the timeouts are short, is of a life that has ended. (A host of oVirt's own does not say which lease
    guards its VM: only its silence counts.)"""
    return flag is HostLease.DEAD and isinstance(slot, Record) and slot.extra_ok


def established_by(slot: Slot, seen: Optional[Seen], flag: Optional[HostLease], read_at: float, timers: Timers) -> str:
    """Why we know enough of this host, or ``waiting``.

    A slot that cannot be read, or is not there, never counts by its change: we know that somebody wrote, not what he
    does with the VM. Such a host is established by sanlock or by silence.
    """
    if flag is HostLease.FREE:
        return FREE
    if flag is HostLease.DEAD:
        return DEAD
    if isinstance(slot, Record):
        if slot.stopped:
            return STOPPED
        if seen is not None and seen.changed_at is not None:
            return CHANGED
    if silence(seen, read_at) >= timers.liveness_limit:
        return SILENT
    return WAITING


def silence(seen: Optional[Seen], read_at: float) -> float:
    """Seconds without a change, up to the last good read."""
    if seen is None:
        return 0.0
    last = seen.since if seen.changed_at is None else seen.changed_at
    return max(0.0, read_at - last)


def rank(own_id: int, own_score: int, view: Survey, last_resort: bool = False) -> Optional[int]:
    """How many live hosts come before this one, by its score of this cycle: 0 is the best. None: it may not start.

    The order is score descending, id ascending, among live hosts that are not in maintenance, not stopped and above 0.
    As a last resort those at score 0 count as well.
    """
    if own_score <= 0 and not last_resort:
        return None
    rivals = [
        peer
        for peer in view.peers.values()
        if peer.eligible or (last_resort and peer.alive and not peer.in_maintenance)
    ]
    return sum(1 for peer in rivals if _order(peer) < (-own_score, own_id))


def best_peer(view: Survey, fits: Optional[Callable[[Peer], bool]] = None) -> Optional[Peer]:
    """The best eligible peer, among those that ``fits`` accepts."""
    return next((peer for peer in view.eligible if fits is None or fits(peer)), None)


def suppressed_by(view: Survey, leases: LeaseFacts, timers: Timers) -> Optional[int]:
    """The host whose clean stop keeps us from starting: its agent is stopped, its VM runs on.

    Only while the lease on disk is its own *and* sanlock says LIVE. A host that stopped cleanly and then lost power has
    a slot that says ``stopped`` for ever; a suppression by the slot alone would be a deadlock. One whose lockspace
    somebody removed, and whose broker joined it again, is LIVE without the VM.
    """
    if leases.owner.value is None or left_in_order(leases):
        return None
    owner = leases.owner.value.host_id
    peer = view.peers.get(owner)
    if peer is None or peer.record is None or not peer.record.stopped:
        return None
    return owner if host_flags(leases, timers).get(owner) is HostLease.LIVE else None


def engine_rank(status: Optional[EngineStatus]) -> int:
    """How well an engine is, in upstream's order: 0 unknown, 1 down, 2 paused, 3 up with bad health, 4 up and good."""
    if status is None or status.vm is Vm.UNKNOWN:
        return 0
    if status.vm is not Vm.UP:
        return 1
    if status.detail == "Paused":
        return 2
    return 4 if status.health is Health.GOOD else 3


def engine_elsewhere(view: Survey) -> Tuple[Peer, ...]:
    """Live peers that publish the VM as up (paused included), the healthiest first, then by id."""
    running = [peer for peer in view.peers.values() if peer.alive and _engine_rank_of(peer) >= 2]
    return tuple(sorted(running, key=lambda peer: (-_engine_rank_of(peer), peer.host_id)))


def _engine_rank_of(peer: Peer) -> int:
    return engine_rank(peer.slot.engine) if isinstance(peer.slot, Record) else 0


def _order(peer: Peer) -> Tuple[int, int]:
    return -peer.score, peer.host_id


def _peer(
    host_id: int,
    slots: Mapping[int, Slot],
    seen: Mapping[int, Seen],
    flags: Mapping[int, HostLease],
    now: float,
    read_at: float,
    timers: Timers,
) -> Peer:
    slot = slots.get(host_id, _NO_RECORD)
    mine = seen.get(host_id)
    flag = flags.get(host_id)
    return Peer(
        host_id,
        slot,
        flag,
        is_alive(slot, mine, now, timers) and not _is_gone(slot, flag),
        established_by(slot, mine, flag, read_at, timers),
        silence(mine, read_at),
    )


def _baseline(slots_age: Optional[float], peers: Mapping[int, Peer], timers: Timers) -> Tuple[str, Optional[float]]:
    if slots_age is None:
        return SLOTS_UNREAD, None
    if slots_age > timers.facts_stale:
        return SLOTS_STALE, None
    waiting = [peer for peer in peers.values() if not peer.established]
    if waiting:
        return HOSTS_WAITING, max(timers.liveness_limit - peer.silent_for for peer in waiting)
    return "", None
