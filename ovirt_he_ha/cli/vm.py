"""--vm-start, --vm-shutdown, --vm-poweroff, --vm-migrate: by hand, and by the same rules as the agent's."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import List, Optional, Tuple, Union

from ovirt_he_ha.cli import destination, guard
from ovirt_he_ha.cli.deployment import LOOK_SECONDS, deployed_conf, fetched_vm_conf, link_to_broker, look
from ovirt_he_ha.cli.destination import Journey
from ovirt_he_ha.cli.hosts import Hosts, read_hosts
from ovirt_he_ha.cli.request import Refusal, Request, say
from ovirt_he_ha.cli.waiting import TICK, Condition, Progress, notice, wait_for
from ovirt_he_ha.client.link import BrokerError, BrokerSnapshot
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf, load_agent_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import read_text
from ovirt_he_ha.core.model import (
    MAX_HOST_ID,
    Action,
    ActionKind,
    ActionReport,
    Health,
    LeaseId,
    LeaseOwner,
    Outcome,
    Reading,
    Vm,
)
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.hypervisor.connection import Connection, HypervisorError
from ovirt_he_ha.hypervisor.custom_definition import CustomRefused, check_elements, load_custom
from ovirt_he_ha.hypervisor.definition import (
    DefinitionRefused,
    VmConfError,
    check,
    engine_xml,
    parse_vm_conf,
    parse_xml,
)
from ovirt_he_ha.hypervisor.engine_vm import LibvirtEngineVm
from ovirt_he_ha.storage.domain_place import domain_of

ANSWER_SECONDS = 1.5  # wall: a question that libvirt answers from its own memory
ASK_SECONDS = 10.0  # product: libvirt's answer, not the guest's; 5 of them for a guest agent that does not answer
HEALTHY_SECONDS = 600.0  # product: until the engine in a VM that was started answers
SHUTDOWN_SECONDS = 120.0  # product
POWEROFF_SECONDS = 2.0  # wall: half of it for libvirt, then the process is killed
POWEROFF_WAIT = 30.0  # product: for a process that hangs in its storage
START_SECONDS = 60.0  # product: the lease was looked at first, so create does not wait for a dead owner
EARLY_SECONDS = 1.0  # wall: a move that is refused is refused by then
_NOT_HERE = "Virtual machine does not exist on this host"


class Host:
    """This host's configuration and its way to libvirt."""

    def __init__(self) -> None:
        self.paths = HostPaths.from_env()
        self.conf: HostedEngineConf = deployed_conf(self.paths)
        self.clock = SystemClock()
        self.agent_conf = load_agent_conf(self.paths.agent_conf)
        self.lease: LeaseId = domain_of(self.conf).lease(self.conf.vm_disk_id, self.conf.vm_disk_vol_id)
        self._libvirt = Connection(self.agent_conf.libvirt_uri, self.clock)
        self.vm = LibvirtEngineVm(
            self._libvirt,
            self.conf.vmid,
            self.lease,
            self.clock,
            self.agent_conf,
            host_id=self.conf.host_id,
            lease_owner=self._owner,
            allowed=frozenset(self.agent_conf.allowed_elements),
        )

    def _owner(self) -> "Reading[LeaseOwner]":
        try:
            with link_to_broker(self.paths, LOOK_SECONDS) as link:
                return link.snapshot().leases.owner
        except BrokerError as error:
            return Reading.missing(type(error).__name__)

    def look(self) -> Tuple[BrokerSnapshot, Hosts]:
        with link_to_broker(self.paths, LOOK_SECONDS) as link:
            snapshot, alive = look(link)
            return snapshot, read_hosts(snapshot, alive)

    def require_libvirt(self) -> None:
        """Before what may take long by itself: a libvirt that hangs is told of at once. Raises Refusal."""
        try:
            self._libvirt.call(
                "tell its version", lambda native: native.getLibVersion(), ANSWER_SECONDS * self.clock.scale
            )
        except HypervisorError as error:
            raise Refusal("libvirt", f"{error}. Nothing was changed") from error

    def wall(self, product: float) -> float:
        """What a guest needs does not become faster with the lab's clock."""
        return self.clock.wait_floor(product)


