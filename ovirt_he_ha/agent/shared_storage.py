"""What the agent itself reads on the shared storage: the VM's definition, and the domain's sector size.

Through a worker process with a deadline: a thread of the agent that hung in the storage could not be ended, and would
keep the agent from its stop and its successor from its start.
"""

from dataclasses import dataclass
from typing import Iterator, Optional

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.storage.archive import parse_archive
from ovirt_he_ha.storage.archive_journal import AREA, SIZE, whole
from ovirt_he_ha.storage.domain_files import FilesOfWorker
from ovirt_he_ha.storage.domain_place import domain_of
from ovirt_he_ha.storage.errors import StorageError
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.newest_store import NewestStore
from ovirt_he_ha.storage.ovf_store import OvfStoreError, read_ovf

READ_SECONDS = 5.0  # product
SEARCH = 600.0  # product seconds after which all volumes of the domain are looked through for OVF_STOREs again


@dataclass(frozen=True)
class OvfCandidate:
    """The engine VM's OVF in one OVF_STORE volume, or what is wrong with that volume."""

    path: str
    data: bytes
    problem: Optional[OvfStoreError] = None


class SharedStorage:
    """Bounded by READ_SECONDS, and safe for several threads."""

    def __init__(self, conf: HostedEngineConf, clock: SystemClock, newest: Optional[NewestStore] = None) -> None:
        """``newest``: what is remembered of the OVF_STOREs, and noticed when it went back."""
        self._newest = newest
        self._conf = conf
        self._clock = clock
        domain = domain_of(conf)
        self._worker = IoWorker(domain.volume_path(conf.conf_image_uuid, conf.conf_volume_uuid), clock=clock)
        self._sector_size: Optional[int] = None
        self._stores = domain.ovf_stores()
        self._searched_at = clock.monotonic()

    @property
    def abandoned(self) -> int:
        """Processes that hang in the kernel now."""
        return self._worker.abandoned

    def vm_conf(self) -> str:
        """From the configuration volume. Raises StorageError, ArchiveError, UnicodeDecodeError."""
        try:
            data = self._worker.read(0, AREA, READ_SECONDS)
        except StorageError as error:
            if error.code != "too-small":  # for the copy that is kept beside the archive
                raise
            data = self._worker.read(0, SIZE, READ_SECONDS)
        return parse_archive(whole(data))["vm.conf"].decode("utf-8")

    def ovfs(self) -> Iterator[OvfCandidate]:
        """Of the engine VM, newest first; all of them together within READ_SECONDS. Raises OvfStoreError where there
        are none, StorageError."""
        now = self._clock.monotonic()
        if now - self._searched_at > SEARCH:
            self._searched_at = now
            self._stores.forget()
        files = FilesOfWorker(self._worker, self._clock, READ_SECONDS)
        volumes = self._stores.newest_first(files)
        if self._newest is not None:
            self._newest.note(volumes)
        for volume in volumes:
            try:
                data = read_ovf(files, volume, self._conf.vmid)
            except OvfStoreError as problem:
                self._stores.forget()
                yield OvfCandidate(volume.path, b"", problem)
                continue
            yield OvfCandidate(volume.path, data)

    def rest(self) -> None:
        """The next look is a minute away: no process until then."""
        self._worker.rest()

    def sector_size(self) -> int:
        """The domain's: read until it is known, then remembered for good. Raises StorageError, DomainProblem."""
        if self._sector_size is None:
            files = FilesOfWorker(self._worker, self._clock, READ_SECONDS)
            self._sector_size = domain_of(self._conf, files=files).sector_size()
        return self._sector_size

    def close(self) -> None:
        """Ends the worker, or leaves it behind."""
        self._worker.close(1.0)
