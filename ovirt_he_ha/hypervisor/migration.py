"""Live migration of the engine VM to a peer, and its abort.

Never post-copy: a broken network in its middle would cost the VM. libvirt's lock manager hands the lease over.
"""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Dict, Optional

from ovirt_he_ha.core.model import Action, ActionReport, LeaseId, Outcome
from ovirt_he_ha.core.seams import Clock
from ovirt_he_ha.hypervisor.action_run import ActionRun, Here, Refused, find_domain
from ovirt_he_ha.hypervisor.connection import Connection, HypervisorError, Native, Overdue, wall_seconds
from ovirt_he_ha.hypervisor.definition import CACHES, DefinitionRefused, lease_of, parse_xml
from ovirt_he_ha.hypervisor.destination import DEFAULT_SCHEME, BadDestination, Destination, destination

log = logging.getLogger(__name__)

LOOK = 5.0  # product s for one short question
ABORT_AGAIN = 0.5  # wall s
ABORT_WAIT = 5.0  # product s for a migration to end after its job was aborted


@dataclass(frozen=True)
class MigrationRoute:
    """``shared_directory``: the images lie in a directory that every host mounts as a plain file system; libvirt
    then needs to be told that moving is safe, and it is, as long as no disk uses the page cache (checked).
    ``scheme``, ``port``: how peers are reached, where the address they publish does not say."""

    shared_directory: bool = True
    scheme: str = DEFAULT_SCHEME
    port: Optional[int] = None


class Migration:
    """``short`` and ``long``: two connections to the same libvirt, so that an abort does not wait for what it ends."""

    def __init__(
        self, short: Connection, long: Connection, vmid: str, lease: LeaseId, clock: Clock, route: MigrationRoute
    ) -> None:
        self._short = short
        self._long = long
        self._vmid = vmid
        self._lease = lease
        self._clock = clock
        self._route = route

    def migrate(self, action: Action, deadline: float) -> ActionReport:
        """Move the running VM to ``action.target_address``. On anything but OK the VM goes on here, or is reported
        not to. Overdue: the job is aborted. Never post-copy: a broken network in its middle would cost the VM."""
        run = ActionRun(self._clock, action)
        try:
            target = destination(action.target_address, self._route.scheme, self._route.port)
            self._refuse_unsafe_move()
            self._long.call("migrate the engine VM", lambda native: self._migrate_native(native, target), deadline)
        except (BadDestination, Refused, DefinitionRefused) as e:
            return run.report(Outcome.REFUSED, str(e))
        except Overdue as e:
            return self._overdue_move(e, run)
        except HypervisorError as e:
            return run.report(Outcome.FAILED, str(e) + self._after_failed_move())
        return run.report(Outcome.OK, target.libvirt_uri)

    def _refuse_unsafe_move(self) -> None:
        here = self._look()
        if here is None or not here.active:
            raise Refused("not-here", "the VM does not run on this host")
        if here.paused:
            raise Refused("paused", "the VM is paused: it holds no lease that could be handed over")
        text = self._short.call("read the running definition", lambda native: here.domain.XMLDesc(0), LOOK)
        root = parse_xml(text)
        if lease_of(root) != [self._lease]:
            raise Refused("foreign-lease", f"the running VM is not guarded by {self._lease}")
        for disk in root.findall("devices/disk"):
            driver = disk.find("driver")
            cached = driver is None or driver.get("cache") not in CACHES
            if disk.get("device", "disk") == "disk" and cached:
                raise Refused(
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
        if self._route.shared_directory:
            flags |= libvirt.VIR_MIGRATE_UNSAFE
        parameters: Dict[str, str] = {libvirt.VIR_MIGRATE_PARAM_URI: target.migrate_uri}
        native.lookupByUUIDString(self._vmid).migrateToURI3(target.libvirt_uri, parameters, flags)

    def _overdue_move(self, overdue: Overdue, run: ActionRun) -> ActionReport:
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
            self.abort()
            time.sleep(ABORT_AGAIN)

    def _after_failed_move(self) -> str:
        try:
            here = self._look()
        except HypervisorError:
            return "; whether the VM runs on here is not known"
        if here is None or not here.active:
            return "; the VM is not here any more"
        return "; the VM is paused here" if here.paused else "; the VM goes on here"

    def abort(self) -> None:
        """Nothing to abort is fine."""
        try:
            self._short.call("abort the migration", self._abort_native, LOOK)
        except HypervisorError as e:
            log.warning("The migration was not aborted: %s", e)

    def _abort_native(self, native: Native) -> None:
        here = find_domain(self._short.libvirt, native, self._vmid)
        libvirt = self._short.libvirt
        if here is None or not here.active:
            return
        try:
            here.domain.abortJob()
        except libvirt.libvirtError as e:
            if e.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # no job is active
                raise

    def _look(self) -> Optional[Here]:
        return self._short.call(
            "look at the engine VM", lambda native: find_domain(self._short.libvirt, native, self._vmid), LOOK
        )
