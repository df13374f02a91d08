"""Why the VM is where it is, and what comes next: one answer for the whole cluster, from what its hosts published.

Pure: hosts in, plain values out (as ``--why --json`` prints them).
"""

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from ovirt_he_ha.cli.host_story import (
    UPSTREAM,
    HostSeen,
    Struct,
    duration,
    from_now,
    host_struct,
    lasting,
    said,
    step_struct,
)
from ovirt_he_ha.core import advice
from ovirt_he_ha.core import forecast as fc
from ovirt_he_ha.core.forecast import Step
from ovirt_he_ha.core.model import LeaseOwner, Reading, Reason, State, Vm
from ovirt_he_ha.core.timers import Timers

_LATE = Timers().facts_stale  # seconds; a host that lives says something every 10
_SHUTS = (State.ENGINE_STOP.value, State.ENGINE_FORCE_STOP.value)


@dataclass(frozen=True)
class Cluster:
    """``hosts`` by id. ``owner`` of the VM's lease, as read."""

    hosts: Sequence[HostSeen]
    own_id: int
    global_maintenance: "Reading[bool]"
    owner: "Reading[LeaseOwner]"

    def name(self, host_id: int) -> str:
        found = next((host for host in self.hosts if host.host_id == host_id), None)
        return found.name if found is not None else f"host {host_id}"


def explain(cluster: Cluster) -> Struct:
    """``answer``, ``next``, ``global_maintenance``, ``lease``, ``hosts`` and ``do``: the members of the JSON object
    that need no other source."""
    ahead, up = _ahead(cluster), _publishing_up(cluster)
    return {
        "answer": _answer(cluster, ahead),
        "next": [step_struct(host, step) for host, step in ahead],
        "global_maintenance": cluster.global_maintenance.value,
        "lease": _lease(cluster),
        "hosts": [host_struct(host, cluster.own_id, _stands_by(host, up)) for host in cluster.hosts],
        "do": _to_do(cluster),
    }


def _stands_by(host: HostSeen, up: Sequence[HostSeen]) -> bool:
    return bool(up) and host.counts and host not in up


# --- what comes next --------------------------------------------------------------------------------------------------


def _ahead(cluster: Cluster) -> List[Tuple[HostSeen, Step]]:
    """The steps of all hosts that count, those with a time first, then those that wait for the fewest things. A start
    counts only while nobody has the VM."""
    absent = _where(cluster) is None
    found = [
        (host, step)
        for host in cluster.hosts
        if host.counts
        for step in host.forecast.steps
        if step.action != fc.START or absent
    ]
    ends = _ends(found)
    return sorted(((host, _informed(host, step, ends)) for host, step in found), key=_soonest)


# What ends for all hosts in the same moment.
_COMMON = ("lease-held",)
_ELSEWHERE = "engine-up-elsewhere"
Ends = List[Tuple[Reason, float]]


def _ends(found: Sequence[Tuple[HostSeen, Step]]) -> Ends:
    """When, from now, something ends that several hosts wait for: those that publish every 10 s do not do it together,
    and the one whose turn it is may be the last to say so."""
    waits = [(host, wait) for host, step in found for wait in step.waits if wait.why.code in _COMMON]
    ends = [(wait.why, from_now(host, wait.at)) for host, wait in waits]
    known = [(why, at) for why, at in ends if at is not None]
    # A start is among the steps only while no live host publishes the VM as up: whoever waits for that learns it next.
    return [*known, *((wait.why, 0.0) for _, step in found for wait in step.waits if wait.why.code == _ELSEWHERE)]


def _informed(host: HostSeen, step: Step, ends: Ends) -> Step:
    if step.action != fc.START:
        return step
    return fc.informed(step, [(why, at + (host.age or 0.0)) for why, at in ends])


def _soonest(item: Tuple[HostSeen, Step]) -> Tuple[bool, float, bool, float, int, int]:
    host, step = item
    at = from_now(host, step.at)
    needs_somebody = any(wait.why.code in _BY_SOMEBODY for wait in step.waits)
    score = host.record.score if host.record is not None else 0
    return at is None, at or 0.0, needs_somebody, float(len(step.events)), -score, host.host_id


# Waits that end by an operator's hand only: such a host is the last one to start the VM.
_BY_SOMEBODY = (
    "global-maintenance",
    "local-maintenance",
    "agent-stopped",
    "definition",
    "unfenced",
    "too-new",
    "lease-unset",
    "lease-mismatch",
)


# --- the answer -------------------------------------------------------------------------------------------------------


def _where(cluster: Cluster) -> Optional[HostSeen]:
    """The host that has the VM, as far as the hosts say."""
    up = _publishing_up(cluster)
    return up[0] if up else None


def _publishing_up(cluster: Cluster) -> List[HostSeen]:
    up = [host for host in cluster.hosts if host.counts and _is_up(host)]
    return sorted(up, key=lambda host: (_detail(host) == "Migration Source", host.host_id))


def _is_up(host: HostSeen) -> bool:
    engine = host.record.engine if host.record is not None else None
    return engine is not None and engine.vm is Vm.UP


def _detail(host: HostSeen) -> str:
    engine = host.record.engine if host.record is not None else None
    return engine.detail if engine is not None else ""


Ahead = Sequence[Tuple[HostSeen, Step]]


