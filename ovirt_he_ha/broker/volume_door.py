"""Finding the whiteboard's volume: everything that may hang is done by the I/O worker, and given up in time."""

from typing import Callable

from ovirt_he_ha.core.seams import BlockIO, Clock
from ovirt_he_ha.storage.domain_files import DomainFiles, FilesOfWorker
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.io_worker import IoWorker


class VolumeDoor:
    """``open`` looks at domain and volume through the worker, then hands that worker out: always the same one, because
    it counts what it had to abandon.

    ``check(files)`` raises DomainProblem if the volume cannot be used. ``seconds`` (product): how long one look may
    take.
    """

    def __init__(self, worker: IoWorker, check: Callable[[DomainFiles], None], clock: Clock, seconds: float) -> None:
        self._worker = worker
        self._check = check
        self._clock = clock
        self._seconds = seconds

    def files(self) -> DomainFiles:
        """For one look at the domain, with a deadline for all of it."""
        return FilesOfWorker(self._worker, self._clock, self._seconds)

    def open(self) -> BlockIO:
        """Raises StorageError, StorageOverdue."""
        try:
            self._check(self.files())
        except DomainProblem as problem:
            raise StorageError(problem.code, problem.object, detail=f"expected {problem.expected}") from problem
        return self._worker
