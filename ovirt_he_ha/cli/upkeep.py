"""How a host's maintenance and the cluster's are told: which step, why it goes no further, with which words it was
asked, and which hosts have seen it."""

import time
from typing import Any, Callable, Dict, List, Optional

from ovirt_he_ha.cli.hosts import Hosts
from ovirt_he_ha.core.model import PREPARED, PREPARING, PREPARING_FAILED, Record, State

Struct = Dict[str, Any]

WORDS = {PREPARING: "preparing", PREPARED: "in maintenance", PREPARING_FAILED: "error in preparing"}


def state_of(record: Optional[Record]) -> str:
    """``preparing``, ``in-maintenance``, ``error-in-preparing``, or empty. A host of oVirt's own has only the flag."""
    if record is None:
        return ""
    return PREPARED if record.maintenance else record.get("maintenance_state")


def of_host(record: Optional[Record]) -> Struct:
    """``why``: what keeps the host from being in maintenance; ``reason``: the words of who asked, or ended it."""
    state = state_of(record)
    told = record if record is not None and record.extra_ok else None
    get: Callable[[str], str] = (lambda key: "") if told is None else told.get
    return {
        "state": state,
        "why": get("maintenance_why"),
        "reason": get("maintenance_reason" if state else "maintenance_ended"),
        "seen_global": has_seen(record),
    }


def text_of(struct: Struct) -> str:
    """One line of :func:`of_host`; empty when there is nothing to tell."""
    if not struct["state"]:
        return f"ended: {struct['reason']}" if struct["reason"] else ""
    text = str(WORDS.get(struct["state"]) or struct["state"])
    if struct["why"]:
        text += f": {struct['why']}"
    if struct["state"] == PREPARING_FAILED:
        text += "; the VM keeps running there"
    return text + (f" (reason given: {struct['reason']})" if struct["reason"] else "")


# --- the cluster's ----------------------------------------------------------------------------------------------------


def has_seen(record: Optional[Record]) -> bool:
    """This host's agent acts on the cluster's flag. One in local maintenance starts nothing, whatever the flag says."""
    return record is not None and (record.maintenance or record.get("state") == State.GLOBAL_MAINTENANCE.value)


def of_cluster(hosts: Hosts) -> Struct:
    """``on`` None: cannot be read. ``seen`` and ``not_seen``: live hosts whose agents run; ``asked_on``, ``since``
    (seconds since the epoch) and ``reason``: where it was asked last, as far as a host of ours knows."""
    running = {host: one for host, one in hosts.records().items() if host in hosts.alive and not one.stopped}
    asked = max(((_since(one), host) for host, one in hosts.records().items()), default=(0, 0))
    told = hosts.records()[asked[1]] if asked[0] else None
    return {
        "on": hosts.global_maintenance.value,
        "seen": [host for host, one in running.items() if has_seen(one)],
        "not_seen": [host for host, one in running.items() if not has_seen(one)],
        "asked_on": asked[1] if told else None,
        "since": asked[0] or None,
        "reason": told.get("global_reason") if told else "",
    }


def cluster_lines(hosts: Hosts) -> List[str]:
    """Below the banner; nothing while the flag is off."""
    found = of_cluster(hosts)
    if not found["on"]:
        return []
    lines = [seen_line(hosts)]
    if found["asked_on"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
        reason = f": {found['reason']}" if found["reason"] else ""
        lines.append(f"Asked on host {hosts.name(found['asked_on'])} at {when}{reason}")
    return lines


def seen_line(hosts: Hosts) -> str:
    found = of_cluster(hosts)
    seen = ", ".join(hosts.name(host) for host in found["seen"]) or "none yet"
    missing = ", ".join(hosts.name(host) for host in found["not_seen"])
    return f"Hosts that have seen it: {seen}" + (f"; not yet: {missing}" if missing else "")


def _since(record: Record) -> int:
    text = record.get("global_since") if record.extra_ok else ""
    return int(text[:12]) if text.isascii() and text.isdigit() else 0
