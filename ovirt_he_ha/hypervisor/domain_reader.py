"""One look at the engine VM's domain, and its disk counters, in our words."""

import logging
from typing import Any, Dict, List, Optional, Tuple

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.hypervisor.connection import Native
from ovirt_he_ha.hypervisor.definition import DefinitionRefused, lease_of, parse_xml
from ovirt_he_ha.hypervisor.engine_life import PAUSE_REASONS, Look, Run

log = logging.getLogger(__name__)

STOP_MARK = "urn:ovirt-he-ha:stop:1"  # in the running domain's metadata: a shutdown was asked for through libvirt here
AGENT_CHANNEL = "org.qemu.guest_agent.0"
JOB_MIGRATION_IN = 4
JOB_MIGRATION_OUT = 5


class DomainReader:
    """``lease``: what the running definition's lease is compared with; None: with nothing."""

    def __init__(self, libvirt: Any, vmid: str, lease: Optional[LeaseId]) -> None:
        self._libvirt = libvirt
        self._vmid = vmid
        self._lease = lease

    def _domain(self, native: Native) -> Any:
        """None: libvirt has no such domain."""
        libvirt = self._libvirt
        try:
            return native.lookupByUUIDString(self._vmid)
        except libvirt.libvirtError as e:
            if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def look(self, native: Native, ask_job: bool) -> Optional[Look]:
        """None: libvirt has no such domain. ``ask_job``: whether a migration may be under way although the VM is not
        paused. Answered by libvirtd itself, also while qemu does not answer; with a migration under way qemu is
        asked. Raises libvirtError."""
        domain = self._domain(native)
        if domain is None:
            return None
        libvirt = self._libvirt
        try:
            state, reason = domain.state()
            if state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_NOSTATE):
                return Look(Run.OFF)
            text = domain.XMLDesc(0)
            job = self._job(domain) if ask_job or state == libvirt.VIR_DOMAIN_PAUSED else (None, None)
        except libvirt.libvirtError as e:
            if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # it left between two of these calls
                return None
            raise
        outgoing, incoming = job
        agent, defined, asked = self._read_definition(text)
        return Look(
            run=_run(libvirt, state),
            domain_id=domain.ID(),
            pause_reason=_pause_reason(libvirt, state, reason),
            post_copy=state == libvirt.VIR_DOMAIN_RUNNING and reason == libvirt.VIR_DOMAIN_RUNNING_POSTCOPY,
            outgoing=outgoing,
            incoming=incoming,
            agent_connected=agent,
            lease_defined=defined,
            stop_requested=asked,
        )

    def _job(self, domain: Any) -> Tuple[Optional[bool], Optional[bool]]:
        """(outgoing, incoming). While a migration runs, this question goes to qemu."""
        libvirt = self._libvirt
        try:
            job: Dict[str, Any] = domain.jobStats()
        except libvirt.libvirtError as e:
            if e.get_error_code() != libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
                raise
            return False, True  # a migration's statistics are refused on its destination, and only there
        operation = job.get("operation", 0) if job.get("type", 0) else 0
        return operation == JOB_MIGRATION_OUT, operation == JOB_MIGRATION_IN

    def _read_definition(self, text: str) -> Tuple[Optional[bool], Optional[bool], bool]:
        """(guest agent connected, lease as computed, shutdown asked for)."""
        try:
            root = parse_xml(text)
            leases = lease_of(root)
        except DefinitionRefused as e:
            log.warning("The running definition of the engine VM: %s", e)
            return None, False, False
        states = [
            target.get("state") == "connected"
            for target in root.findall("devices/channel/target")
            if target.get("name") == AGENT_CHANNEL
        ]
        defined = None if self._lease is None else leases == [self._lease]
        return (states[0] if states else None), defined, root.find(f"metadata/{{{STOP_MARK}}}stop") is not None

    def requests(self, native: Native) -> Optional[int]:
        """Without waiting for another call's job: a qemu that does not answer must not collect waiting threads in
        libvirtd."""
        libvirt = self._libvirt
        domain = self._domain(native)
        if domain is None:
            return None
        rows: List[Tuple[Any, Dict[str, Any]]] = native.domainListGetStats(
            [domain], libvirt.VIR_DOMAIN_STATS_BLOCK, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        )
        return _requests(rows[0][1]) if rows else None


def _run(libvirt: Any, state: int) -> Run:
    if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED):
        return Run.PAUSED
    return Run.STOPPING if state == libvirt.VIR_DOMAIN_SHUTDOWN else Run.RUNNING


def _pause_reason(libvirt: Any, state: int, reason: int) -> str:
    if state == libvirt.VIR_DOMAIN_CRASHED:
        return "crashed"
    return PAUSE_REASONS.get(reason, "unknown") if state == libvirt.VIR_DOMAIN_PAUSED else ""


def _requests(row: Dict[str, Any]) -> Optional[int]:
    """None when libvirt gave no counters, because qemu was busy or does not answer."""
    disks = row.get("block.count")
    if disks is None:
        return None
    keys = [f"block.{index}.{kind}.reqs" for index in range(disks) for kind in ("rd", "wr", "fl")]
    values = [row[key] for key in keys if key in row]
    return sum(values) if values or disks == 0 else None
