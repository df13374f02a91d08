"""A volume that other programs' threads may touch: through a process of its own, with a deadline.

The library runs in the process of whoever calls it. A thread of that program which hung in the storage's kernel code
could not be ended, not even by SIGKILL, and would keep the whole program from its end.
"""

import os
import time
from functools import lru_cache
from typing import Tuple

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.storage.archive import ArchiveBytes
from ovirt_he_ha.storage.archive_worker import ArchiveWorker
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue
from ovirt_he_ha.storage.io_process import IoFailure, VolumeLook


class BoundedVolume(ArchiveBytes):
    """All accesses together end within ``seconds`` (wall) of its making. Leaving the block ends the process, too."""

    def __init__(self, path: str, seconds: float) -> None:
        self.path = path
        self._until = time.monotonic() + seconds
        self._worker = _worker(path, os.getpid())

    def __enter__(self) -> "BoundedVolume":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._worker.rest()

    def read(self, length: int) -> bytes:
        """From the beginning. Raises IoFailure."""
        try:
            return self.read_at(0, length)
        except StorageError as error:
            raise IoFailure(error.code, error.error) from error

    def write(self, data: bytes, offset: int) -> None:
        """Raises IoFailure; ``late-write`` when it was given up and may still arrive."""
        try:
            self._worker.write_archive(data, offset, self._left())
        except StorageError as error:
            given_up = isinstance(error, StorageOverdue) and error.code == "overdue"
            raise IoFailure("late-write" if given_up else error.code, error.error) from error

    def read_at(self, offset: int, length: int) -> bytes:
        """Raises StorageError."""
        return self._worker.read(offset, length, self._left())

    def look(self, path: str) -> VolumeLook:
        """At another volume of the same storage. Raises StorageError."""
        return self._worker.look(path, self._left())

    def read_from(self, path: str, offset: int, length: int) -> bytes:
        """Another volume of the same storage. Raises StorageError."""
        return self._worker.read_from(path, offset, length, self._left())

    def text(self, path: str) -> bytes:
        """A small file of the same storage. Raises StorageError."""
        return self._worker.text(path, self._left())

    def writer(self) -> int:
        """The process that the next write goes through. Raises StorageError."""
        return self._worker.process(self._left())

    def late_writers(self) -> Tuple[int, ...]:
        """Processes whose write was given up and may still arrive."""
        return self._worker.late_writers()

    def is_directory(self, path: str) -> bool:
        """Of the same storage. Raises StorageError."""
        return self._worker.is_directory(path, self._left())

    def _left(self) -> float:
        return max(0.001, self._until - time.monotonic())


# One for each volume, however many callers there are: it knows how many processes of this program hang there, and adds
# no third. By the process too: after a fork the child has none of them.
@lru_cache(maxsize=64)
def _worker(path: str, _pid: int) -> ArchiveWorker:
    return ArchiveWorker(path, clock=SystemClock(1.0))
