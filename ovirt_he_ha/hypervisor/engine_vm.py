"""The engine VM through libvirt: start, shut down, destroy, migrate. Every call returns by its deadline.

Two connections: what may take long (create, migrate) never stands in the way of what must not wait (destroy, abort).
"""

import logging
import time
from typing import Any, Callable, FrozenSet, List, Optional, Protocol

from ovirt_he_ha.core.model import Action, ActionKind, ActionReport, LeaseId, LeaseOwner, Outcome, Reading
from ovirt_he_ha.core.seams import Clock, EngineVm
from ovirt_he_ha.hypervisor.action_run import ActionRun, Here, Refused, find_domain
from ovirt_he_ha.hypervisor.connection import (
    Connection,
    HypervisorError,
    LibvirtFault,
    Native,
    Overdue,
    wall_seconds,
)
from ovirt_he_ha.hypervisor.cpu_model import HostCpu
from ovirt_he_ha.hypervisor.definition import MARK, DefinitionRefused, check, parse_xml
from ovirt_he_ha.hypervisor.domain_reader import AGENT_CHANNEL, STOP_MARK
from ovirt_he_ha.hypervisor.migration import Migration, MigrationRoute
from ovirt_he_ha.hypervisor.process import ProcessTable, StillThere, await_exit, kill, kill_engine

log = logging.getLogger(__name__)

# VIR_ERR_*: what libvirt's answer means for us. Texts differ between versions and languages and are never looked at.
RESOURCE_BUSY = 87  # the lease is held by another host
OPERATION_INVALID = 55  # "already active", "no job is active"
NO_DOMAIN = 42
LOOK = 5.0  # product s for one short question
AGENT_ANSWER = 5  # wall s that a guest agent has to answer
GHOST = 1.0  # wall s that libvirt has to notice that a process is gone
MARK_PREFIX = "hastop"
# qemu opens the images before its lease is taken: the host that won the race for the images holds the lease up to
# 2 wall s later, and the owner on disk is read every 5 product s. Only then does "no new owner" mean a real failure.
OWNER_WAIT = 6.0
OWNER_AGAIN = 0.25  # wall s
CREATE_FLOOR = 15.0  # wall s for a create at the least: qemu does not start faster on the lab's faster clock
PENDING_KILL = 2.0  # wall s for the end of a qemu whose create is overdue

OwnerLook = Callable[[], Reading[LeaseOwner]]


class MigrationConf(Protocol):
    """What is read of ``agent.conf``: nothing here depends on the file's other keys."""

    @property
    def libvirt_uri(self) -> str: ...


def _no_look() -> Reading[LeaseOwner]:
    return Reading.missing("not-asked")


