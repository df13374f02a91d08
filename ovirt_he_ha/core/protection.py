"""The protection meter: what guards the VM on every host, what is missing, and how bad that is.

It reads what hosts publish (their own words, core/safeguards.py), whom this host sees alive, and sanlock's host list.
What a host cannot tell is unknown, which is never green. The meter changes nothing: no decision looks at it.

The same lack is worse on the host that has the VM: there it is the VM itself that is not guarded, elsewhere a spare is
missing.
"""

from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ovirt_he_ha.core import findings
from ovirt_he_ha.core.findings import found
from ovirt_he_ha.core.model import (
    EngineStatus,
    Finding,
    HostLease,
    Invalid,
    Level,
    Protection,
    Reading,
    Record,
    Slot,
    Vm,
)
from ovirt_he_ha.core.safeguards import UNTOLD, Facts, facts_of
from ovirt_he_ha.core.timers import Timers

# A host's wall clock is known as it was when it published: up to 25 s ago, while it is not silent.
CLOCKS_APART = 60
_PUBLISH_AGE = 30

_SLOTS_OLD = Timers.facts_stale

_NO_LEASE = ("no-lease", "foreign-lease")
_LOCKING = ("sanlock", "")  # what a spare's lock manager may be; unknown is said, and no proof against it
_AUDIT_LOST = ("threatened", "killing", "stuck")
_GUARDED = "guarded"
# Said by findings of their own.
_SAID = ("definition", "too-new", "global-maintenance-unknown", "lease-mismatch", "guard-", "fence-stuck", "no-target")


@dataclass(frozen=True)
class Host:
    """One deployed host as the reader of the meter sees it.

    ``slot``: what it published last. ``live``: it is heard of. ``silent``: two of its publishes are missing.
    ``lease``: sanlock's flag in the storage domain's lockspace; None: not listed, or nothing is known of it.
    """

    host_id: int
    slot: Slot
    live: bool
    silent: bool = False
    lease: Optional[HostLease] = None
    facts: Facts = field(default=UNTOLD)

    @property
    def record(self) -> Optional[Record]:
        return self.slot if isinstance(self.slot, Record) else None

    @property
    def name(self) -> str:
        return self.slot.hostname if isinstance(self.slot, Record) else ""

    @property
    def resting(self) -> bool:
        """In local maintenance, or on its way there."""
        return isinstance(self.slot, Record) and (self.slot.maintenance or self.facts.resting != "")

    @property
    def eligible(self) -> bool:
        return self.live and not self.resting and isinstance(self.slot, Record) and self.slot.score > 0


def host(host_id: int, slot: Slot, live: bool, silent: bool = False, lease: Optional[HostLease] = None) -> Host:
    """With the facts of its own slot."""
    facts = facts_of(slot) if isinstance(slot, Record) else UNTOLD
    return Host(host_id, slot, live, silent, lease, facts)


@dataclass(frozen=True)
class Cluster:
    """``flags_known``: sanlock's host list is there and fresh. ``wall``: the reader's clock in seconds since the epoch;
    None: clocks are not compared, because no decision may depend on one. ``slots_age``: seconds since the slots were
    read; None: never."""

    own_id: int
    hosts: Tuple[Host, ...]
    global_maintenance: "Reading[bool]"
    flags_known: bool
    slots_age: Optional[float]
    wall: Optional[float] = None


