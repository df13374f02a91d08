"""--vm-start, --vm-shutdown, --vm-poweroff, --vm-migrate: by hand, and by the same rules as the agent's."""

import threading
import time
from pathlib import Path
from typing import List, Optional, Tuple, Union

from ovirt_he_ha.cli import destination, guard
from ovirt_he_ha.cli.deployment import deployed_conf, fetched_vm_conf, link_to_broker
from ovirt_he_ha.cli.destination import Journey
from ovirt_he_ha.cli.hosts import Hosts, read_hosts
from ovirt_he_ha.cli.request import Refusal, Request, say
from ovirt_he_ha.client.link import BrokerError, BrokerSnapshot
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf, load_agent_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import (
    MAX_HOST_ID,
    Action,
    ActionKind,
    ActionReport,
    LeaseId,
    LeaseOwner,
    Outcome,
    Reading,
    Vm,
)
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.connection import Connection
from ovirt_he_ha.hypervisor.definition import DefinitionRefused, VmConfError, check, engine_xml, parse_vm_conf
from ovirt_he_ha.hypervisor.engine_vm import LibvirtEngineVm
from ovirt_he_ha.storage.local import LocalDomain

ASK_SECONDS = 10.0  # product: libvirt's answer, not the guest's
SHUTDOWN_SECONDS = 120.0  # product
LOOK_SECONDS = 2.0  # wall: between two looks when nothing wakes us
POWEROFF_SECONDS = 30.0  # product
START_SECONDS = 60.0  # product: the lease was looked at first, so create does not wait for a dead owner
_NOT_HERE = "Virtual machine does not exist on this host"


class Host:
    """This host's configuration and its way to libvirt."""

    def __init__(self) -> None:
        self.paths = HostPaths.from_env()
        self.conf: HostedEngineConf = deployed_conf(self.paths)
        self.clock = SystemClock()
        self.agent_conf = load_agent_conf(self.paths.agent_conf)
        self.lease: LeaseId = LocalDomain(self.conf.storage, self.conf.sd_uuid).lease(
            self.conf.vm_disk_id, self.conf.vm_disk_vol_id
        )
        connection = Connection(self.agent_conf.libvirt_uri, self.clock)
        self.vm = LibvirtEngineVm(
            connection,
            self.conf.vmid,
            self.lease,
            self.clock,
            self.agent_conf,
            host_id=self.conf.host_id,
            lease_owner=self._owner,
        )

    def _owner(self) -> "Reading[LeaseOwner]":
        try:
            with link_to_broker(self.paths) as link:
                return link.snapshot().leases.owner
        except BrokerError as error:
            return Reading.missing(type(error).__name__)

    def look(self) -> Tuple[BrokerSnapshot, Hosts]:
        with link_to_broker(self.paths) as link:
            snapshot = link.snapshot()
            return snapshot, read_hosts(snapshot, link.is_host_alive())


def start(request: Request) -> int:
    host = Host()
    given = request.value("--vm-conf")
    path = Path(given) if given is not None else fetched_vm_conf(host.paths, host.conf)
    xml = _definition(host, path)
    snapshot, hosts = host.look()
    _refuse_running(host, snapshot)
    found = guard.objections(snapshot, hosts, host.conf.host_id, host.lease, host.agent_conf.allow_unfenced)
    against = "\n".join(found)
    if against:
        raise Refusal("lease", against)
    report = host.vm.start(xml, host.lease, START_SECONDS)
    if report.outcome is not Outcome.OK:
        raise _failed_start(host, report)
    say("VM is in WaitForLaunch: it starts on this host")
    return 0


