"""What would happen: a question put to a world that begins as the real cluster was found, with several seeds.

The seeds differ in what nobody can know of the moment: where in its cycle each host is, when it renews its lease next,
how far its clock is off, how long each access takes.
"""

import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.config.what_if import ALL, ENGINE, AskedFault, Question
from ovirt_he_ha.core.timers import announced_bounds
from ovirt_he_ha.sim import fault_kinds
from ovirt_he_ha.sim.clock import SECOND, ns
from ovirt_he_ha.sim.faults import KINDS, Fault, HostName, begin
from ovirt_he_ha.sim.live import BOOT, WORKS, Assumption, LiveCluster, LiveHost, assumptions
from ovirt_he_ha.sim.live_world import GLANCE, LiveWorld
from ovirt_he_ha.sim.run import laboratory
from ovirt_he_ha.sim.telling import Event

BUDGET = 60.0  # wall seconds after which no further run begins
MOST_SIMULATED = 24  # hosts: one run of them takes some seconds, of 250 some minutes
QUIET = 100.0  # seconds without an event of weight: nothing more comes. A better host is moved to after 60
STEP = 5.0  # seconds between two looks whether the story is over
LATE_END = 600.0  # the end of a fault that lies further ahead than this is not waited for
MOMENT = 5.0  # seconds in which an engine that answers is not yet back
PATIENCE = 300.0  # seconds beyond everything that is announced, until "it does not come back" is the answer
_LATE = ns(GLANCE)
_ = fault_kinds  # the kinds are in its tables

# What is asked: the simulator's kind, what is told of it at its beginning and at its end, the announced bound.
_KINDS: Mapping[str, Tuple[str, str, str, str]] = {
    "fail-host": ("host-off", "loses power", "has power again", "host-loss"),
    "network-loss": ("network-loss", "loses its management network", "has its network again", "network-loss"),
    "storage-hang": ("storage-hang", "its storage hangs", "its storage works again", "storage-loss"),
    "storage-error": ("storage-error", "its storage fails", "its storage works again", "storage-loss"),
    "crash-vm": ("vm-crash", "the VM's process is killed", "", "vm-crash"),
    "hang-vm": ("guest-panic", "the appliance's kernel halts", "", "hung-engine"),
    "maintenance": ("local-maintenance", "is put into maintenance", "leaves maintenance", ""),
    "global-maintenance": ("global-maintenance", "global maintenance begins", "global maintenance ends", ""),
    "no-migration": ("migration-network-loss", "no host reaches another for a migration", "migrations work again", ""),
}
_ON_THE_CLUSTER = ("global-maintenance", "no-migration")


class WhatIfError(Exception):
    """One line: the question does not fit the cluster."""


@dataclass(frozen=True)
class Outage:
    """``seconds``: all that the page did not answer, from the beginning on. ``back``: it answered at the end.
    ``parts``: of the longest silence, seconds each, in their order."""

    seconds: float
    back: bool
    parts: Mapping[str, float]
    longest: float