def start(request: Request) -> int:
    wait = request.seconds("--wait", HEALTHY_SECONDS)
    host = Host()
    given = request.value("--vm-conf")
    path = Path(given) if given is not None else fetched_vm_conf(host.paths, host.conf)
    xml = _definition(host, path, by_hand=given is not None)
    snapshot, hosts = host.look()
    _refuse_running(host, snapshot)
    found = guard.objections(snapshot, hosts, host.conf.host_id, host.lease, host.agent_conf.allow_unfenced)
    against = "\n".join(found)
    if against:
        raise Refusal("lease", against)
    host.require_libvirt()
    with notice("libvirt is starting the VM"):
        report = host.vm.start(xml, host.lease, START_SECONDS)
    if report.outcome is not Outcome.OK:
        raise _failed_start(host, report)
    say("VM is in WaitForLaunch: it starts on this host")
    if wait is not None:
        wait_for(host.paths, host.wall(wait), _healthy())
        say("The engine is up")
    return 0


def _healthy() -> Condition:
    """The copy that was started answers with good health. Raises Refusal when it ends first."""
    seen: List[bool] = []

    def condition(snapshot: BrokerSnapshot, _hosts: Hosts) -> Tuple[str, bool]:
        engine = snapshot.monitors.engine.value
        if engine is None:
            return f"whether the VM runs here is not known ({snapshot.monitors.engine.unknown})", False
        status = engine.status
        if status.vm is Vm.UP:
            seen.append(True)
            good = status.health is Health.GOOD
            return f"VM: {status.detail}; engine: {'good' if good else status.reason or status.health.value}", good
        if seen:
            raise Refusal("vm-ended", f"The VM has ended again ({status.detail}): see --vm-status and --history")
        return "the VM is being created", False

    return condition


def _definition(host: Host, path: Path, by_hand: bool) -> str:
    try:
        text = read_text(path)
        custom = load_custom(host.agent_conf)
        conf = parse_vm_conf(text)
        if by_hand and conf.xml:
            check_elements(parse_xml(conf.xml), custom.allowed, "xmlBase64")
        xml = engine_xml(conf, host.lease, custom=custom)
        check(xml, host.lease, host.conf.vmid, reserved=host.conf.own_volumes, allowed=custom.allowed)
    except (DefinitionRefused, VmConfError, CustomRefused) as error:
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


def shutdown(request: Request) -> int:
    wait = request.seconds("--wait", SHUTDOWN_SECONDS)
    host = Host()
    snapshot, hosts = host.look()
    _require_here(snapshot)
    host.require_libvirt()
    with notice("Waiting for libvirt and the guest's agent"):
        report = host.vm.shutdown(ASK_SECONDS)
    if report.outcome is not Outcome.OK:
        code = report.outcome.value if report.outcome else "failed"
        raise Refusal(code, f"The guest could not be asked to shut down: {report.detail}")
    say("The guest was asked to shut down" + ("" if wait else _comes_back(hosts)))
    if wait is None:
        return 0
    try:
        wait_for(host.paths, host.wall(wait), _ended(snapshot))
    except Refusal as error:
        raise Refusal(error.code, f"The guest has not shut down. {error}. --vm-poweroff does not ask it") from error
    say("The engine VM has shut down" + _comes_back(hosts))
    return 0


def _ended(before: BrokerSnapshot) -> Condition:
    """The copy that ran has ended; the agent may start the next one within the second."""

    def condition(snapshot: BrokerSnapshot, _hosts: Hosts) -> Tuple[str, bool]:
        now = _copy(snapshot)
        if now is None:
            return "whether the VM runs here is not known", False
        return ("it has ended", True) if now != _copy(before) else ("the guest still runs", False)

    return condition


