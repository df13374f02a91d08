"""What the lab looks like at this moment, for people and for programs."""

import json
import time
from typing import Any, Dict, List, Optional

from ovirt_he_ha.lab import cluster, control, faults, process
from ovirt_he_ha.lab.layout import Lab, LabHost
from ovirt_he_ha.lab.testimony import Witness


def gather(lab: Lab) -> Dict[str, Any]:
    """Raises LabError when the lab does not answer."""
    kept = control.call(lab.control, "status", deadline=10)
    on = set(kept["on"])
    world = Witness(lab.observations).world
    hosts = [_host(lab.host(host_id), host_id in on) for host_id in lab.host_ids]
    told = product_view(lab, sorted(on))
    for host in hosts:
        host["product"] = told.get(host["id"])
        host.update(kept["hosts"].get(str(host["id"]), {}))
    return {
        "directory": lab.directory,
        "time_scale": lab.scale,
        "hosts": hosts,
        "faults": faults.in_force(lab, sorted(on)),
        "engine": {
            "address": lab.engine_address,
            "healthy": bool(world.healthy),
            "running_on": world.hosts_running(),
            "lease_owner": world.owner,
            "observed_ago": round(time.monotonic() - world.at, 1),
        },
    }


def product_view(lab: Lab, host_ids: List[int]) -> Dict[int, Dict[str, Any]]:
    """What `hosted-engine --vm-status --json` of the first host that answers says of each host; empty when none
    does."""
    for host_id in host_ids if lab.daemons else []:
        words = ["hosted-engine", "--vm-status", "--json"]
        done = cluster.inside(lab.host(host_id), words, limit=10, capture_output=True, text=True)
        try:
            blocks = json.loads(done.stdout)
        except ValueError:
            continue  # its broker does not answer; another host's may
        return {int(key): _product(block) for key, block in blocks.items() if key.isdigit()}
    return {}


def _product(block: Dict[str, Any]) -> Dict[str, Any]:
    extra = str(block.get("extra", ""))
    state = next((line[len("state=") :] for line in extra.splitlines() if line.startswith("state=")), "")
    return {"live": bool(block.get("live-data")), "score": block.get("score"), "state": state}


def _host(host: LabHost, powered: bool) -> Dict[str, Any]:
    found: Dict[str, Any] = {
        "id": host.host_id,
        "name": host.hostname,
        "address": host.address,
        "power": "on" if powered else "off",
        "services": {},
        "engine": False,
        "storage": None,
        "watchdog": None,
    }
    if powered:
        try:
            services = control.call(host.control, "status", deadline=5)
        except control.Unreachable:
            return {**found, "power": "starting"}
        found["services"] = {
            name: {"running": one["pid"] is not None, "starts": one["starts"], "last_exit": one["last_exit"]}
            for name, one in services.items()
        }
        found["engine"] = bool(process.engines(host.lab.identity.vm, cluster.namespace(host)))
    return found


def render(status: Dict[str, Any]) -> str:
    engine = status["engine"]
    health = "healthy" if engine["healthy"] else "does not answer"
    where = ", ".join(f"h{host_id}" for host_id in engine["running_on"]) or "no host"
    owner = engine["lease_owner"]
    lines = [
        f"engine  {health} at {engine['address']}; runs on {where}; lease held by {f'h{owner}' if owner else 'nobody'}",
        f"lab     {status['directory']}, {status['time_scale']:g} product seconds per second",
    ]
    lines += [_host_line(host) for host in status["hosts"]]
    lines.append(f"faults  {'; '.join(_fault_words(status['faults'])) or 'none'}")
    return "\n".join(lines)


def _fault_words(found: Dict[str, Any]) -> List[str]:
    words = ["the gateway is gone"] if found["gateway"] else []
    words += [f"engine: {fault}" for fault in found["guest"]]
    words += [f"h{host}: {' and '.join(cut)} network cut" for host, cut in found["network"].items()]
    words += [f"h{host}: storage {mode}" for host, mode in found["storage"].items()]
    return words


def _watchdog_words(watchdog: Optional[Dict[str, Any]]) -> List[str]:
    if watchdog is None:
        return []
    if not watchdog["armed"]:
        return ["watchdog NOT ARMED" if watchdog["present"] else "NO WATCHDOG"]
    return [f"watchdog fires in {watchdog['fires_in']:.1f} s"] if watchdog["overdue"] else []


def _host_line(host: Dict[str, Any]) -> str:
    words: List[str] = [f"h{host['id']}", host["address"], f"power {host['power']}"]
    for name, service in host["services"].items():
        restarts = service["starts"] - 1
        state = "up" if service["running"] else "DOWN"
        words.append(f"{name} {state}" + (f" ({restarts} restarts)" if restarts else ""))
    words += _watchdog_words(host["watchdog"])
    told = host["product"]
    if told:
        words.append(f"{'live' if told['live'] else 'NOT LIVE'}, score {told['score']}, {told['state']}")
    if host["engine"]:
        words.append("ENGINE")
    return "  ".join(words)
