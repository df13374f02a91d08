"""Looking, without changing anything: --vm-status, --check-deployed, --check-liveliness."""

import json
import time
from typing import Any, Dict, List

from ovirt_he_ha.cli.deployment import (
    LOOK_SECONDS,
    deployed_conf,
    fetched_vm_conf,
    half_deployed,
    is_deployed,
    link_to_broker,
    written_values,
)
from ovirt_he_ha.cli.hosts import Hosts, read_hosts, structs
from ovirt_he_ha.cli.problems import Problem, local_problems
from ovirt_he_ha.cli.request import Refusal, Request, say, warn
from ovirt_he_ha.config.files import load_agent_conf
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
        raise Refusal("configuration", str(error), status=2) from error
    url = agent_conf.health_url or (f"http://{fqdn}{health_page.PATH}" if fqdn not in ("", "None") else "")
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
    began = time.monotonic()
    with link_to_broker(paths, LOOK_SECONDS) as link:
        snapshot = link.snapshot()
        link.deadline = max(0.1, LOOK_SECONDS - (time.monotonic() - began))
        alive = link.is_host_alive()
    hosts = read_hosts(snapshot, alive)
    problems = local_problems(snapshot, conf.host_id, alive)
    if hosts.global_maintenance.value is None:
        problems.append(
            Problem("global-flag", "Whether the cluster is in global maintenance cannot be read from slot 0")
        )
    if request.json:
        say(json.dumps(_as_json(hosts, problems, conf.host_id)))
        return 0 if hosts.slots else 1
    return _print(hosts, problems, conf.host_id)


def _as_json(hosts: Hosts, problems: List[Problem], own_id: int) -> Dict[str, Any]:
    """Consumers take every top-level key but global_maintenance for a host: nothing else may stand there, except on
    failure."""
    answer: Dict[str, Any] = {}
    for struct in structs(hosts, own_id):
        if struct["local-host"]:
            struct["problems"] = [problem._asdict() for problem in problems]
        answer[str(struct["host-id"])] = struct
    answer["global_maintenance"] = bool(hosts.global_maintenance.value)
    if not hosts.slots:
        answer["error"] = {"code": "no-hosts", "message": _nobody(problems)}
    return answer


def _print(hosts: Hosts, problems: List[Problem], own_id: int) -> int:
    if not hosts.slots:
        warn(_nobody(problems))
        return 1
    lines: List[str] = []
    banner = ["", "", _BANNER] if hosts.global_maintenance.value else []
    lines += banner
    for struct in structs(hosts, own_id):
        lines += ["", "", f"--== Host {struct['hostname']} (id: {struct['host-id']}) status ==--", ""]
        lines += _host_lines(struct)
    lines += banner
    if problems:
        lines += ["", "", f"This host (id: {own_id}) has problems:"]
        lines += [f"\t{problem.text}" for problem in problems]
    say("\n".join(lines))
    return 0


def _host_lines(struct: Dict[str, Any]) -> List[str]:
    extra = str(struct.pop("extra"))
    del struct["local-host"]
    shown = dict(struct)
    status = json.dumps(struct["engine-status"])
    shown["engine-status"] = status if struct["live-data"] else _STALE
    if "invalid" in shown:
        shown["invalid"] = "invalid: {reason} {detail}".format(**shown["invalid"]).rstrip()
    lines = [f"{_LABELS.get(key, key).ljust(_WIDTH)}: {value}" for key, value in shown.items()]
    if extra:
        lines.append(f"{_LAST.ljust(_WIDTH)}:")
        lines += [f"\t{line}" for line in extra.splitlines()]
    return lines


def _nobody(problems: List[Problem]) -> str:
    return "No host has published anything yet. " + "; ".join(problem.text for problem in problems)