@dataclass(frozen=True)
class RunOf:
    seed: int
    outage: Outage
    events: Tuple[Event, ...]
    begins: int
    ends: int
    engine_on: int  # at the end; 0: nowhere
    violations: Tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """``runs`` in the order of their seeds; ``planned``: how many were wanted. ``bound``: name and seconds, without the
    appliance's boot; None: nothing is announced for such a question."""

    cluster: LiveCluster
    question: Question
    boot: float
    runs: Tuple[RunOf, ...]
    planned: int
    bound: Optional[Tuple[str, float]]
    assumptions: Tuple[Assumption, ...]
    ranked: Tuple[RunOf, ...]  # the shortest outage first

    @property
    def typical(self) -> RunOf:
        return self.ranked[(len(self.ranked) - 1) // 2]

    @property
    def best(self) -> RunOf:
        return self.ranked[0]

    @property
    def worst(self) -> RunOf:
        return self.ranked[-1]

    @property
    def comes_back(self) -> bool:
        return all(run.outage.back for run in self.runs)

    @property
    def violations(self) -> Tuple[str, ...]:
        return tuple(dict.fromkeys(text for run in self.runs for text in run.violations))

    @property
    def certainty(self) -> str:
        doubt = sum(each.weight for each in self.assumptions)
        return "high" if doubt == 0 else "medium" if doubt <= 2 else "low"


def ask(
    cluster: LiveCluster, question: Question, clock: Callable[[], float] = time.monotonic, budget: float = BUDGET
) -> Answer:
    """At least one run, and as many of those that are wanted as can begin within ``budget`` seconds of ``clock``.
    Raises WhatIfError."""
    check(cluster, question)
    boot = question.boot_time
    if boot is None:
        boot = BOOT if cluster.boot_time is None else cluster.boot_time
    found = list(assumptions(cluster, question.boot_time is not None))
    named = [_host_of(cluster, fault) for fault in question.faults]
    members, left = cluster.smaller(MOST_SIMULATED, [host.id for host in named if host is not None])
    if left:
        text = f"{len(left)} of {len(cluster.hosts)} hosts, none of them among the first to start the VM, are left out"
        found.append(Assumption("left-out", text, 0))
    until = clock() + budget
    runs: List[RunOf] = []
    with laboratory():
        for number in range(question.runs):
            if runs and clock() >= until:
                break
            world = LiveWorld(members, boot, question.seed + number)
            differences: List[Assumption] = []
            runs.append(_run(world, question, differences))
            if number == 0:
                found += differences
    ranked = sorted(runs, key=lambda run: (not run.outage.back, run.outage.seconds, run.seed))
    return Answer(
        cluster, question, boot, tuple(runs), question.runs, _bound(cluster, question), tuple(found), tuple(ranked)
    )


# --- does the question fit? -------------------------------------------------------------------------------------------


def check(cluster: LiveCluster, question: Question) -> None:
    """Raises WhatIfError."""
    off: List[Tuple[int, AskedFault]] = []
    for fault in sorted(question.faults, key=lambda each: each.at):
        host = _host_of(cluster, fault)
        if host is None:
            _check_cluster(cluster, fault)
            continue
        _check_host(cluster, fault, host)
        for gone, why in off:
            if gone == host.id and (why.seconds is None or fault.at < why.at + why.seconds):
                raise WhatIfError(f"{fault.option}: {host.shown} is off then, since {why.option} at {why.at:g} s")
        if fault.name == "fail-host":
            off.append((host.id, fault))


def _host_of(cluster: LiveCluster, fault: AskedFault) -> Optional[LiveHost]:
    """None for what concerns no single host."""
    if fault.name in ("crash-vm", "hang-vm") or fault.host == ENGINE:
        where = cluster.engine_on
        if not where:
            raise WhatIfError(f"{fault.option}: the engine VM runs on no host")
        return cluster.host(where)
    if fault.host in ("", ALL):
        return None
    host = cluster.found(fault.host)
    if host is None:
        known = ", ".join(f"{each.id} ({each.name})" if each.name else str(each.id) for each in cluster.hosts[:20])
        raise WhatIfError(f"{fault.option}: expected a host of this cluster ({known}), found {fault.host[:40]!r}")
    return host


def _check_host(cluster: LiveCluster, fault: AskedFault, host: LiveHost) -> None:
    if not host.is_on:
        raise WhatIfError(f"{fault.option}: {host.shown} is off already")
    if fault.name == "maintenance":
        if host.mode != WORKS:
            raise WhatIfError(f"{fault.option}: the agent of {host.shown} does not run, nobody would see to it")
        if host.rests:
            raise WhatIfError(f"{fault.option}: {host.shown} is in maintenance already")


def _check_cluster(cluster: LiveCluster, fault: AskedFault) -> None:
    if fault.name != "global-maintenance":
        return
    if cluster.global_maintenance:
        raise WhatIfError(f"{fault.option}: the cluster is in global maintenance already")
    if not any(host.mode == WORKS for host in cluster.hosts):
        raise WhatIfError(f"{fault.option}: no host works that could write it")


# --- one run ----------------------------------------------------------------------------------------------------------


def _run(world: LiveWorld, question: Question, differences: List[Assumption]) -> RunOf:
    begins = ns(world.begins)
    world.timeline.at(begins, lambda: differences.extend(_differences(world)))
    for fault in question.faults:
        _plan(world, fault)
    begun = max((each.at for each in question.faults), default=0.0)
    ended = [each.at + each.seconds for each in question.faults if each.seconds is not None]
    waited = max([begun, *(end for end in ended if end <= begun + LATE_END)])
    limit = world.begins + waited + _patience(world, question)
    moment = world.begins + waited
    while moment < limit and not world.timeline.stopped:
        moment = min(moment + STEP, limit)
        world.run(moment)
        if _is_over(world, ns(world.begins + waited)):
            break
    copy = world.running_copy()
    return RunOf(
        seed=world.seed,
        outage=_outage(world, begins, world.timeline.now),
        events=world.telling.story(),
        begins=begins,
        ends=world.timeline.now,
        engine_on=0 if copy is None else copy.host,
        violations=tuple(str(each) for each in world.invariants.violations),
    )


def _patience(world: LiveWorld, question: Question) -> float:
    bounds = announced_bounds(world.disk.io_timeout, world.disk.watchdog)
    boot = world.guest_boot or 0.0
    ill = bounds["hung-engine-alone"] if _is_ill(world, question) else 0.0
    ranks = 15.0 * min(len(world.hosts), 8)
    return bounds["host-loss"] + 2.0 * boot + ranks + ill + PATIENCE


def _is_ill(world: LiveWorld, question: Question) -> bool:
    where = world.cluster.engine_on
    hung = any(each.name == "hang-vm" for each in question.faults)
    return hung or (where != 0 and world.cluster.host(where).health != "good")


def _is_over(world: LiveWorld, waited: int) -> bool:
    """The page answers, and nothing of weight has happened for a while."""
    if not world.page_answers():
        return False
    moments = [waited, world.page_log[-1][0] if world.page_log else 0]
    moments += [world.runs[-1][0]] if world.runs else []
    moments += [world.orders[-1][0]] if world.orders else []
    return world.timeline.now - max(moments) >= ns(QUIET)


def _plan(world: LiveWorld, fault: AskedFault) -> None:
    name = KINDS[_KINDS[fault.name][0]].name
    host = _target(world, fault)
    planned = Fault(world.begins + fault.at, name, host, fault.seconds)
    world.timeline.at(ns(planned.at), lambda: _begin(world, fault, planned))


def _target(world: LiveWorld, fault: AskedFault) -> HostName:
    if fault.name in _ON_THE_CLUSTER:
        working = [host for host in world.cluster.hosts if host.mode == WORKS]
        ours = [host for host in working if host.ours]
        return next(iter([*ours, *working, *world.cluster.hosts])).id
    if fault.name in ("crash-vm", "hang-vm"):
        return ENGINE
    if fault.host in (ENGINE, ALL):
        return fault.host
    found = world.cluster.found(fault.host)
    return world.cluster.hosts[0].id if found is None else found.id


def _begin(world: LiveWorld, fault: AskedFault, planned: Fault) -> None:
    _, words, after, _ = _KINDS[fault.name]
    told = 0 if fault.name in _ON_THE_CLUSTER or planned.host == ALL else planned.host
    if told == ENGINE:
        told = world.engine_host().number
    here = words if isinstance(told, int) and told else words.replace("its storage", "the storage of all hosts")
    there = after if isinstance(told, int) and told else after.replace("its storage", "the storage")
    host = told if isinstance(told, int) else 0
    world.telling.add(world.timeline.now, host, "fault", here)
    begin(world, planned)
    if planned.seconds is not None:
        end = world.timeline.now + ns(planned.seconds)
        world.timeline.at(end, lambda: world.telling.add(world.timeline.now, host, "fault", there))


def _differences(world: LiveWorld) -> List[Assumption]:
    """Where the simulated cluster does not stand as the real one, when the story begins."""
    if not world.cluster.engine_on:
        return []
    found = []
    where = world.engine_host().number
    if where != world.cluster.engine_on or not world.copies():
        text = "does not stay there" if not world.copies() else f"is moved to host {where}"
        text = f"By itself the VM {text} before the fault: the cluster, as found, is about to do so"
        found.append(Assumption("moves-by-itself", text, 2))
    for live in world.cluster.hosts:
        decision = world.last_decision.get(live.id)
        if live.mode != WORKS or decision is None:
            continue
        there = (live.score, live.state or decision.state.value)
        here = (decision.score.score, decision.state.value)
        if there != here:
            text = f"Host {live.id} publishes {there[1]} with {there[0]} points, here it has {here[1]} and {here[0]}"
            found.append(Assumption("differs", text))
    return found


# --- what came of it --------------------------------------------------------------------------------------------------


def _outage(world: LiveWorld, begins: int, ends: int) -> Outage:
    silences = _silences(world.page_log, begins, ends)
    if not silences:
        return Outage(0.0, True, {}, 0.0)
    total = sum(last - first for first, last in silences)
    first, last = max(_together(silences), key=lambda each: each[1] - each[0])
    back = world.page_answers()
    parts = _parts(world, first, last) if back or last < ends else _parts_so_far(world, first, last)
    return Outage(total / SECOND, back, parts, (last - first) / SECOND)


def _silences(log: List[Tuple[int, bool]], begins: int, ends: int) -> List[Tuple[int, int]]:
    found: List[Tuple[int, int]] = []
    for (moment, answers), after in zip(log, [when for when, _ in log[1:]] + [ends]):
        first, last = max(moment, begins), min(after, ends)
        if not answers and last > first:
            found.append((first, last))
    return found


def _together(silences: List[Tuple[int, int]]) -> List[Tuple[int, int]]:
    """Those between which the page answered for a moment only."""
    found = silences[:1]
    for first, last in silences[1:]:
        if first - found[-1][1] <= ns(MOMENT):
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def _parts(world: LiveWorld, first: int, last: int) -> Mapping[str, float]:
    """Of one silence: until somebody knows, until the lease can be had, until the VM runs, until the page answers."""
    known = _known(world, first, last)
    ran = [(when, host) for when, host, on in world.runs if on and first < when <= last]
    runs, runner = ran[-1] if ran else (last, 0)
    started = [when for when, host, order in world.orders if (host, order) == (runner, "start")]
    started = [when for when in started if first - _LATE <= when <= runs]
    if not started:
        return _seconds({"detection": known - first, "recovery": last - known})
    order = max(first, started[-1])
    known = min(known, order)
    since = [began for when, began in world.startable.get(runner, []) if first <= when <= order]
    free = min(max(since[-1] if since else order, known), order)
    return _seconds({"detection": known - first, "lease": free - known, "start": runs - free, "boot": last - runs})


def _parts_so_far(world: LiveWorld, first: int, last: int) -> Mapping[str, float]:
    return _seconds({"detection": _known(world, first, last) - first})


def _known(world: LiveWorld, first: int, last: int) -> int:
    """When a host first decided that the engine is away, or ordered something; the look that found the page silent may
    have come a little later."""
    return max(first, _first([*world.noticed, *(when for when, _, _ in world.orders)], first - _LATE, last))


def _first(moments: List[int], low: int, high: int) -> int:
    return min((when for when in moments if low <= when <= high), default=high)


def _seconds(parts: Dict[str, int]) -> Mapping[str, float]:
    return {name: value / SECOND for name, value in parts.items()}


def _bound(cluster: LiveCluster, question: Question) -> Optional[Tuple[str, float]]:
    """What the hosts announce for that. Nothing is announced for several faults together, or for storage that nobody
    has."""
    hit = []
    for fault in question.faults:
        name = _KINDS[fault.name][3]
        if name and fault.host == ALL:
            return None
        host = _host_of(cluster, fault) if name else None
        if host is not None and host.id == cluster.engine_on:
            hit.append(name)
        elif name:
            hit.append("")
    if len(hit) != 1 or not hit[0] or not cluster.engine_on:
        return None
    return hit[0], announced_bounds(cluster.io_timeout, cluster.watchdog)[hit[0]]
