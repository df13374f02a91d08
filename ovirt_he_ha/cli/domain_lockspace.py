"""--reinitialize-lockspace --storage-domain: the storage domain's own lockspace and the VM's lease, written anew with
sanlock stopped on every host, or at least out of it."""

import time
from typing import Dict, List, Optional

from ovirt_he_ha.cli.deployment import deployed_conf
from ovirt_he_ha.cli.request import Refusal, Request, say
from ovirt_he_ha.cli.waiting import notice
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.hypervisor.process import ProcessTable
from ovirt_he_ha.lease import daemon_status
from ovirt_he_ha.lease.daemon_status import NoStatus
from ovirt_he_ha.lease.formatting import FormatFailed, write_lockspace, write_resource
from ovirt_he_ha.lease.leader import HostRecord, NotLockspace, host_in
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.provider import Domain

READ_SECONDS = 20.0  # wall, for up to 8 MiB
LOOK = 10.0  # wall seconds between two looks: a host that lives writes its record every 20
DEFAULT_IO_TIMEOUT = 10  # sanlock's seconds, for a record that does not say
WATCHDOG = 60  # seconds until a watchdog fires, as sanlock counts it


def silence(io_timeout: int) -> float:
    """Seconds without a sign of life after which a host is dead and reset, as sanlock counts: and one renewal more."""
    return float(8 * io_timeout + WATCHDOG + 2 * io_timeout)


def reinitialize(request: Request) -> int:
    """Nothing forces it: where a host may live, its VM may run."""
    if request.has("--force"):
        raise Refusal("usage", "--storage-domain and --force exclude each other: a VM may run where a host may live")
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    _check_this_host(conf)
    domain = domain_of(conf, paths)
    worker = IoWorker(domain.ids_path, clock=SystemClock(1.0))
    try:
        sector_size, alignment = domain.sector_size(), domain.alignment()
        _check_others(conf, worker, sector_size, alignment)
        _check_this_host(conf)
        with notice("Writing the lockspace and the lease anew"):
            _write(conf, domain, sector_size, alignment)
    except (DomainProblem, StorageError) as problem:
        raise Refusal("storage-" + problem.code, f"{problem}. Nothing was written") from problem
    finally:
        worker.close(1.0)
    say(f"The lockspace of storage domain {conf.sd_uuid} and the VM's lease are written anew")
    say("On each host now, before its daemons start: hosted-engine --connect-storage --accept-copy")
    return 0


def _check_this_host(conf: HostedEngineConf) -> None:
    try:
        joined = conf.sd_uuid in daemon_status.ask().spaces
    except NoStatus as problem:
        raise Refusal("sanlock", f"{problem}. sanlock writes it: start it, without our daemons") from problem
    if joined:
        raise Refusal(
            "unsafe",
            "This host has joined the lockspace: stop ovirt-ha-agent and ovirt-ha-broker (and vdsmd) on every host, "
            "and sanlock on every other one",
        )
    if ProcessTable().find(conf.vmid):
        raise Refusal("unsafe", "The engine VM runs on this host: stop it first")


def _check_others(conf: HostedEngineConf, worker: IoWorker, sector_size: int, alignment: int) -> None:
    """That nobody renewed an id for so long that sanlock would call him dead and his watchdog has fired. Ids that were
    given back are free at once. Raises Refusal."""
    first = _busy(worker, conf.sd_uuid, sector_size, alignment)
    if not first:
        return
    seconds = max(silence(_io_timeout(sector)) for sector in first.values())
    until = time.monotonic() + seconds
    names = ", ".join(_name(number, sector, conf.sd_uuid, sector_size) for number, sector in sorted(first.items()))
    with notice(f"Watching for {seconds:.0f} s whether these give a sign of life: {names}"):
        while time.monotonic() < until:
            time.sleep(max(0.0, min(LOOK, until - time.monotonic())))
            now = _busy(worker, conf.sd_uuid, sector_size, alignment)
            alive = [number for number, sector in now.items() if first.get(number) != sector]
            if alive:
                listed = ", ".join(_name(number, now[number], conf.sd_uuid, sector_size) for number in sorted(alive))
                raise Refusal("host-alive", f"Alive: {listed}. Stop sanlock there first; nothing was written")


def _busy(worker: IoWorker, sd_uuid: str, sector_size: int, alignment: int) -> Dict[int, bytes]:
    """Host id -> its sector, but for ids that nobody has: never used, or given back. What cannot be read as a record
    may be anybody's, and only its bytes count."""
    data = worker.read(0, alignment, READ_SECONDS)
    found: Dict[int, bytes] = {}
    for number in range(1, len(data) // sector_size + 1):
        sector = data[(number - 1) * sector_size : number * sector_size]
        if not any(sector):
            continue
        record = _record(sector, sd_uuid, sector_size)
        if record is None or record.timestamp:
            found[number] = sector
    return found


def _record(sector: bytes, sd_uuid: str, sector_size: int) -> Optional[HostRecord]:
    try:
        return host_in(sector, sd_uuid, sector_size)
    except NotLockspace:
        return None


def _io_timeout(sector: bytes) -> int:
    said = int.from_bytes(sector[174:176], "little")
    return said if DEFAULT_IO_TIMEOUT <= said <= 120 else DEFAULT_IO_TIMEOUT


def _name(number: int, sector: bytes, sd_uuid: str, sector_size: int) -> str:
    record = _record(sector, sd_uuid, sector_size)
    return f"host id {number} ({record.host or 'no name'})" if record else f"host id {number} (unreadable)"


def _write(conf: HostedEngineConf, domain: Domain, sector_size: int, alignment: int) -> None:
    lease = domain.lease(conf.vm_disk_id, conf.vm_disk_vol_id)
    written: List[str] = []
    try:
        write_lockspace(conf.sd_uuid, domain.ids_path, sector_size, alignment=alignment)
        written.append("The lockspace is written anew, the lease is not. ")
        write_resource(lease, sector_size, alignment=alignment)
    except FormatFailed as error:
        raise Refusal("not-written", f"{''.join(written)}{error}. Once that is mended, call it again") from error