def _definition(host: Host, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        xml = engine_xml(parse_vm_conf(text), host.lease)
        check(xml, host.lease, host.conf.vmid)
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal("vm-conf", f"{path}: expected the engine VM's definition: {error}") from error
    except (DefinitionRefused, VmConfError) as error:
        raise Refusal("definition", f"{path}: {error}") from error
    return xml


def _refuse_running(host: Host, snapshot: BrokerSnapshot) -> None:
    """A paused VM is the agent's to kill, at once: it holds no lease, and a copy may run elsewhere."""
    engine = snapshot.monitors.engine.value
    if engine is not None and engine.status.vm is Vm.UP:
        raise Refusal("vm-exists", f"VM exists and its status is {engine.status.detail}", to_stdout=True)


def _failed_start(host: Host, report: ActionReport) -> Refusal:
    if report.outcome is Outcome.LOST_RACE:
        snapshot, hosts = host.look()
        owner = snapshot.leases.owner.value
        who = f"host {hosts.name(owner.host_id)}" if owner is not None and owner.host_id else "another host"
        return Refusal("lease", f"The VM's lease went to {who} meanwhile: nothing was started here ({report.detail})")
    code = report.outcome.value if report.outcome else "failed"
    return Refusal(code, f"The engine VM was not started: {report.detail or code}")


def shutdown(_request: Request) -> int:
    host = Host()
    snapshot, hosts = host.look()
    _require_here(snapshot)
    report = host.vm.shutdown(ASK_SECONDS)
    if report.outcome is not Outcome.OK:
        code = report.outcome.value if report.outcome else "failed"
        raise Refusal(code, f"The guest could not be asked to shut down: {report.detail}")
    say(f"The guest was asked to shut down; waiting for it, {SHUTDOWN_SECONDS:g} s at most")
    if not _await_end(host, snapshot):
        raise Refusal(
            "overdue", f"The guest has not shut down within {SHUTDOWN_SECONDS:g} s; --vm-poweroff does not ask it"
        )
    say("The engine VM has shut down" + _comes_back(hosts))
    return 0


def _await_end(host: Host, before: BrokerSnapshot) -> bool:
    """Whether the copy that ran has ended. Its end wakes us; the agent may start the next one within the second."""
    until = time.monotonic() + host.clock.wait_floor(SHUTDOWN_SECONDS)
    snapshot = before
    with link_to_broker(host.paths) as link:
        while time.monotonic() < until:
            link.wait_for_change(snapshot.serial, min(LOOK_SECONDS, max(0.1, until - time.monotonic())))
            snapshot = link.snapshot()
            if _copy(snapshot) not in (None, _copy(before)):
                return True
    return False


def _copy(snapshot: BrokerSnapshot) -> Optional[Tuple[bool, Optional[int]]]:
    """Which copy of the VM runs here. None: not known, which is no end."""
    engine = snapshot.monitors.engine.value
    return (engine.status.vm is Vm.UP, engine.pid) if engine is not None else None


def poweroff(_request: Request) -> int:
    """Works without the broker: the last means must not need the first."""
    host = Host()
    report = host.vm.destroy(POWEROFF_SECONDS)
    if report.outcome is not Outcome.OK:
        raise Refusal(
            report.outcome.value if report.outcome else "failed", f"The engine VM was not powered off: {report.detail}"
        )
    say("The engine VM is off")
    return 0


def _comes_back(hosts: Hosts) -> str:
    return "" if hosts.global_maintenance.value else "; a host starts it again, because global maintenance is off"


def _require_here(snapshot: BrokerSnapshot) -> None:
    engine = snapshot.monitors.engine
    if engine.value is None:
        raise Refusal(
            "engine-unknown", f"Whether the engine VM runs here is not known ({engine.unknown}): is libvirtd running?"
        )
    if engine.value.status.vm is not Vm.UP:
        raise Refusal("not-here", _NOT_HERE)


def migrate(request: Request) -> int:
    wanted = request.number("--host", 1, MAX_HOST_ID)
    host = Host()
    snapshot, hosts = host.look()
    _require_here(snapshot)
    memory = _memory_mib(host)
    target = destination.choose(Journey(snapshot, hosts, host.conf.host_id, host.lease, memory), wanted)
    limit = Timers().migration_deadline(memory)
    action = Action(ActionKind.MIGRATE, target.host_id, destination.uri(target), limit)
    name = hosts.name(target.host_id)
    say(f"Moving the engine VM to host {name}, within {limit:.0f} s; it goes on meanwhile")
    begin = time.monotonic()
    report = _interruptible(host.vm, action, limit)
    if report.outcome is not Outcome.OK:
        raise Refusal(
            report.outcome.value if report.outcome else "failed",
            f"The engine VM was not moved to host {name} and goes on here: {report.detail}",
        )
    say(f"The engine VM runs on host {name} after {time.monotonic() - begin:.1f} s")
    return 0


def _interruptible(vm: LibvirtEngineVm, action: Action, limit: float) -> ActionReport:
    """Whoever presses Ctrl-C wants the VM to stay: the job is aborted, not left to itself."""
    results: List[Union[ActionReport, Exception]] = []

    def work() -> None:
        try:
            results.append(vm.migrate(action, limit))
        except Exception as error:  # raised again by whoever waits for it
            results.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        worker.join()
    except KeyboardInterrupt:
        vm.abort_migration()
        raise
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _memory_mib(host: Host) -> int:
    path = fetched_vm_conf(host.paths, host.conf)
    try:
        return int(parse_vm_conf(path.read_text(encoding="utf-8")).memory_mib)
    except (OSError, UnicodeDecodeError, VmConfError) as error:
        raise Refusal("vm-conf", f"{path}: expected the engine VM's definition: {error}") from error