def assess(cluster: Cluster) -> Protection:
    """Same facts, same findings; never raises."""
    live = [one for one in cluster.hosts if one.live]
    ours = [one for one in live if one.facts.told]
    running = [one for one in live if _has_vm(one)]
    vm_host = running[0].host_id if running else 0
    able = [one for one in live if one.host_id != vm_host and _is_spare(one)]
    spares = tuple(one.host_id for one in able if not one.silent)
    found_here = findings.by_severity(
        [
            *_whole_cluster(cluster, running),
            *_spares(able, bool(running)),
            *_out(cluster.hosts, vm_host),
            *_foreign(live),
            *_guards(ours, vm_host),
            *_definitions(ours, vm_host),
            *_audit(running),
            *_lockspace(cluster, live, vm_host),
            *_equal(ours, vm_host),
            *_untold(ours),
            *_clocks(cluster, ours),
            *_conditions(ours),
            *_moves(cluster.hosts, vm_host, spares),
        ]
    )
    return Protection(findings.overall(found_here), found_here, vm_host, spares, len(cluster.hosts))


# --- who has the VM, who could have it ------------------------------------------------------------------------------


def _engine(one: Host) -> Optional[EngineStatus]:
    return one.slot.engine if isinstance(one.slot, Record) else None


def _has_vm(one: Host) -> bool:
    engine = _engine(one)
    return engine is not None and engine.vm is Vm.UP


def _is_source(one: Host) -> bool:
    """The source of a migration says ``up`` until it has read that of the destination: it is not one more."""
    engine = _engine(one)
    return engine is not None and engine.detail == "Migration Source"


def _is_spare(one: Host) -> bool:
    facts = one.facts
    unguarded = facts.watchdog is False or facts.lock_manager not in _LOCKING
    return one.eligible and not unguarded and facts.definition in ("", "ok")


def _spares(able: Sequence[Host], runs: bool) -> Iterator[Finding]:
    """A silent one may be lost, or its next publish is on its way."""
    needed = 1 if runs else 2  # one of them has the VM to take first
    if len(able) < needed:
        yield found("no-spare", Level.UNPROTECTED)
    elif sum(1 for one in able if not one.silent) < needed:
        yield found("no-spare", Level.UNKNOWN)


def _whole_cluster(cluster: Cluster, running: Sequence[Host]) -> Iterator[Finding]:
    flag = cluster.global_maintenance
    if flag.value is None:
        yield found("global-flag-unknown", Level.UNKNOWN, why=flag.unknown)
    elif flag.value:
        yield found("global-maintenance", Level.UNPROTECTED)
    copies = [one for one in running if not _is_source(one)]
    if len(copies) > 1:
        yield found("vm-many", Level.DEGRADED, _ids(copies))
    if cluster.slots_age is None or cluster.slots_age > _SLOTS_OLD:
        age = "never" if cluster.slots_age is None else f"{cluster.slots_age:.0f} s ago"
        yield found("view-old", Level.UNKNOWN, (cluster.own_id,), age=age)
    if running:
        return
    left = [one for one in cluster.hosts if not one.live and _has_vm(one) and one.lease is HostLease.LIVE]
    if left:
        yield found("vm-unwatched", Level.UNPROTECTED, _ids(left))
    else:
        yield found("vm-nowhere", Level.UNKNOWN)


def _out(hosts: Iterable[Host], vm_host: int) -> Iterator[Finding]:
    """Hosts that do not count as spares, by why."""
    for one in hosts:
        if one.host_id == vm_host:
            continue
        if isinstance(one.slot, Invalid):
            yield found("host-unreadable", Level.DEGRADED, (one.host_id,), why=one.slot.reason)
        elif isinstance(one.slot, Record):
            yield from _out_record(one, one.slot)
        else:
            yield found("host-dead", Level.DEGRADED, (one.host_id,))


def _out_record(one: Host, record: Record) -> Iterator[Finding]:
    who = (one.host_id,)
    if record.stopped:
        yield found("host-stopped", Level.DEGRADED, who)
    elif not one.live:
        yield found("host-dead", Level.DEGRADED, who)
    elif one.resting:
        yield found("host-maintenance", Level.DEGRADED, who)
    elif record.score <= 0:
        yield found("host-score", Level.DEGRADED, who, why=record.get("score.zero") or "unknown")
    elif one.silent:
        yield found("host-silent", Level.UNKNOWN, who)


