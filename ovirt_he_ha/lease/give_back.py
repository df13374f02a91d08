"""Clears the VM's lease of a record that this host left there.

sanlock writes the end of a tenure once; where that fails with an I/O error the record stays, and as long as this host
lives every other one is refused the lease. A process of this host gets it, and its end is written anew.
"""

import logging
from typing import Callable, Optional, Sequence

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease import vm_lease
from ovirt_he_ha.lease.binding import Sanlock, SanlockMissing
from ovirt_he_ha.lease.resource_lock import LockFailed, ResourceLock
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable

log = logging.getLogger(__name__)

SECONDS = 5.0  # wall; taking a lease that is ours takes some ms, and whoever waits for this has a VM to start


def give_back(
    lease: LeaseId, host_id: int, processes: Callable[[], Sequence[object]], api: Optional[Sanlock] = None
) -> bool:
    """Whether a record of ``host_id`` was cleared. sanlock arbitrates: where a process holds the lease it is refused,
    and while ours holds it no VM gets it. Nothing is formatted, and a failure changes nothing. Blocks for a few
    seconds at most, and for as long as sanlock does in reading the record.

    ``processes``: the VM's on this host; may raise OSError. sanlock knows nothing of one that outlived its guard, or
    was paused and cannot end: the record is all that keeps the others from starting the VM beside it."""
    try:
        if processes():
            log.warning("The record on the VM's lease stays: a process of the VM is here")
            return False
        if vm_lease.owner(lease, api=api).host_id != host_id:
            return False
        with ResourceLock(lease, SECONDS, lambda: _never_format(lease)):
            pass
    except (OSError, LeaseUnreadable, LockFailed, SanlockMissing) as error:
        log.warning("The record on the VM's lease stays: %s", error)
        return False
    log.info("The record that this host left on the VM's lease is cleared")
    return True


def _never_format(lease: LeaseId) -> int:
    raise LockFailed("error", lease, "there is no lease")
