"""The cluster past the broker: the slots on the volume, watched until every host was seen to publish or has had time
to; and what this host's sanlock knows. Everything is only read, and nothing is waited for without an end."""

import threading
import time
from types import MappingProxyType
from typing import Any, Collection, Dict, List, Mapping, Set, Tuple

from ovirt_he_ha.cli.request import Refusal
from ovirt_he_ha.cli.sources import stuck_readers
from ovirt_he_ha.client.bounded_volume import BoundedVolume
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.core.model import GLOBAL_SLOT, SLOT_SIZE, HostLease, LeaseFacts, LeaseOwner, Reading
from ovirt_he_ha.lease import binding, daemon_status, vm_lease
from ovirt_he_ha.lease.lockspace import FLAGS
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.provider import Domain
from ovirt_he_ha.storage.volumes import SCANNED

WATCH = 16.0  # wall seconds: every agent publishes each 10 s, and a late one may take half as long again
PAUSE = 1.0
FIRST_SECONDS = 2.0  # wall, for one slot: storage that hangs is told of at once
READ_SECONDS = 30.0  # wall, for the whole of a volume of 8 MB
MOST_STUCK = 2  # one more would hang at the same place
SANLOCK_SECONDS = 3.0  # wall: its library waits for the daemon without an end


def watched(conf: HostedEngineConf) -> Tuple[BrokerSnapshot, Collection[int]]:
    """What can be known without the broker, and the hosts whose slots changed. Raises Refusal."""
    domain = domain_of(conf)
    path = domain.volume_path(conf.metadata_image_uuid, conf.metadata_volume_uuid)
    if stuck_readers(path) >= MOST_STUCK:
        text = f"The broker does not answer, and readers of earlier calls hang at {path}: restore the storage first"
        raise Refusal("storage", text)
    try:
        with BoundedVolume(path, READ_SECONDS + WATCH) as volume:
            BoundedVolume(path, FIRST_SECONDS).read_at(0, SLOT_SIZE)  # by the same process
            slots = _slots(volume.read_at(0, SCANNED))
            alive = _changing(volume, slots)
    except StorageError as error:
        text = f"The broker does not answer, and the slots cannot be read from the volume: {error}"
        raise Refusal("storage", text) from error
    return BrokerSnapshot(host_id=conf.host_id, slots=slots, slots_age=0.0, leases=_leases(conf, domain)), alive


def _slots(data: bytes) -> Dict[int, bytes]:
    found = {}
    for at in range(0, len(data) - SLOT_SIZE + 1, SLOT_SIZE):
        one = data[at : at + SLOT_SIZE]
        if one.strip(b"\0"):
            found[at // SLOT_SIZE] = one
    return found


def _changing(volume: BoundedVolume, slots: Mapping[int, bytes]) -> Collection[int]:
    publishers = {host_id for host_id in slots if host_id != GLOBAL_SLOT}
    until = time.monotonic() + WATCH
    alive: Set[int] = set()
    while publishers - alive and time.monotonic() < until:
        time.sleep(PAUSE)
        now = _slots(volume.read_at(0, (max(publishers) + 1) * SLOT_SIZE))
        alive |= {host_id for host_id in publishers if now.get(host_id) != slots[host_id]}
    return alive


# --- sanlock ----------------------------------------------------------------------------------------------------------


def _leases(conf: HostedEngineConf, domain: Domain) -> LeaseFacts:
    """As far as sanlock answers: its timeouts, the hosts it lists, who has the VM's lease."""
    try:
        space = daemon_status.ask().spaces.get(conf.sd_uuid)
    except daemon_status.NoStatus:
        return LeaseFacts()
    if space is None:
        return LeaseFacts()
    found: Dict[str, Any] = {}
    lease = domain.lease(conf.vm_disk_id, conf.vm_disk_vol_id)

    def ask() -> None:
        try:
            api = binding.load()
            found["hosts"] = _flags(api.get_hosts(conf.sd_uuid.encode()))
            found["owner"] = vm_lease.owner(lease)
        except Exception as error:  # the binding has its own exception class; what is missing stays unknown
            found["problem"] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SANLOCK_SECONDS)
    hosts, owner = found.get("hosts"), found.get("owner")
    return LeaseFacts(
        io_timeout=space.io_timeout,
        hosts=Reading.missing("no-answer") if hosts is None else Reading.of(hosts),
        owner=_owner(owner),
    )


def _owner(owner: object) -> "Reading[LeaseOwner]":
    return Reading.of(owner) if isinstance(owner, LeaseOwner) else Reading.missing("no-answer")


def _flags(hosts: List[Dict[str, Any]]) -> Mapping[int, HostLease]:
    listed = {int(each["host_id"]): FLAGS.get(int(each["flags"]), HostLease.UNKNOWN) for each in hosts}
    return MappingProxyType(listed)