class LibvirtEngineVm(EngineVm):
    """``lease_owner()``: the owner of the VM's lease on disk, asked right before and after a create that fails;
    ``owner_live(host_id)``: False when sanlock shows that host DEAD or FREE, None when unknown. Together with
    libvirt's code they tell a lost race from a failure.

    ``route``: how peers are reached by a live migration. ``allowed``: the elements of a definition that may name places
    of this host, as its administrator says.
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
        route: MigrationRoute = MigrationRoute(),  # noqa: B008 - frozen
        table: Optional[ProcessTable] = None,
        owner_wait: float = OWNER_WAIT,
        allowed: FrozenSet[str] = frozenset(),
    ) -> None:
        self._allowed = allowed
        self._owner_wait = owner_wait
        self._short = connection
        self._long = Connection(connection.uri, clock)
        self._vmid = vmid.lower()
        self._lease = lease
        self._clock = clock
        self._host_id = host_id
        self._lease_owner = lease_owner
        self._owner_live = owner_live
        self._migration = Migration(self._short, self._long, self._vmid, lease, clock, route)
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

    def libvirt_version(self) -> str:
        """Of the daemon, such as ``9.0.0``; empty if it does not answer within 5 s."""
        try:
            number = self._short.call("version", lambda native: int(native.getLibVersion()), LOOK)
        except HypervisorError as e:
            log.debug("libvirt's version is not known: %s", e)
            return ""
        return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

    # --- start ------------------------------------------------------------------------------------------------------

    def start(self, xml: str, lease: LeaseId, deadline: float) -> ActionReport:
        """Create the transient domain, CPUs running. OK also if it runs here already; LOST_RACE if the lease is
        another host's.

        The caller has seen the lease free or its owner DEAD, or else create blocks until the owner is dead.
        """
        run = ActionRun(self._clock, Action(ActionKind.START, deadline=deadline))
        try:
            check(xml, lease, self._vmid, allowed=self._allowed)
            if lease != self._lease:
                raise DefinitionRefused("foreign-lease", "lease", str(lease), str(self._lease))
            self._refuse_pending()
            self._refuse_stray()
            if self._make_room(run):
                return run.report(Outcome.OK, "it runs here already")
            return self._create(xml, run)
        except (DefinitionRefused, Refused) as e:
            return run.report(Outcome.REFUSED, str(e))
        except Overdue as e:
            return run.report(Outcome.OVERDUE, str(e))
        except HypervisorError as e:
            return run.report(Outcome.FAILED, str(e))

    def _create(self, xml: str, run: ActionRun) -> ActionReport:
        before = self._lease_owner()
        try:
            limit = max(run.left(), CREATE_FLOOR * self._clock.scale)
            self._long.call("create the engine VM", lambda native: native.createXML(xml, 0), limit)
        except LibvirtFault as e:
            return self._refused_create(e, before, run)
        except Overdue as e:
            return run.report(Outcome.OVERDUE, f"{e}; {self._end_pending()}")
        return run.report(Outcome.OK, "")

    def _end_pending(self) -> str:
        """A create that still waits would run the VM whenever it gets the lease: minutes later, in maintenance, or
        beside a decision that has changed. Its qemu has run no CPU while the lease is not ours, so it ends here; with
        our lease it is the VM, and libvirt only did not say so in time."""
        owner = self._lease_owner().value
        if owner is not None and owner.host_id == self._host_id:
            return "the lease is this host's: it is left running"
        pending = [process for process in self._table.find(self._vmid) if not process.incoming]
        results = [kill(process, PENDING_KILL, self._table) for process in pending]
        left = next((result for result in results if isinstance(result, StillThere)), None)
        return f"process {left.pid}: {left.why}" if left else f"{len(pending)} waiting process(es) ended"

    def _refuse_pending(self) -> None:
        """An abandoned create or migration may still take effect: no second one beside it."""
        if self._long.abandoned:
            raise Refused("pending", "an earlier call to libvirt still hangs, and may yet start or move the VM")

    def _refused_create(self, fault: LibvirtFault, before: Reading[LeaseOwner], run: ActionRun) -> ActionReport:
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
            raise Refused(
                "stray-process",
                f"process {strays[0].pid} is this VM's, and libvirt does not know it; it must be gone before a start",
            )

    def _make_room(self, run: ActionRun) -> bool:
        """True: it runs here. Otherwise what a previous life left is cleared, or Refused raised."""
        here = self._look()
        if here is None:
            return False
        if here.active and not here.paused:
            if not self._is_ghost():
                return True
            self._short.call("bury a domain without a process", self._destroy_native, min(run.left(), LOOK))
            here = self._look()
        elif here.active:
            self._end_paused(here, run)
            here = self._look()
        if here is not None and here.persistent:
            self._clear_definition(here)
        return False

    def _is_ghost(self) -> bool:
        """libvirtd was started a moment ago and still shows a VM as running whose process ended while it was away
        (20 ms measured)."""
        end = time.monotonic() + GHOST
        while self._table.sees_all() and not self._table.find(self._vmid):
            if not self._runs() or time.monotonic() > end:
                return True
            time.sleep(0.05)
        return False

    def _end_paused(self, here: Here, run: ActionRun) -> None:
        libvirt = self._short.libvirt
        if here.pause_reason in (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP):
            raise Refused("busy", "the VM is being started or migrated here at this moment")
        result = self._end(min(run.left(), 15.0))
        if isinstance(result, StillThere):
            raise Refused("still-paused", f"a paused copy cannot be ended: process {result.pid} is {result.why}")

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
            raise Refused(code, text)

    # --- stop -------------------------------------------------------------------------------------------------------

    def shutdown(self, deadline: float) -> ActionReport:
        """Ask the guest: its agent first, the ACPI button if the agent does not answer or was asked before. OK:
        asked, or not here. Does not wait for the guest."""
        run = ActionRun(self._clock, Action(ActionKind.STOP, deadline=deadline))
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
        run = ActionRun(self._clock, Action(ActionKind.POWER_OFF, deadline=deadline))
        try:
            result = self._end(deadline)
        except OSError as e:
            return run.report(Outcome.FAILED, f"the process table cannot be read: {e.strerror}")
        if isinstance(result, StillThere):
            return run.report(Outcome.OVERDUE, f"process {result.pid}: {result.why}")
        return run.report(Outcome.OK, "")

    def _end(self, seconds: float) -> Optional[StillThere]:
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

    # --- move ---------------------------------------------------------------------------------------------------------

    def migrate(self, action: Action, deadline: float) -> ActionReport:
        """Move the running VM to ``action.target_address``: an address, or a libvirt URI. See ``migration.py``."""
        return self._migration.migrate(action, deadline)

    def abort_migration(self) -> None:
        """Nothing to abort is fine."""
        self._migration.abort()

    # --- looks ----------------------------------------------------------------------------------------------------

    def _look(self) -> Optional[Here]:
        return self._short.call("look at the engine VM", self._here, LOOK)

    def _here(self, native: Native) -> Optional[Here]:
        return find_domain(self._short.libvirt, native, self._vmid)


def _agent_connected(domain: Any) -> bool:
    targets: List[Any] = parse_xml(domain.XMLDesc(0)).findall("devices/channel/target")
    return any(target.get("name") == AGENT_CHANNEL and target.get("state") == "connected" for target in targets)
