"""How a storage domain is looked at: in this process, which may hang, or through a worker with a deadline."""

import os
from typing import Dict, List, Protocol

from ovirt_he_ha.core.seams import Clock
from ovirt_he_ha.storage import io_process
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue
from ovirt_he_ha.storage.io_process import IoFailure, VolumeLook
from ovirt_he_ha.storage.io_worker import FLOOR, IoWorker


class DomainFiles(Protocol):
    """Every method may fail; none makes or changes anything."""

    def is_directory(self, path: str) -> bool: ...

    def text(self, path: str) -> bytes:
        """A file of at most 64 KiB. Raises IoFailure."""
        ...

    def look(self, path: str) -> VolumeLook:
        """Raises IoFailure."""
        ...


class VolumeFiles(DomainFiles, Protocol):
    """Also finds volumes by their images, and reads them."""

    def names(self, path: str) -> List[str]:
        """What is in a directory, sorted. Raises IoFailure."""
        ...

    def number(self, path: str) -> int:
        """What the file system knows a file by; a copy of it has another. Raises IoFailure."""
        ...

    def read(self, path: str, offset: int, length: int) -> bytes:
        """At most 1 MiB of a volume; offset and length are multiples of 4,096. Raises IoFailure."""
        ...


class FilesHere(VolumeFiles):
    """In this process: a thread that hangs in the storage's kernel code cannot be ended, and keeps the process with
    all it holds. For the command line and tests."""

    def is_directory(self, path: str) -> bool:
        return io_process.is_directory(path)

    def text(self, path: str) -> bytes:
        return io_process.text(path)

    def look(self, path: str) -> VolumeLook:
        return io_process.look(path)

    def names(self, path: str) -> List[str]:
        return [os.fsdecode(name) for name in io_process.names(path).split(b"\0") if name]

    def number(self, path: str) -> int:
        return io_process.number(path)

    def read(self, path: str, offset: int, length: int) -> bytes:
        return io_process.direct_read(path, offset, length)


class FilesOfWorker(VolumeFiles):
    """All calls together end within ``seconds`` (product) of its making, or raise StorageOverdue: make a new one for
    each look at the domain. A clock that runs faster leaves them the second that the worker grants to each: a look is
    a process and a dozen reads, and at ten times the pace it would have to be done in half a second."""

    def __init__(self, worker: IoWorker, clock: Clock, seconds: float) -> None:
        self._worker = worker
        self._clock = clock
        self._until = clock.monotonic() + max(seconds, min(seconds, FLOOR) * clock.scale)
        self._texts: Dict[str, bytes] = {}  # one look asks for the domain's metadata three times

    def is_directory(self, path: str) -> bool:
        try:
            return self._worker.is_directory(path, self._left())
        except StorageError as error:
            raise _sorted(error) from error

    def text(self, path: str) -> bytes:
        if path not in self._texts:
            try:
                self._texts[path] = self._worker.text(path, self._left())
            except StorageError as error:
                raise _sorted(error) from error
        return self._texts[path]

    def look(self, path: str) -> VolumeLook:
        try:
            return self._worker.look(path, self._left())
        except StorageError as error:
            raise _sorted(error) from error

    def names(self, path: str) -> List[str]:
        try:
            return self._worker.names(path, self._left())
        except StorageError as error:
            raise _sorted(error) from error

    def number(self, path: str) -> int:
        try:
            return self._worker.number(path, self._left())
        except StorageError as error:
            raise _sorted(error) from error

    def read(self, path: str, offset: int, length: int) -> bytes:
        try:
            return self._worker.read_from(path, offset, length, self._left())
        except StorageError as error:
            raise _sorted(error) from error

    def _left(self) -> float:
        return max(0.001, self._until - self._clock.monotonic())


def _sorted(error: StorageError) -> Exception:
    """What the storage said is a finding; what became of the worker is not."""
    if isinstance(error, StorageOverdue) or error.code in ("worker-died", "closed"):
        return error
    return IoFailure(error.code, error.error)
