"""--clean-metadata and --reinitialize-lockspace: what they may destroy, and when they refuse to."""

from typing import List

from ovirt_he_ha.cli.deployment import deployed_conf, fetched_vm_conf, link_to_broker
from ovirt_he_ha.cli.hosts import Hosts, read_hosts
from ovirt_he_ha.cli.request import Refusal, Request, say
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import MAX_HOST_ID, SLOT_SIZE, Invalid, Record

_WRITE_SECONDS = 30.0  # wall
_RESET_SECONDS = 120.0  # wall: leaving the lockspace and writing 2,000 host ids on slow storage


def clean_metadata(request: Request) -> int:
    """Blank one slot. The broker refuses it for another host's id that sanlock does not show free or dead, forced or
    not."""
    host_id = request.number("--host-id", 1, MAX_HOST_ID)
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    fetched_vm_conf(paths, conf)
    target = conf.host_id if host_id is None else host_id
    with link_to_broker(paths) as link:
        alive = link.is_host_alive()
        hosts = read_hosts(link.snapshot(), alive)
        _check_clean(hosts, target, forced=request.has("--force-cleanup"))
        link.put_stats(target, bytes(SLOT_SIZE), deadline=_WRITE_SECONDS)
        left = read_hosts(link.snapshot(), alive).slots.get(target)
    if left is not None:
        raise Refusal(
            "not-confirmed", f"The slot of host {target} was blanked and is in use again: does its agent run?"
        )
    say(f"The slot of host {hosts.name(target)} is blank")
    return 0


def _check_clean(hosts: Hosts, target: int, forced: bool) -> None:
    found = hosts.slots.get(target)
    if found is None:
        raise Refusal("no-such-host", f"Host {target} has no slot in use: nothing to clean")
    name = hosts.name(target)
    if isinstance(found, Record) and target in hosts.alive and not found.stopped:
        raise Refusal(
            "host-alive",
            f"Host {name} is publishing: stop its agent first (systemctl stop ovirt-ha-agent on that host)",
        )
    if forced:
        return
    if isinstance(found, Invalid):
        raise Refusal(
            "unsafe",
            f"The slot of host {name} cannot be read ({found.reason}): add --force-cleanup if that host is down",
        )
    if not (isinstance(found, Record) and found.stopped):
        raise Refusal("unsafe", f"Host {name} did not stop cleanly: add --force-cleanup if it is down for good")


def reinitialize_lockspace(request: Request) -> int:
    paths = HostPaths.from_env()
    deployed_conf(paths)
    with link_to_broker(paths) as link:
        if not request.has("--force"):
            hosts = read_hosts(link.snapshot(), link.is_host_alive())
            objections = _objections(hosts)
            if objections:
                raise Refusal("unsafe", "\n".join([*objections, "--force writes the lockspace nevertheless"]))
        link.reset_lockspace(deadline=_RESET_SECONDS)
    say("The lockspace hosted-engine is written anew")
    return 0


def _objections(hosts: Hosts) -> List[str]:
    found = []
    if hosts.global_maintenance.value is not True:
        found.append("Global maintenance is not on: hosted-engine --set-maintenance --mode=global")
    for host_id, content in hosts.slots.items():
        if isinstance(content, Invalid):
            found.append(
                f"The slot of host {host_id} cannot be read ({content.reason}): whether it stopped is not known"
            )
        elif isinstance(content, Record) and not content.stopped:
            found.append(f"Host {hosts.name(host_id)} has not stopped cleanly: stop its agent first")
    return found