def _answer(cluster: Cluster, ahead: Ahead) -> Struct:
    up = _publishing_up(cluster)
    starting = next((h for h in cluster.hosts if h.counts and h.state == State.ENGINE_START.value), None)
    if up:
        code, host, text = _there(up, ahead)
    elif starting is not None:
        code, host, text = "starting", starting, f"The engine VM is not running: {starting.name} is starting it now"
    elif not any(each.counts for each in cluster.hosts):
        code, host, text = "unknown", None, _nobody(cluster)
    else:
        code, host, text = _absent(cluster, ahead)
    flag = cluster.global_maintenance
    if flag.value is True:
        text += "; global maintenance: no host starts, stops or moves it"
    elif flag.value is None:
        text += f"; whether global maintenance is on cannot be read ({flag.unknown}): nobody acts until it can"
    since = None if host is None or not up else lasting(host, "up.since")
    return {"code": code, "host": None if host is None else host.host_id, "since": since, "text": text + "."}


def _there(up: List[HostSeen], ahead: Ahead) -> Tuple[str, HostSeen, str]:
    host = up[0]
    record = host.record
    assert record is not None
    if len(up) > 1 and _detail(up[-1]) == "Migration Source":
        return "migrating", host, f"The engine VM is on its way from {up[-1].name} to {host.name}"
    if len(up) > 1:
        others = " and ".join(each.name for each in up)
        return "twice", host, f"The engine VM is published as up by {others}: its lease allows one of them only"
    if host.state in _SHUTS:
        return "stopping", host, f"{host.name[0].upper()}{host.name[1:]} stops the engine VM; {_next_of(host, ahead)}"
    if _migrates(host):
        return "migrating", host, f"The engine VM is being migrated away from {host.name}; {_next_of(host, ahead)}"
    long = lasting(host, "up.since")
    since = f", for {duration(long)}" if long is not None else ""
    health = record.engine.health.value if record.engine is not None else "unknown"
    code, word = ("runs", "and is healthy") if health == "good" else ("bad-health", f"and its health is {health}")
    if _detail(host) == "Paused":
        code, word = "paused", "but is paused"
    if host.age is not None and host.age > _LATE:
        since += f" (said {duration(host.age)} ago)"
    return code, host, f"The engine VM runs on {host.name}{since}, {word}; {_next_of(host, ahead)}"


def _migrates(host: HostSeen) -> bool:
    return host.state != "" and host.record is not None and host.record.get("phase") == "migrating"


def _next_of(host: HostSeen, ahead: Ahead) -> str:
    mine = [step_struct(each, step)["text"] for each, step in ahead if each is host]
    return mine[0] if mine else "nothing is about to change"


def _nobody(cluster: Cluster) -> str:
    if not cluster.hosts:
        return "Whether the engine VM runs is not known: no host has published anything"
    ages = [host.age for host in cluster.hosts if host.age is not None]
    last = f"; the last word is {duration(min(ages))} old" if ages else ""
    return f"Whether the engine VM runs is not known: no host is known to be alive{last}"


def _absent(cluster: Cluster, ahead: Ahead) -> Tuple[str, Optional[HostSeen], str]:
    starts = [(host, step) for host, step in ahead if step.action == fc.START]
    if not starts:
        stopped = _left_running(cluster)
        if stopped:
            return "unknown", None, stopped
        return "not-running", None, f"The engine VM is not running, and no host is about to start it{_theirs(cluster)}"
    host, step = starts[0]
    text = f"The engine VM is not running: {step_struct(host, step)['text']}"
    if any(wait.why.code == "lease-held" for wait in step.waits) and host.record is not None:
        bound = host.record.get("bound.host-loss")
        text += f" (announced bound after the loss of a host: {bound} s)" if bound else ""
    return "not-running", host, text


def _left_running(cluster: Cluster) -> str:
    """Its agent was stopped cleanly, and sanlock says that the host lives and owns the lease."""
    owner = cluster.owner.value
    for host in cluster.hosts:
        if owner is not None and host.host_id == owner.host_id and host.lease == "live" and not host.counts:
            return f"The engine VM runs on {host.name} as far as its lease tells, and nobody watches over it there"
    return ""


def _theirs(cluster: Cluster) -> str:
    upstream = [host.name for host in cluster.hosts if host.counts and host.kind == UPSTREAM]
    return f"; what {' and '.join(upstream)} will do is not published" if upstream else ""


def _lease(cluster: Cluster) -> Struct:
    reading = cluster.owner
    owner = reading.value
    return {
        "owner": None if owner is None else owner.host_id,
        "generation": None if owner is None else owner.generation,
        "age": None if reading.age is None else round(reading.age, 1),
        "unknown": "" if owner is not None else reading.unknown or "stale",
    }


def _to_do(cluster: Cluster) -> List[str]:
    """Each advice once, the hosts named that it is for."""
    found: Dict[str, List[str]] = {}
    for host in cluster.hosts:
        for why in said(host)[0] if host.counts else ():
            if why.code == "lease-held" and why.values.get("flag") == "live":
                continue  # where it belongs while the VM runs there
            text = advice.to_do(why)
            if text and host.name not in found.setdefault(text, []):
                found[text].append(host.name)
    return [f"{text} ({', '.join(names)})" for text, names in found.items()]
