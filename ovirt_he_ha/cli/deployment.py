"""This host's deployment as the verbs need it: is there one, and is its VM definition here?"""

import os
import time
from pathlib import Path
from typing import Dict, Tuple

from ovirt_he_ha.cli.request import Refusal
from ovirt_he_ha.client.link import BrokerError, BrokerLink, BrokerSnapshot, BrokerUnavailable
from ovirt_he_ha.config.files import HostedEngineConf, load_hosted_engine_conf, read_values
from ovirt_he_ha.config.paths import HostPaths

NOT_DEPLOYED = "This host is not deployed: run the deployment first"
CALL_SECONDS = 10.0  # wall: longer than the broker's own deadlines, shorter than anybody's patience
LOOK_SECONDS = 2.0  # wall, for all that a look asks: the broker answers from its memory, whatever else hangs
_LOCAL_VM = "HostedEngineLocal"  # the temporary VM of a deployment


def link_to_broker(paths: HostPaths, seconds: float = CALL_SECONDS) -> BrokerLink:
    """``seconds`` (wall): for each call."""
    return BrokerLink(paths.broker_socket, seconds)


def look(link: BrokerLink) -> Tuple[BrokerSnapshot, Tuple[int, ...]]:
    """What the broker knows, and the ids that the agent counts as live: within the link's deadline together."""
    whole = link.deadline
    until = time.monotonic() + whole
    try:
        snapshot = link.snapshot()
        link.deadline = max(0.1, until - time.monotonic())
        return snapshot, link.is_host_alive()
    finally:
        link.deadline = whole


def require_answer(link: BrokerLink) -> None:
    """Before a call with a deadline for slow storage: a broker that answers nobody is told of after the link's own.
    Raises BrokerUnavailable."""
    try:
        link.is_host_alive()
    except BrokerUnavailable:
        raise
    except BrokerError:
        return  # it answered


def written_values(paths: HostPaths) -> Dict[str, str]:
    """The keys of hosted-engine.conf; none if there is no such file. Raises ConfigError if it cannot be read."""
    if not os.path.lexists(paths.hosted_engine_conf):
        return {}
    return read_values(paths.hosted_engine_conf)


def is_deployed(paths: HostPaths) -> bool:
    """A host is deployed when its configuration names the VM."""
    return written_values(paths).get("vmid", "") not in ("", "None")


def half_deployed(paths: HostPaths) -> bool:
    """A deployment's temporary VM is defined or runs here. Looked up in libvirt's files: that cannot hang."""
    places = (paths.root / "etc" / "libvirt" / "qemu", paths.root / "run" / "libvirt" / "qemu")
    return any((place / f"{_LOCAL_VM}.xml").exists() for place in places)


def deployed_conf(paths: HostPaths) -> HostedEngineConf:
    """Raises Refusal if this host is not deployed or its configuration says it is not complete, ConfigError for
    nonsense in it."""
    if not is_deployed(paths):
        raise Refusal("not-deployed", NOT_DEPLOYED, to_stdout=True)
    conf = load_hosted_engine_conf(paths.hosted_engine_conf)
    if not conf.configured:
        raise Refusal(
            "not-configured",
            f"{paths.hosted_engine_conf}: configured: expected True, found something else: the deployment did "
            "not finish",
        )
    return conf


def fetched_vm_conf(paths: HostPaths, conf: HostedEngineConf) -> Path:
    """The effective vm.conf, which the agent keeps. Raises Refusal, with what the broker knows of the reason."""
    if os.access(paths.vm_conf, os.R_OK):
        return paths.vm_conf
    lines = [
        "The engine VM's configuration has not been fetched from shared storage yet",
        f"Expected it in {paths.vm_conf}",
        _why_not_fetched(paths, conf),
    ]
    raise Refusal("configuration-not-fetched", "\n".join(lines), to_stdout=True)


def _why_not_fetched(paths: HostPaths, conf: HostedEngineConf) -> str:
    from ovirt_he_ha.cli.problems import local_problems

    try:
        with link_to_broker(paths, LOOK_SECONDS) as link:
            snapshot, alive = look(link)
            problems = local_problems(snapshot, conf.host_id, alive, paths)
    except BrokerError as error:
        return f"Are ovirt-ha-broker and ovirt-ha-agent running? ({error})"
    if any(problem.code == "agent" for problem in problems):
        return "Is ovirt-ha-agent running? " + "; ".join(problem.text for problem in problems)
    if problems:
        return "; ".join(problem.text for problem in problems)
    return "The agent runs: look at sanlock and at the agent's journal (journalctl -u ovirt-ha-agent)"
