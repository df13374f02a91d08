"""The cluster as it is now, as one plain document: what a simulation begins with. Nothing is written, anywhere.

The broker is asked. Where it does not answer, or has not read the volume itself, the volume is read instead.
"""

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Collection, Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.cli.boot_time import boot_time
from ovirt_he_ha.cli.deployment import LOOK_SECONDS, link_to_broker, look
from ovirt_he_ha.cli.hosts import Hosts, read_hosts
from ovirt_he_ha.cli.problems import local_problems
from ovirt_he_ha.cli.request import Refusal
from ovirt_he_ha.cli.waiting import notice
from ovirt_he_ha.client.link import BrokerError, BrokerSnapshot
from ovirt_he_ha.config.files import HostedEngineConf, load_agent_conf, read_values
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core.model import HostLease, Invalid, Record
from ovirt_he_ha.core.reasons import from_record

FORMAT = "ovirt-he-ha cluster"
VERSION = 1
_PENALTIES = ("network", "bridge", "cpu-load", "memory", "retries", "conf")
_AHEAD = ("start-backoff", "hand-over-end")


def snapshot_of(paths: HostPaths, conf: HostedEngineConf) -> Dict[str, Any]:
    """Raises Refusal: no host publishes anything, or the storage cannot be read."""
    try:
        facts, alive = _from_the_broker(paths)
        problems = [problem.text for problem in local_problems(facts, conf.host_id, alive, paths)]
        source, known = "broker", conf.host_id in alive  # this host's agent says who is alive, if it runs
    except (BrokerError, _NotRead) as error:
        from ovirt_he_ha.cli.slot_watch import WATCH, watched

        with notice(f"The broker does not answer: watching for up to {WATCH:.0f} s who writes to the volume"):
            facts, alive = watched(conf)
        source, known, problems = "volume", True, [str(error)]
    hosts = read_hosts(facts, alive)
    document = _cluster(paths, conf, facts, hosts)
    document.update(source=source, problems=problems)
    document["hosts"] = _hosts(hosts, facts.leases.hosts.value, alive if known else None)
    if not document["hosts"]:
        raise Refusal("no-hosts", "No host publishes anything: there is nothing to begin with. " + "; ".join(problems))
    return document


def _from_the_broker(paths: HostPaths) -> Tuple[BrokerSnapshot, Collection[int]]:
    with link_to_broker(paths, LOOK_SECONDS) as link:
        facts, alive = look(link)
    if facts.slots_age is None:
        raise _NotRead("the broker has not read the volume yet")
    return facts, alive


class _NotRead(Exception):
    """The broker answers, and knows nothing."""


def _cluster(paths: HostPaths, conf: HostedEngineConf, facts: BrokerSnapshot, hosts: Hosts) -> Dict[str, Any]:
    owner = facts.leases.owner.value
    return {
        "format": FORMAT,
        "version": VERSION,
        "taken": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "own_id": conf.host_id,
        "io_timeout": facts.leases.io_timeout,
        "watchdog": facts.leases.watchdog,
        "memory_mib": _memory(paths),
        "boot_time": boot_time(paths),
        "score": asdict(load_agent_conf(paths.agent_conf).score),
        "global_maintenance": hosts.global_maintenance.value,
        "owner": None if owner is None else {"host_id": owner.host_id, "generation": owner.generation},
    }


def _memory(paths: HostPaths) -> Optional[int]:
    """MiB of the VM, where its configuration is here and says so."""
    for path in (paths.vm_conf, paths.vm_conf_fallback):
        try:
            text = read_values(path).get("memSize", "")
        except ConfigError:
            continue
        if text.isascii() and text.isdigit() and 0 < int(text[:9]) < 1 << 24:
            return int(text[:9])
    return None


# --- hosts ------------------------------------------------------------------------------------------------------------


def _hosts(
    hosts: Hosts, leases: Optional[Mapping[int, HostLease]], alive: Optional[Collection[int]]
) -> List[Dict[str, Any]]:
    """Whoever published something, and whoever sanlock lists without having left."""
    flags = leases or {}
    silent = {host_id for host_id, flag in flags.items() if flag in (HostLease.LIVE, HostLease.FAIL)}
    found = []
    for host_id in sorted({*hosts.slots, *silent}):
        flag = flags.get(host_id)
        host: Dict[str, Any] = {"id": host_id, "lease": None if flag is None else flag.value}
        slot = hosts.slots.get(host_id)
        if isinstance(slot, Record):
            host.update(_record(slot))
            host["live"] = None if alive is None else host_id in alive
        elif isinstance(slot, Invalid):
            host.update(slot="invalid", problem=slot.reason, live=False)
        else:
            host.update(slot="empty", live=False)
        found.append(host)
    return found


def _record(record: Record) -> Dict[str, Any]:
    engine, ours = record.engine, record.extra_ok
    said = dict(record.extra)
    penalties = {
        code: said[f"score.{code}"].partition(" ")[2] for code in _PENALTIES if ours and f"score.{code}" in said
    }
    countdowns = from_record(record, 0.0)[1] if ours else ()
    return {
        "slot": "record",
        "name": _plain(record.hostname),
        "score": record.score,
        "state": _plain(record.get("state")),
        "vm": None if engine is None else engine.vm.value,
        "health": None if engine is None else engine.health.value,
        "detail": "" if engine is None else _plain(engine.detail),
        "maintenance": record.maintenance,
        "leaving": ours and record.get("maintenance_state") != "",
        "stopped": record.stopped,
        "ours": ours,
        "version": _plain(record.get("version")) if ours else "",
        "migration": ours and record.get("mig") == "1",
        "cpu": _plain(record.get("cpu")) if ours else "",
        "mem_free": _whole(record.get("mem")) if ours else None,
        "generation": _whole(record.get("gen")),
        "penalties": {code: _plain(text) for code, text in penalties.items()},
        "zero": _plain(record.get("score.zero")) if ours else "",
        "ahead": {each.event: each.at for each in countdowns if each.event in _AHEAD},
    }


def _whole(text: str) -> Optional[int]:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:512]