def _copy(snapshot: BrokerSnapshot) -> Optional[Tuple[bool, Optional[int]]]:
    """Which copy of the VM runs here. None: not known, which is no end."""
    engine = snapshot.monitors.engine.value
    return (engine.status.vm is Vm.UP, engine.pid) if engine is not None else None


def poweroff(request: Request) -> int:
    """Works without the broker: the last means must not need the first."""
    wait = request.seconds("--wait", POWEROFF_WAIT)
    host = Host()
    limit = POWEROFF_SECONDS * host.clock.scale if wait is None else wait
    with notice("Waiting for the end of the VM's process"):
        report = host.vm.destroy(limit)
    if report.outcome is not Outcome.OK:
        again = "; it was told to end, and --wait waits for it" if wait is None else ""
        code = report.outcome.value if report.outcome else "failed"
        raise Refusal(code, f"The engine VM was not powered off: {report.detail}{again}")
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
    wait = request.seconds("--wait", 0.0)
    host = Host()
    snapshot, hosts = host.look()
    _require_here(snapshot)
    memory = _memory_mib(host)
    target = destination.choose(Journey(snapshot, hosts, host.conf.host_id, host.lease, memory), wanted)
    host.require_libvirt()
    limit = Timers().migration_deadline(memory)
    name = hosts.name(target.host_id)
    if wait is None:
        return _move_behind(target.host_id, name)
    limit = min(limit, wait) if wait else limit
    action = Action(ActionKind.MIGRATE, target.host_id, destination.uri(target), limit)
    say(f"Moving the engine VM to host {name}, within {limit:.0f} s; it goes on meanwhile")
    begin = time.monotonic()
    report = _interruptible(host, action, f"moving to host {name}")
    if report.outcome is not Outcome.OK:
        raise Refusal(
            report.outcome.value if report.outcome else "failed",
            f"The engine VM was not moved to host {name} and goes on here: {report.detail}",
        )
    say(f"The engine VM runs on host {name} after {time.monotonic() - begin:.1f} s")
    return 0


def _move_behind(host_id: int, name: str) -> int:
    """A process of its own watches over the move: who started it may go, and the deadline still ends it."""
    command = ["-m", "ovirt_he_ha.cli.main", "--vm-migrate", f"--host={host_id}", "--wait"]
    mover = in_background(command)
    try:
        _, told = mover.communicate(timeout=EARLY_SECONDS)
    except subprocess.TimeoutExpired:
        say(f"The engine VM moves to host {name}; --vm-status shows when it has arrived, --wait waits for it")
        return 0
    if mover.returncode:
        raise Refusal("failed", told.strip() or f"The engine VM was not moved to host {name}")
    say(f"The engine VM runs on host {name}")
    return 0


def in_background(words: List[str]) -> "subprocess.Popen[str]":
    """This interpreter again, out of reach of the terminal's signals; its standard error can be read. It takes modules
    from its working directory first: that is one where only root writes."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _interruptible(host: Host, action: Action, what: str) -> ActionReport:
    """Whoever presses Ctrl-C wants the VM to stay: the job is aborted, not left to itself."""
    results: List[Union[ActionReport, Exception]] = []

    def work() -> None:
        try:
            results.append(host.vm.migrate(action, action.deadline))
        except Exception as error:  # raised again by whoever waits for it
            results.append(error)

    worker = threading.Thread(target=work, daemon=True)
    progress = Progress(action.deadline)
    worker.start()
    try:
        worker.join(0.0)
        while not results:
            if progress.redraws:
                progress.show(what)
            worker.join(TICK)
    except KeyboardInterrupt:
        host.vm.abort_migration()
        raise
    finally:
        progress.close()
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _memory_mib(host: Host) -> int:
    path = fetched_vm_conf(host.paths, host.conf)
    try:
        return int(parse_vm_conf(read_text(path)).memory_mib)
    except VmConfError as error:
        raise Refusal("vm-conf", f"{path}: expected the engine VM's definition: {error}") from error
