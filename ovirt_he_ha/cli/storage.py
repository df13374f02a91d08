"""--clean-metadata and --reinitialize-lockspace: what they may destroy, and when they refuse to. --connect-storage and
--disconnect-storage."""

import time
from contextlib import contextmanager
from typing import Iterator, List

from ovirt_he_ha.cli.deployment import (
    LOOK_SECONDS,
    deployed_conf,
    fetched_vm_conf,
    link_to_broker,
    look,
    require_answer,
)
from ovirt_he_ha.cli.hosts import Hosts, read_hosts
from ovirt_he_ha.cli.request import Refusal, Request, say, warn
from ovirt_he_ha.cli.waiting import notice
from ovirt_he_ha.client.link import BrokerSnapshot, BrokerUnavailable
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import MAX_HOST_ID, SLOT_SIZE, Invalid, Record
from ovirt_he_ha.storage import connection
from ovirt_he_ha.storage.command import CommandError
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.newest_store import NewestStore

CONNECT_SECONDS = 60.0  # wall
_CLEAN_SECONDS = 2.5  # wall, for all of it: one slot, on a volume that answers
_RESET_SECONDS = 120.0  # wall: leaving the lockspace and writing 2,000 host ids on slow storage


def clean_metadata(request: Request) -> int:
    """Blank one slot. The broker refuses it for another host's id that sanlock does not show free or dead, forced or
    not."""
    host_id = request.number("--host-id", 1, MAX_HOST_ID)
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    fetched_vm_conf(paths, conf)
    target = conf.host_id if host_id is None else host_id
    until = time.monotonic() + _CLEAN_SECONDS
    with link_to_broker(paths, LOOK_SECONDS) as link:
        snapshot, alive = look(link)
        _require_volume(snapshot)
        hosts = read_hosts(snapshot, alive)
        if target not in hosts.slots:
            say(f"The slot of host {target} is blank already")
            return 0
        _check_clean(hosts, target, forced=request.has("--force-cleanup"))
        try:
            link.put_stats(target, bytes(SLOT_SIZE), deadline=max(0.5, until - time.monotonic()))
        except BrokerUnavailable as error:
            if error.code != "overdue":
                raise
            raise Refusal(
                "not-confirmed",
                f"The slot of host {hosts.name(target)} was not blanked within {_CLEAN_SECONDS:g} s, and may be yet: "
                "see --vm-status, and ask again",
            ) from error
        left = read_hosts(link.snapshot(), alive).slots.get(target)
    if left is not None:
        raise Refusal(
            "not-confirmed", f"The slot of host {target} was blanked and is in use again: does its agent run?"
        )
    say(f"The slot of host {hosts.name(target)} is blank")
    return 0


def _require_volume(snapshot: BrokerSnapshot) -> None:
    """What was read a while ago says nothing of who stopped cleanly, and a write would wait."""
    facts = snapshot.storage
    if facts.state != "ok" or snapshot.slots_age is None:
        raise Refusal(
            "storage", f"The shared volume cannot be used now ({facts.state}: {facts.detail}): nothing changed"
        )


def _check_clean(hosts: Hosts, target: int, forced: bool) -> None:
    found = hosts.slots[target]
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
    if request.has("--storage-domain"):
        from ovirt_he_ha.cli.domain_lockspace import reinitialize

        return reinitialize(request)
    paths = HostPaths.from_env()
    deployed_conf(paths)
    with link_to_broker(paths, LOOK_SECONDS) as link:
        require_answer(link)
        if not request.has("--force"):
            snapshot, alive = look(link)
            _require_volume(snapshot)
            objections = _objections(read_hosts(snapshot, alive))
            if objections:
                raise Refusal("unsafe", "\n".join([*objections, "--force writes the lockspace nevertheless"]))
        with notice("Leaving the lockspace, and writing it anew"):
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


def connect(request: Request) -> int:
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    with told("connecting"), notice(f"Waiting for the storage ({conf.domain_type}: {conf.storage})"):
        provider, connected = connection.connect(conf, paths, CONNECT_SECONDS, request.has("--accept-copy"))
    if request.has("--accept-copy"):
        NewestStore(paths.ovf_seen).forget()
    for note in connected.notes:
        warn(note)
    what = "is connected" if connected.changed else "is there"
    by = ", by vdsm" if provider.name == "vdsm" else ""
    say(f"The storage domain {what}{by}: {connected.domain.directory}")
    return 0


def disconnect(_request: Request) -> int:
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    if conf.domain_type == "local":
        say(f"The storage domain is a directory ({conf.storage}): there is no connection to end")
        return 0
    with told("disconnecting"):
        provider = connection.provider_for(conf, paths)
        with notice(f"Disconnecting the storage ({conf.domain_type}: {conf.storage})"):
            changed = provider.disconnect(CONNECT_SECONDS)
    if provider.name == "vdsm":
        say("vdsm runs on this host and keeps the storage connected: nothing was changed")
    else:
        say("The storage domain is disconnected" if changed else "The storage domain was not connected")
    return 0


@contextmanager
def told(what: str) -> Iterator[None]:
    """Every failure of a provider as one line."""
    try:
        yield
    except DomainProblem as problem:
        raise Refusal("storage-" + problem.code, str(problem)) from problem
    except StorageError as error:
        raise Refusal("storage-" + error.code, str(error)) from error
    except CommandError as error:
        raise Refusal("storage-command", f"{what}: {error}") from error