# --- the guards of each host ----------------------------------------------------------------------------------------


def _lack(one: Host, vm_host: int) -> Level:
    return Level.UNPROTECTED if one.host_id == vm_host else Level.DEGRADED


def _foreign(live: Sequence[Host]) -> Iterator[Finding]:
    foreign = [one for one in live if not one.facts.told]
    if foreign:
        yield found("host-foreign", Level.UNKNOWN, _ids(foreign))


def _guards(ours: Sequence[Host], vm_host: int) -> Iterator[Finding]:
    for one in ours:
        if one.facts.watchdog is False:
            yield found("watchdog-off", _lack(one, vm_host), (one.host_id,))
        word = one.facts.lock_manager
        if word == "stale":
            yield found("lock-manager-stale", _lack(one, vm_host), (one.host_id,))
        elif word not in _LOCKING:
            yield found("lock-manager-off", _lack(one, vm_host), (one.host_id,), found=word)


def _definitions(ours: Sequence[Host], vm_host: int) -> Iterator[Finding]:
    for one in ours:
        problem = one.facts.definition
        if problem in _NO_LEASE:
            yield found("lease-missing", _lack(one, vm_host), (one.host_id,), problem=problem)
        elif problem not in ("", "ok"):
            yield found("definition-refused", _lack(one, vm_host), (one.host_id,), problem=problem)
        if one.facts.running_lease is False:
            yield found("running-without-lease", Level.UNPROTECTED, (one.host_id,))


_UNTOLD: Tuple[Tuple[str, Callable[[Facts], bool]], ...] = (
    ("watchdog-unknown", lambda facts: facts.watchdog is None),
    ("lock-manager-unknown", lambda facts: facts.lock_manager == ""),
    ("definition-unknown", lambda facts: facts.definition == ""),
    ("timeouts-unknown", lambda facts: facts.io_timeout == 0),
    ("settings-unknown", lambda facts: "" in (facts.deployment, facts.score, facts.timers)),
)


def _untold(ours: Sequence[Host]) -> Iterator[Finding]:
    """What hosts of ours do not know of themselves."""
    for code, lacks in _UNTOLD:
        who = [one.host_id for one in ours if lacks(one.facts)]
        if who:
            yield found(code, Level.UNKNOWN, who)


def _audit(running: Sequence[Host]) -> Iterator[Finding]:
    for one in running:
        if not one.facts.told:
            continue
        guard = one.facts.guard
        if guard in _AUDIT_LOST:
            yield found("audit-failed", Level.UNPROTECTED, (one.host_id,), why=one.facts.guard_why or guard)
        elif guard != _GUARDED:
            yield found("audit-pending", Level.UNKNOWN, (one.host_id,), state=guard or "no word of it")


def _lockspace(cluster: Cluster, live: Sequence[Host], vm_host: int) -> Iterator[Finding]:
    """Whoever renews its id in this storage domain's lockspace has the same storage: the only proof of it that does not
    rest on anybody's word."""
    if not cluster.flags_known:
        return
    for one in live:
        if one.lease is HostLease.UNKNOWN:
            yield found("lockspace-unknown", Level.UNKNOWN, (one.host_id,))
        elif one.lease is not HostLease.LIVE:
            yield found("not-in-lockspace", _lack(one, vm_host), (one.host_id,))


def _ids(hosts: Iterable[Host]) -> Tuple[int, ...]:
    return tuple(one.host_id for one in hosts)


# --- what must be equal ---------------------------------------------------------------------------------------------


def _timeouts(facts: Facts) -> str:
    return f"{facts.io_timeout}/{facts.watchdog_timeout} s" if facts.io_timeout else ""


