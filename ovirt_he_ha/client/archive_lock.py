"""Who may change the configuration archive just now: one process of all hosts, by a sanlock resource.

The resource lies in the volume of the lockspace ``hosted-engine``, 8 MiB from its beginning: behind the lockspace
itself at every alignment, and where nothing else was ever written. Hosts that run oVirt's own tools know nothing of it;
see ``only_ours``.
"""

from typing import Callable, Tuple

from ovirt_he_ha.client.bounded_volume import BoundedVolume
from ovirt_he_ha.client.link import BrokerError, BrokerLink
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, LeaseId, Record
from ovirt_he_ha.lease.binding import SanlockMissing
from ovirt_he_ha.lease.resource_lock import LockFailed, ResourceLock
from ovirt_he_ha.storage import signature as kinds
from ovirt_he_ha.storage.archive import ArchiveError
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.io_process import PAGE, IoFailure
from ovirt_he_ha.storage.signature import Signature, signature

LOCKSPACE = "hosted-engine"
RESOURCE = "configuration"
PLACE = 8 << 20
ROOM = 1 << 20  # bytes of one resource
ASK = 2.0  # wall seconds: the broker answers from its memory


def lease_of(conf: HostedEngineConf) -> LeaseId:
    """The resource's name and place."""
    domain = domain_of(conf)
    path = domain.volume_path(conf.lockspace_image_uuid, conf.lockspace_volume_uuid)
    return LeaseId(LOCKSPACE, RESOURCE, path, PLACE)


class ArchiveLock:
    """``seconds`` (wall): until it is held, or ``enter`` raises ArchiveError with a code that begins with ``lock-``.
    Trying begins with the construction, so that it goes on beside the first look at the archive."""

    def __init__(self, conf: HostedEngineConf, volume: BoundedVolume, seconds: float) -> None:
        self._path = volume.path
        self._volume = volume
        self._lock = ResourceLock(lease_of(conf), seconds, _sector_size(conf, volume))
        self._missing: Tuple[Exception, ...] = ()
        try:
            self._lock.begin()
        except (SanlockMissing, LockFailed) as error:
            self._missing = (error,)

    @property
    def fresh(self) -> bool:
        """Nobody ever had it before, so that it may be two this one time."""
        return self._lock.fresh

    def enter(self) -> None:
        """Raises ArchiveError."""
        try:
            if self._missing:
                raise self._missing[0]
            self._lock.__enter__()
        except LockFailed as error:
            raise ArchiveError(
                f"lock-{error.code}", f"not changed: its lock is not to be had: {error}", self._path
            ) from (error)
        except SanlockMissing as error:
            raise ArchiveError("lock-no-sanlock", f"not changed: {error}", self._path) from error

    def check(self) -> None:
        """In the instant before the write. Raises ArchiveError."""
        try:
            self._lock.check()
            self._lock.written_by(self._volume.writer())
        except LockFailed as error:
            raise ArchiveError(f"lock-{error.code}", f"not changed: {error}", self._path) from error
        except StorageError as error:
            raise ArchiveError(error.code, f"not changed: {error}", self._path) from error

    def release(self, late_writers: Tuple[int, ...] = ()) -> None:
        """``late_writers``: processes whose write may still arrive. The lock stays until the last one is gone: the next
        host's change must not be overwritten by it."""
        self._lock.release(max(late_writers, default=0))


def _sector_size(conf: HostedEngineConf, volume: BoundedVolume) -> Callable[[], int]:
    def ask() -> int:
        lease = lease_of(conf)
        try:
            if volume.look(lease.path).size < PLACE + ROOM:
                raise LockFailed("too-small", lease, f"the volume has less than {PLACE + ROOM} bytes")
            _refuse_foreign(lease, volume)
            return domain_of(conf, files=_Files(volume)).sector_size()
        except (StorageError, DomainProblem) as error:
            raise LockFailed("error", lease, str(error)) from error

    return ask


def _refuse_foreign(lease: LeaseId, volume: BoundedVolume) -> None:
    """sanlock calls a place unformatted whatever lies there, and formatting destroys it. So it must be behind our
    lockspace, and nothing that is known by its first bytes. Raises LockFailed, StorageError."""
    begin = signature(volume.read_from(lease.path, 0, PAGE))
    if begin != Signature(kinds.LOCKSPACE, LOCKSPACE):
        raise LockFailed("in-use", lease, f"the volume does not begin with the lockspace {LOCKSPACE} but with {begin}")
    there = signature(volume.read_from(lease.path, lease.offset, PAGE))
    if there.kind not in (kinds.ZEROS, kinds.UNKNOWN):
        raise LockFailed("in-use", lease, f"at offset {lease.offset} lies something else: {there}")


class _Files:
    """The domain's metadata by the volume's process."""

    def __init__(self, volume: BoundedVolume) -> None:
        self.is_directory = volume.is_directory
        self.look = volume.look
        self._volume = volume

    def text(self, path: str) -> bytes:
        try:
            return self._volume.text(path)
        except StorageError as error:
            raise IoFailure(error.code, error.error) from error


def only_ours(paths: HostPaths) -> bool:
    """Whether every host that is not stopped takes this lock. False also where nobody knows."""
    try:
        with BrokerLink(paths.broker_socket, ASK) as link:
            slots = link.snapshot().slots
    except BrokerError:
        return False
    for host_id, data in slots.items():
        found = slot.decode(host_id, data) if host_id != GLOBAL_SLOT else None
        if isinstance(found, Record) and not found.extra_ok and not found.stopped:
            return False
    return True
