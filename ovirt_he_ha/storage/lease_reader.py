"""The VM lease's holder as the volume says, read by a worker process of its own: a thread of ours that hung in the
storage would keep a daemon from its end, and the metadata's worker has other things to do."""

from ovirt_he_ha.core.model import LeaseId, LeaseOwner
from ovirt_he_ha.lease.leader import owner_in
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.io_worker import IoWorker, WaitClock

READ_SECONDS = 4.0  # product: shorter than the audit's 5 s, so that one late answer costs one look


class LeaseReader:
    """Safe for several threads."""

    def __init__(self, lease: LeaseId, clock: WaitClock) -> None:
        self._lease = lease
        self._worker = IoWorker(lease.path, clock=clock)

    def use_sector_size(self, sector_size: int) -> None:
        """The domain's, once it could be looked at: 512 or 4096. A record with another one is unreadable."""
        self._worker.sector_size = sector_size

    def owner(self) -> LeaseOwner:
        """Past every cache of this host, as sanlock writes. Within READ_SECONDS; raises LeaseUnreadable, and then
        nothing is known."""
        try:
            data = self._worker.sector(self._lease.offset, READ_SECONDS)
            return owner_in(data, self._lease, self._worker.sector_size)
        except StorageError as problem:
            raise LeaseUnreadable(self._lease, 0, str(problem)) from problem

    def rest(self) -> None:
        """The next look is far away: no process until then."""
        self._worker.rest()

    @property
    def abandoned(self) -> int:
        """Processes that hang in the kernel now."""
        return self._worker.abandoned