_SAME: Tuple[Tuple[str, Level, Callable[[Facts], str]], ...] = (
    ("lease-differs", Level.UNPROTECTED, lambda facts: facts.lease),
    ("timeouts-differ", Level.DEGRADED, _timeouts),
    ("deployment-differs", Level.DEGRADED, lambda facts: facts.deployment),
    ("score-differs", Level.DEGRADED, lambda facts: facts.score),
    ("timers-differ", Level.DEGRADED, lambda facts: facts.timers),
    # Of the agent: libvirt and sanlock are the distribution's, and shown by host.
    ("versions-differ", Level.NOTE, lambda facts: facts.agent),
)


def _equal(ours: Sequence[Host], vm_host: int) -> Iterator[Finding]:
    for code, level, value in _SAME:
        groups: Dict[str, List[int]] = {}
        for one in ours:
            groups.setdefault(value(one.facts), []).append(one.host_id)
        groups.pop("", None)
        if len(groups) > 1:
            yield _differing(code, level, groups, vm_host)


def _differing(code: str, level: Level, groups: Mapping[str, List[int]], vm_host: int) -> Finding:
    """About those that are not as the VM's host is; without one, as most are."""
    right = next((text for text, ids in groups.items() if vm_host in ids), "")
    right = right or max(groups, key=lambda text: (len(groups[text]), -groups[text][0]))
    others = [host_id for text, ids in groups.items() if text != right for host_id in ids]
    shown = "; ".join(f"{text} on {_numbers(ids)}" for text, ids in sorted(groups.items(), key=lambda item: item[1]))
    return found(code, level, others, found=shown)


def _numbers(ids: Sequence[int]) -> str:
    return ("hosts " if len(ids) > 1 else "host ") + ", ".join(map(str, ids[:20]))


def _clocks(cluster: Cluster, ours: Sequence[Host]) -> Iterator[Finding]:
    if cluster.wall is None:
        return
    apart = {one.host_id: one.facts.wall - cluster.wall for one in ours if one.facts.wall and not one.silent}
    wrong = {
        host_id: by
        for host_id, by in apart.items()
        if host_id != cluster.own_id and not -CLOCKS_APART - _PUBLISH_AGE <= by <= CLOCKS_APART
    }
    if wrong:
        yield found("clocks-differ", Level.NOTE, wrong, found=_clock_text(wrong))


def _clock_text(wrong: Mapping[int, float]) -> str:
    """In minutes: what is known of a clock is half a minute old, and the text should not change with every look."""
    return "; ".join(
        f"host {host_id} is {abs(by) / 60:.0f} min {'ahead' if by > 0 else 'behind'}"
        for host_id, by in sorted(wrong.items())[:20]
    )


# --- the rest -------------------------------------------------------------------------------------------------------


def _conditions(ours: Sequence[Host]) -> Iterator[Finding]:
    for one in ours:
        problems = [code for code in one.facts.problems if not code.startswith(_SAID)]
        if problems:
            yield found("host-problem", Level.DEGRADED, (one.host_id,), problems=", ".join(problems))
        agent, broker = one.facts.agent, one.facts.broker
        if agent and broker and agent != broker:
            yield found("half-updated", Level.DEGRADED, (one.host_id,), agent=agent, broker=broker)


def _moves(hosts: Sequence[Host], vm_host: int, spares: Sequence[int]) -> Iterator[Finding]:
    if not vm_host or not spares:
        return
    by_id = {one.host_id: one for one in hosts}
    able = live_targets(by_id, vm_host, spares)
    if not able:
        yield found("no-live-move", Level.NOTE)
    elif not any(by_id[host_id].facts.second_network for host_id in able):
        yield found("one-network", Level.NOTE)


def live_targets(hosts: Mapping[int, Host], vm_host: int, spares: Sequence[int]) -> Tuple[int, ...]:
    """Spares that could take the running VM by live migration."""
    source = hosts.get(vm_host)
    cpu = "" if source is None else source.facts.cpu
    if not cpu:
        return ()
    return tuple(one for one in spares if hosts[one].facts.migrates and hosts[one].facts.cpu == cpu)
