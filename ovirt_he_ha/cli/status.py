"""Looking, without changing anything: --vm-status, --check-deployed, --check-liveliness."""

import json
from typing import Any, Dict, List

from ovirt_he_ha.cli import upkeep
from ovirt_he_ha.cli.deployment import (
    deployed_conf,
    fetched_vm_conf,
    half_deployed,
    is_deployed,
    written_values,
)
from ovirt_he_ha.cli.failure import explain
from ovirt_he_ha.cli.hosts import structs
from ovirt_he_ha.cli.problems import Problem
from ovirt_he_ha.cli.request import Refusal, Request, say, say_painted, warn
from ovirt_he_ha.cli.sources import BROKER, CLOCK, NOBODY, Origin, View, gather
from ovirt_he_ha.config.files import load_agent_conf
from ovirt_he_ha.config.health import health_url
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError

_WIDTH = 35
_BANNER = "!! The cluster is in GLOBAL MAINTENANCE !!"
_STALE = "unknown stale-data"
_LABELS = {
    "host-id": "Host ID",
    "host-ts": "Host timestamp",
    "score": "Score",
    "engine-status": "Engine status",
    "hostname": "Hostname",
    "maintenance": "Local maintenance",
    "live-data": "Status up-to-date",
    "invalid": "Slot",
}
_UPKEEP = "Maintenance"
_LAST = "Extra metadata (valid at timestamp)"


def check_deployed(_request: Request) -> int:
    if is_deployed(HostPaths.from_env()):
        say("This host is deployed")
        return 0
    say("This host is not deployed")
    return 1


def check_liveliness(_request: Request) -> int:
    """0 up, 1 down, 2 not configured."""
    from ovirt_he_ha.cli import health_page  # HTTP and TLS: a sixth of what --vm-status costs without them

    paths = HostPaths.from_env()
    try:
        fqdn = written_values(paths).get("fqdn", "")
        agent_conf = load_agent_conf(paths.agent_conf)
    except ConfigError as error:
        raise Refusal("configuration", str(explain(error)), status=2) from error
    url = agent_conf.health_url or (health_url(fqdn) if fqdn not in ("", "None") else "")
    if not url:
        raise Refusal(
            "configuration",
            f"{paths.hosted_engine_conf}: fqdn: expected the engine's host name, found nothing",
            status=2,
        )
    problem = health_page.ask(url, agent_conf.health_ca_file)
    if problem:
        say(f"The engine is down: {problem}")
        return 1
    say("The engine is up")
    return 0


def vm_status(request: Request) -> int:
    """0; 1 no host has published; 2 half deployed."""
    _check_options(request)
    paths = HostPaths.from_env()
    if not is_deployed(paths) and half_deployed(paths):
        raise Refusal(
            "half-deployed",
            "A deployment on this host failed or still runs: wait for it, or clean up and deploy again",
            status=2,
            to_stdout=True,
        )
    conf = deployed_conf(paths)
    fetched_vm_conf(paths, conf)
    if request.has("--watch") or request.has("--stream"):
        from ovirt_he_ha.cli import watch

        if request.has("--watch"):
            return watch.watch(paths, conf)
        return watch.stream(paths, conf, lambda view: _as_json(view, conf.host_id))
    view = gather(paths, conf)
    if request.json:
        say(json.dumps(_as_json(view, conf.host_id)))
        return 0 if view.hosts.slots else 1
    if not view.hosts.slots:
        warn(_nobody(view.problems))
        return 1
    if request.has("--table"):
        from ovirt_he_ha.cli.table import table

        say_painted(table(view, conf.host_id))
        return 0
    _print(view, conf.host_id)
    return 0


def _check_options(request: Request) -> None:
    given = [option for option in ("--json", "--table", "--watch", "--stream") if request.has(option)]
    if len(given) > 1 and given not in (["--table", "--watch"], ["--json", "--stream"]):
        raise Refusal("usage", f"{' and '.join(given)} exclude each other")


def _as_json(view: View, own_id: int) -> Dict[str, Any]:
    """Consumers take every top-level key but global_maintenance for a host: nothing else may stand there, except on
    failure."""
    answer: Dict[str, Any] = {}
    flag = _origin(view.slots)
    for struct in structs(view.hosts, own_id):
        host_id = struct["host-id"]
        struct["sanlock"] = view.lease_of(host_id)
        struct["maintenance-state"] = upkeep.of_host(view.hosts.records().get(host_id))
        struct["sources"] = {
            "slot": _origin(view.slots),
            "live-data": _origin(view.live if view.live.source != CLOCK or host_id == own_id else Origin(NOBODY, None)),
            "sanlock": _origin(Origin(view.leases_from, view.leases.age)),
            "global_maintenance": flag,
        }
        if struct["local-host"]:
            struct["problems"] = [problem._asdict() for problem in view.problems]
        answer[str(host_id)] = struct
    answer["global_maintenance"] = bool(view.hosts.global_maintenance.value)
    if not view.hosts.slots:
        answer["error"] = {"code": "no-hosts", "message": _nobody(view.problems)}
    return answer


def _origin(origin: Origin) -> Dict[str, Any]:
    return {"from": origin.source, "age": None if origin.age is None else round(origin.age, 1)}


def _print(view: View, own_id: int) -> None:
    lines: List[str] = []
    banner = ["", "", _BANNER] if view.hosts.global_maintenance.value else []
    lines += [*banner, *upkeep.cluster_lines(view.hosts)]
    for struct in structs(view.hosts, own_id):
        lines += ["", "", f"--== Host {struct['hostname']} (id: {struct['host-id']}) status ==--", ""]
        lines += _host_lines(struct, upkeep.of_host(view.hosts.records().get(struct["host-id"])))
    lines += banner
    if view.problems:
        lines += ["", "", f"This host (id: {own_id}) has problems:"]
        lines += [f"\t{line}" for problem in view.problems for line in problem.text.splitlines()]
    if view.slots.source != BROKER:
        lines += ["", "", *_found(view)]
    say("\n".join(lines))


def _found(view: View) -> List[str]:
    """Only where the broker did not answer: with it the layout is the one that scripts know."""
    lines = [f"Read from the volume {view.slots.age or 0.0:.1f} s ago"]
    if view.leases.value is None:
        lines.append(f"sanlock does not say which hosts are alive ({view.leases.unknown})")
    else:
        states = ", ".join(f"host {host_id} {view.lease_of(host_id)}" for host_id in sorted(view.hosts.slots))
        lines.append(f"sanlock says, {view.leases.age or 0.0:.1f} s ago: {states}")
    return lines


def _host_lines(struct: Dict[str, Any], maintenance: Dict[str, Any]) -> List[str]:
    extra = str(struct.pop("extra"))
    del struct["local-host"]
    shown = dict(struct)
    status = json.dumps(struct["engine-status"])
    shown["engine-status"] = status if struct["live-data"] else _STALE
    if "invalid" in shown:
        shown["invalid"] = "invalid: {reason} {detail}".format(**shown["invalid"]).rstrip()
    lines = [f"{_LABELS.get(key, key).ljust(_WIDTH)}: {value}" for key, value in shown.items()]
    if upkeep.text_of(maintenance):
        lines.append(f"{_UPKEEP.ljust(_WIDTH)}: {upkeep.text_of(maintenance)}")
    if extra:
        lines.append(f"{_LAST.ljust(_WIDTH)}:")
        lines += [f"\t{line}" for line in extra.splitlines()]
    return lines


def _nobody(problems: List[Problem]) -> str:
    return "No host has published anything yet. " + "; ".join(problem.text for problem in problems)
