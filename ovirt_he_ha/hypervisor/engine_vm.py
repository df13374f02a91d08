"""The engine VM through libvirt: start, shut down, destroy, migrate. Every call returns by its deadline.

Two connections: what may take long (create, migrate) never stands in the way of what must not wait (destroy, abort).
"""

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Optional, Protocol

from ovirt_he_ha.core.model import Action, ActionKind, ActionReport, LeaseId, LeaseOwner, Outcome, Reading
from ovirt_he_ha.core.seams import Clock, EngineVm
from ovirt_he_ha.hypervisor.connection import (
    Connection,
    HypervisorError,
    LibvirtFault,
    Native,
    Overdue,
    wall_seconds,
)
from ovirt_he_ha.hypervisor.cpu_model import HostCpu
from ovirt_he_ha.hypervisor.definition import CACHES, MARK, DefinitionRefused, check, lease_of, parse_xml
from ovirt_he_ha.hypervisor.destination import BadDestination, Destination, destination
from ovirt_he_ha.hypervisor.events import AGENT_CHANNEL, STOP_MARK
from ovirt_he_ha.hypervisor.process import ProcessTable, StillThere, await_exit, kill_engine

log = logging.getLogger(__name__)

# VIR_ERR_*: what libvirt's answer means for us. Texts differ between versions and languages and are never looked at.
RESOURCE_BUSY = 87  # the lease is held by another host
OPERATION_INVALID = 55  # "already active", "no job is active"
NO_DOMAIN = 42
LOOK = 5.0  # product s for one short question
AGENT_ANSWER = 5  # wall s that a guest agent has to answer
ABORT_AGAIN = 0.5  # wall s
ABORT_WAIT = 5.0  # product s for a migration to end after its job was aborted
MARK_PREFIX = "hastop"
# qemu opens the images before its lease is taken: the host that won the race for the images holds the lease up to
# 2 wall s later, and the owner on disk is read every 5 product s. Only then does "no new owner" mean a real failure.
OWNER_WAIT = 6.0
OWNER_AGAIN = 0.25  # wall s

OwnerLook = Callable[[], Reading[LeaseOwner]]


class MigrationConf(Protocol):
    """What is read of ``agent.conf``: nothing here depends on the file's other keys."""

    @property
    def libvirt_uri(self) -> str: ...


@dataclass(frozen=True)
class Here:
    """The domain as libvirt has it. ``pause_reason`` is VIR_DOMAIN_PAUSED_*."""

    domain: Any
    active: bool
    paused: bool
    pause_reason: int
    persistent: bool


def _no_look() -> Reading[LeaseOwner]:
    return Reading.missing("not-asked")


