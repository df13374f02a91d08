"""What keeps a start by hand from running the VM twice: the agent's own rules about the lease, without its turns and
budgets.

Nothing here blocks. libvirt's create would wait for a dead owner of the lease inside the call, and keep every other
call waiting with it; so the lease is looked at first, by the broker's facts.
"""

from typing import Any, Iterator, Optional

from ovirt_he_ha.cli.hosts import Hosts
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.core.fencing import WORRYING
from ovirt_he_ha.core.liveness import owner_has_left
from ovirt_he_ha.core.model import EngineFacts, HostLease, LeaseFacts, LeaseId, LockspaceState, Reading
from ovirt_he_ha.core.situation import lease_text
from ovirt_he_ha.core.timers import Timers

FRESH = Timers().facts_stale  # product seconds; an older fact is none


def objections(
    snapshot: BrokerSnapshot, hosts: Hosts, own_id: int, lease: LeaseId, allow_unfenced: bool
) -> Iterator[str]:
    """Everything that forbids a virtual CPU to run here now; nothing when the start may be tried."""
    yield from _lockspace(snapshot.leases.lockspace)
    yield from _renewal(snapshot.leases)
    yield from _owner(snapshot, hosts, own_id)
    yield from _other_leases(hosts, own_id, lease)
    if snapshot.leases.watchdog_armed is not True and not allow_unfenced:
        yield (
            "No watchdog is known to be armed: a host that hangs with the VM would write to its disk after a peer has "
            "started it. allow-unfenced=yes in [fencing] of agent.conf accepts that"
        )
    if snapshot.leases.reset_within is not None:
        yield (
            "sanlock died with this host's lockspace, and the watchdog resets the host within "
            f"{snapshot.leases.reset_within:.0f} s: start the VM on another host"
        )


def _fresh(reading: "Reading[Any]") -> bool:
    return reading.value is not None and (reading.age or 0.0) <= FRESH


def _lockspace(reading: "Reading[LockspaceState]") -> Iterator[str]:
    if reading.value is not LockspaceState.HELD:
        state = reading.value.value if reading.value else reading.unknown
        yield f"This host's id is not held in the storage domain's lockspace ({state}): it cannot take the VM's lease"


def _renewal(leases: LeaseFacts) -> Iterator[str]:
    """The guard over the VM counts from the last renewal, also from one before the start."""
    if leases.lockspace.value is not LockspaceState.HELD:
        return
    if leases.renewed_ago is None:
        yield "When sanlock last renewed this host's id is not known: is sanlock running, was the broker just updated?"
    elif leases.renewed_ago >= WORRYING * leases.io_timeout:
        yield (
            f"sanlock last renewed this host's id {leases.renewed_ago:.0f} s ago: the VM would be killed soon after "
            "its start. Look again when the storage answers"
        )


def _owner(snapshot: BrokerSnapshot, hosts: Hosts, own_id: int) -> Iterator[str]:
    reading = snapshot.leases.owner
    if reading.value is None or not _fresh(reading):
        why = reading.unknown or f"last seen {reading.age or 0.0:.0f} s ago"
        yield f"Who holds the VM's lease is not known ({why}): look again when storage and sanlock answer"
        return
    owner = reading.value.host_id
    if owner == own_id:
        yield from _own_record(snapshot.monitors.engine)
    elif owner != 0:
        yield from _other_owner(owner, snapshot.leases, hosts)


def _own_record(reading: "Reading[EngineFacts]") -> Iterator[str]:
    """Our record without a process is of an earlier boot, or of a release that only cleared the id: sanlock grants it
    again."""
    engine = reading.value
    if engine is None or not _fresh(reading):
        yield "This host holds the VM's lease, and whether the VM runs here is not known: is libvirtd running?"
    elif engine.pid is not None:
        yield f"This host holds the VM's lease, and the VM's process {engine.pid} exists"


def _other_owner(owner: int, leases: LeaseFacts, hosts: Hosts) -> Iterator[str]:
    flag: Optional[HostLease] = None
    left = False
    if leases.hosts.value is not None and _fresh(leases.hosts):
        flag = leases.hosts.value.get(owner)
        left = owner_has_left(leases, leases.hosts.value)
    name = hosts.name(owner)
    if left:
        return
    if flag is HostLease.LIVE:
        yield (
            f"Host {name} holds the VM's lease and is alive: the VM runs there. Use --vm-migrate or --vm-shutdown on "
            "that host"
        )
    elif flag is not HostLease.DEAD:
        said = flag.value if flag else "not listed"
        yield f"Host {name} holds the VM's lease and is not known to be dead (sanlock: {said}): wait until it is"


def _other_leases(hosts: Hosts, own_id: int, lease: LeaseId) -> Iterator[str]:
    """A valid lease on another resource protects nothing. Only what a live peer publishes under its own checksum
    counts."""
    ours = lease_text(lease)
    for host_id, record in hosts.records().items():
        theirs = record.get("lease") if record.extra_ok and host_id in hosts.alive else ""
        if host_id != own_id and theirs not in ("", ours):
            yield f"Host {hosts.name(host_id)} guards the VM with another lease ({theirs}) than this host ({ours})"