class LibvirtEngineVm(EngineVm):
    """``lease_owner()``: the owner of the VM's lease on disk, asked right before and after a create that fails;
    ``owner_live(host_id)``: False when sanlock shows that host DEAD or FREE, None when unknown. Together with
    libvirt's code they tell a lost race from a failure.

    ``shared_directory``: the images lie in a directory that every host mounts as a plain file system; libvirt then
    needs to be told that moving is safe, and it is, as long as no disk uses the page cache (checked). ``scheme``,
    ``port``: how peers are reached.
    """

    def __init__(
        self,
        connection: Connection,
        vmid: str,
        lease: LeaseId,
        clock: Clock,
        conf: Optional[MigrationConf] = None,
        *,
        host_id: int = 0,
        lease_owner: OwnerLook = _no_look,
        owner_live: Callable[[int], Optional[bool]] = lambda host_id: None,
        shared_directory: bool = True,
        scheme: str = "qemu+tcp",
        port: Optional[int] = None,
        table: Optional[ProcessTable] = None,
        owner_wait: float = OWNER_WAIT,
    ) -> None:
        self._owner_wait = owner_wait
        self._short = connection
        self._long = Connection(connection.uri, clock)
        self._vmid = vmid.lower()
        self._lease = lease
        self._clock = clock
        self._host_id = host_id
        self._lease_owner = lease_owner
        self._owner_live = owner_live
        self._shared_directory = shared_directory
        self._scheme = scheme
        self._port = port
        self._table = table if table is not None else ProcessTable()
        self._cpu = HostCpu(connection)
        self._agent_was_asked = -1  # the domain's number: a second request goes to the ACPI button

    def cpu_model(self) -> str:
        """Digest of this host's CPU, empty until libvirt has answered once."""
        try:
            return self._cpu.digest(LOOK)
        except HypervisorError as e:
            log.debug("The host's CPU model is not known yet: %s", e)
            return ""

    # --- start ------------------------------------------------------------------------------------------------------

    def start(self, xml: str, lease: LeaseId, deadline: float) -> ActionReport:
        """Create the transient domain, CPUs running. OK also if it runs here already; LOST_RACE if the lease is
        another host's.

        The caller has seen the lease free or its owner DEAD, or else create blocks until the owner is dead.
        """
        run = _Run(self._clock, Action(ActionKind.START, deadline=deadline))
        try:
            check(xml, lease, self._vmid)
            if lease != self._lease:
                raise DefinitionRefused("foreign-lease", "lease", str(lease), str(self._lease))
            self._refuse_stray()
            if self._make_room(run):
                return run.report(Outcome.OK, "it runs here already")
            return self._create(xml, run)
        except (DefinitionRefused, _Refused) as e:
            return run.report(Outcome.REFUSED, str(e))
        except Overdue as e:
            return run.report(Outcome.OVERDUE, str(e))
        except HypervisorError as e:
            return run.report(Outcome.FAILED, str(e))

    def _create(self, xml: str, run: "_Run") -> ActionReport:
        before = self._lease_owner()
        try:
            self._long.call("create the engine VM", lambda native: native.createXML(xml, 0), run.left())
        except LibvirtFault as e:
            return self._refused_create(e, before, run)
        return run.report(Outcome.OK, "")

    def _refused_create(self, fault: LibvirtFault, before: Reading[LeaseOwner], run: "_Run") -> ActionReport:
        if fault.code == RESOURCE_BUSY:
            return run.report(Outcome.LOST_RACE, str(fault))
        if fault.code == OPERATION_INVALID and self._runs():
            return run.report(Outcome.OK, "it was started here at the same time")
        winner = self._await_winner(before)
        if winner is not None:
            return run.report(Outcome.LOST_RACE, f"host id {winner.host_id} holds the lease ({fault})")
        return run.report(Outcome.FAILED, str(fault))

    def _await_winner(self, before: Reading[LeaseOwner]) -> Optional[LeaseOwner]:
        """Who took the lease instead of us, as soon as its record is read; None if nobody did within the wait."""
        end = time.monotonic() + wall_seconds(self._clock, self._owner_wait)
        while True:
            after = self._lease_owner()
            if self._taken_elsewhere(before, after):
                return after.value
            if time.monotonic() >= end:
                return None
            time.sleep(OWNER_AGAIN)

    def _taken_elsewhere(self, before: Reading[LeaseOwner], after: Reading[LeaseOwner]) -> bool:
        """qemu's own lock on the image (code 1) and a lease that could not be had (code 38) look like any other
        failure: the owner on disk decides. The record of a dead owner stays there, so it counts only if it is new or
        its host is not known to be dead."""
        owner = after.value
        if owner is None or owner.host_id in (0, self._host_id):
            return False
        changed = before.value is not None and before.value != owner
        return changed or self._owner_live(owner.host_id) is not False

    def _runs(self) -> bool:
        here = self._look()
        return here is not None and here.active and not here.paused

    def _refuse_stray(self) -> None:
        """A qemu of this VM that libvirt does not know holds what nobody can see: no second one beside it."""
        strays = self._table.find(self._vmid)
        if strays and self._look() is None:
            raise _Refused(
                "stray-process",
                f"process {strays[0].pid} is this VM's, and libvirt does not know it; it must be gone before a start",
            )

    def _make_room(self, run: "_Run") -> bool:
        """True: it runs here. Otherwise what a previous life left is cleared, or _Refused raised."""
        here = self._look()
        if here is None:
            return False
        if here.active and not here.paused:
            return True
        if here.active:
            self._end_paused(here, run)
            here = self._look()
        if here is not None and here.persistent:
            self._clear_definition(here)
        return False

    def _end_paused(self, here: Here, run: "_Run") -> None:
        libvirt = self._short.libvirt
        if here.pause_reason in (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP):
            raise _Refused("busy", "the VM is being started or migrated here at this moment")
        result = self._end(min(run.left(), 15.0))
        if isinstance(result, StillThere):
            raise _Refused("still-paused", f"a paused copy cannot be ended: process {result.pid} is {result.why}")

    def _clear_definition(self, here: Here) -> None:
        """A persistent definition can start by itself or from a saved memory image, both without us. Our own is only
        undefined when it carries neither; anybody else's is left alone, and named."""

        def examine(native: Native) -> str:
            domain = here.domain
            if domain.hasManagedSaveImage(0):
                return (
                    "managed-save: libvirt has saved the memory of an earlier run; 'virsh managedsave-remove' drops it"
                )
            if domain.autostart():
                return "autostart: libvirt would start the VM with the host; 'virsh autostart --disable' ends that"
            if parse_xml(domain.XMLDesc(0)).find(f"metadata/{{{MARK}}}engine") is None:
                return "persistent: somebody defined the VM on this host; 'virsh undefine' removes that definition"
            domain.undefine()
            return ""

        objection = self._short.call("examine the definition left here", examine, LOOK)
        if objection:
            code, _, text = objection.partition(": ")
            raise _Refused(code, text)

    # --- stop -------------------------------------------------------------------------------------------------------

    def shutdown(self, deadline: float) -> ActionReport:
        """Ask the guest: its agent first, the ACPI button if the agent does not answer or was asked before. OK:
        asked, or not here. Does not wait for the guest."""
        run = _Run(self._clock, Action(ActionKind.STOP, deadline=deadline))
        try:
            how = self._short.call("shut the engine VM down", self._ask_guest, deadline)
        except Overdue as e:
            return run.report(Outcome.OVERDUE, str(e))
        except HypervisorError as e:
            return run.report(Outcome.FAILED, str(e))
        return run.report(Outcome.OK, how)

    def _ask_guest(self, native: Native) -> str:
        libvirt = self._short.libvirt
        here = self._here(native)
        if here is None or not here.active:
            return "not here"
        domain = here.domain
        # The mark tells the watch that this power-off was asked for; libvirt reports the guest's own will alike.
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, "<stop/>", MARK_PREFIX, STOP_MARK, libvirt.VIR_DOMAIN_AFFECT_LIVE
        )
        if domain.ID() != self._agent_was_asked and _agent_connected(domain):
            self._agent_was_asked = domain.ID()
            try:
                domain.agentSetResponseTimeout(AGENT_ANSWER, 0)
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
                return "guest agent"
            except libvirt.libvirtError as e:
                log.info("The guest agent did not take the shutdown: %s", e)
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        return "ACPI"

    def destroy(self, deadline: float) -> ActionReport:
        """End it now. OK only when no process of it is left on this host, also if there was none. Works without
        libvirt."""
        run = _Run(self._clock, Action(ActionKind.POWER_OFF, deadline=deadline))
        try:
            result = self._end(deadline)
        except OSError as e:
            return run.report(Outcome.FAILED, f"the process table cannot be read: {e.strerror}")
        if isinstance(result, StillThere):
            return run.report(Outcome.OVERDUE, f"process {result.pid} is {result.why}")
        return run.report(Outcome.OK, "")

    def _end(self, seconds: float) -> "Optional[StillThere]":
        """libvirt gets half of the time: its other calls freeze while a create waits for a lease, and it waits 10 s
        for a stopped qemu before it kills. Then SIGKILL by pidfd."""
        end = time.monotonic() + wall_seconds(self._clock, seconds)
        processes = self._table.find(self._vmid)
        try:
            self._short.call("destroy the engine VM", self._destroy_native, seconds / 2)
        except HypervisorError as e:
            log.warning("%s; its process is killed directly", e)
        else:
            for process in processes:
                await_exit(process, max(0.0, min(1.0, end - time.monotonic())), self._table)
        result = kill_engine(self._vmid, max(0.5, end - time.monotonic()), self._table)
        return result if isinstance(result, StillThere) else None

    def _destroy_native(self, native: Native) -> None:
        here = self._here(native)
        if here is None or not here.active:
            return
        libvirt = self._short.libvirt
        try:
            here.domain.destroy()
        except libvirt.libvirtError as e:
            if e.get_error_code() not in (NO_DOMAIN, OPERATION_INVALID):  # it ended by itself meanwhile
                raise

    # --- move -----------------------------------------------------------------------------------------------------

    def migrate(self, action: Action, deadline: float) -> ActionReport:
        """Move the running VM to ``action.target_address``. On anything but OK the VM goes on here, or is reported
        not to. Overdue: the job is aborted. Never post-copy: a broken network in its middle would cost the VM."""
        run = _Run(self._clock, action)
        try:
            target = destination(action.target_address, self._scheme, self._port)
            self._refuse_unsafe_move()
            self._long.call("migrate the engine VM", lambda native: self._migrate_native(native, target), deadline)
        except (BadDestination, _Refused, DefinitionRefused) as e:
            return run.report(Outcome.REFUSED, str(e))
        except Overdue as e:
            return self._overdue_move(e, run)
        except HypervisorError as e:
            return run.report(Outcome.FAILED, str(e) + self._after_failed_move())
        return run.report(Outcome.OK, target.libvirt_uri)

    def _refuse_unsafe_move(self) -> None:
        here = self._look()
        if here is None or not here.active:
            raise _Refused("not-here", "the VM does not run on this host")
        if here.paused:
            raise _Refused("paused", "the VM is paused: it holds no lease that could be handed over")
        text = self._short.call("read the running definition", lambda native: here.domain.XMLDesc(0), LOOK)
        root = parse_xml(text)
        if lease_of(root) != [self._lease]:
            raise _Refused("foreign-lease", f"the running VM is not guarded by {self._lease}")
        for disk in root.findall("devices/disk"):
            driver = disk.find("driver")
            cached = driver is None or driver.get("cache") not in CACHES
            if disk.get("device", "disk") == "disk" and cached:
                raise _Refused(
                    "disk-cache", "a disk uses the page cache of this host; its writes could be lost by a move"
                )

    def _migrate_native(self, native: Native, target: Destination) -> None:
        libvirt = self._long.libvirt
        flags = (
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PEER2PEER
            | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
            | libvirt.VIR_MIGRATE_AUTO_CONVERGE
        )
        if self._shared_directory:
            flags |= libvirt.VIR_MIGRATE_UNSAFE
        parameters: Dict[str, str] = {libvirt.VIR_MIGRATE_PARAM_URI: target.migrate_uri}
        native.lookupByUUIDString(self._vmid).migrateToURI3(target.libvirt_uri, parameters, flags)

    def _overdue_move(self, overdue: Overdue, run: "_Run") -> ActionReport:
        """A job that waits for a frozen destination ends only when libvirt's own keepalive gives that up, after 30
        s; until then each abort marks it anew, so that it cannot begin to move the VM after we said that it does
        not."""
        watcher = threading.Thread(target=self._abort_until_over, name="abort-migration", daemon=True)
        watcher.start()
        watcher.join(wall_seconds(self._clock, ABORT_WAIT))
        what = "the job still waits for the destination" if watcher.is_alive() else "the job was aborted"
        return run.report(Outcome.OVERDUE, f"{overdue}; {what}" + self._after_failed_move())

    def _abort_until_over(self) -> None:
        while self._long.abandoned:
            self.abort_migration()
            time.sleep(ABORT_AGAIN)

    def _after_failed_move(self) -> str:
        try:
            here = self._look()
        except HypervisorError:
            return "; whether the VM runs on here is not known"
        if here is None or not here.active:
            return "; the VM is not here any more"
        return "; the VM is paused here" if here.paused else "; the VM goes on here"

    def abort_migration(self) -> None:
        """Nothing to abort is fine."""
        try:
            self._short.call("abort the migration", self._abort_native, LOOK)
        except HypervisorError as e:
            log.warning("The migration was not aborted: %s", e)

    def _abort_native(self, native: Native) -> None:
        here = self._here(native)
        libvirt = self._short.libvirt
        if here is None or not here.active:
            return
        try:
            here.domain.abortJob()
        except libvirt.libvirtError as e:
            if e.get_error_code() != OPERATION_INVALID:
                raise

    # --- looks ----------------------------------------------------------------------------------------------------

    def _look(self) -> Optional[Here]:
        return self._short.call("look at the engine VM", self._here, LOOK)

    def _here(self, native: Native) -> Optional[Here]:
        libvirt = self._short.libvirt
        try:
            domain = native.lookupByUUIDString(self._vmid)
            state, reason = domain.state()
            active = bool(domain.isActive())
            persistent = bool(domain.isPersistent())
        except libvirt.libvirtError as e:
            if e.get_error_code() == NO_DOMAIN:
                return None
            raise
        return Here(domain, active, state == libvirt.VIR_DOMAIN_PAUSED, reason, persistent)


class _Refused(Exception):
    msg = "{text} ({code})"

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.msg.format(code=self.code, text=self.text)


class _Run:
    """One action: its beginning, its deadline, its report."""

    def __init__(self, clock: Clock, action: Action) -> None:
        self._clock = clock
        self._running = ActionReport(action, clock.monotonic())

    def left(self) -> float:
        """Product seconds until the deadline, at least a moment."""
        gone = self._clock.monotonic() - self._running.started_at
        return max(0.1, self._running.action.deadline - gone)

    def report(self, outcome: Outcome, detail: str) -> ActionReport:
        return replace(self._running, outcome=outcome, finished_at=self._clock.monotonic(), detail=detail)


def _agent_connected(domain: Any) -> bool:
    targets: List[Any] = parse_xml(domain.XMLDesc(0)).findall("devices/channel/target")
    return any(target.get("name") == AGENT_CHANNEL and target.get("state") == "connected" for target in targets)
