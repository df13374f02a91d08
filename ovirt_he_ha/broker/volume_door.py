"""Finding the whiteboard's volume: everything that may hang is done by others, and given up in time."""

import threading
from typing import Callable, List, Optional, Protocol

from ovirt_he_ha.core.seams import BlockIO
from ovirt_he_ha.storage.errors import DomainProblem, StorageError, StorageOverdue


class Domain(Protocol):
    def verify(self) -> None: ...

    def sector_size(self) -> int: ...


class VolumeDoor:
    """``open`` checks domain and volume, then hands out the I/O worker, always the same one: it counts what it had
    to abandon.

    ``check(sector_size)`` raises DomainProblem if the volume cannot be used. ``wall_seconds``: how long checking
    may take; a check that hangs is left behind, and until it ends every further ``open`` is overdue at once.
    """

    def __init__(
        self,
        domain: Domain,
        path: str,
        check: Callable[[int], None],
        worker: Callable[[int], BlockIO],
        wall_seconds: float,
    ) -> None:
        self._domain = domain
        self._path = path
        self._check = check
        self._make_worker = worker
        self._seconds = wall_seconds
        self._looking: Optional[threading.Thread] = None
        self._worker: Optional[BlockIO] = None

    def open(self) -> BlockIO:
        """Raises StorageError, StorageOverdue."""
        if self._looking is not None and self._looking.is_alive():
            raise StorageOverdue("overdue", self._path, detail="an earlier look at the domain still hangs")
        outcome: List[object] = []
        self._looking = threading.Thread(target=self._look, args=(outcome,), name="volume-check", daemon=True)
        self._looking.start()
        self._looking.join(self._seconds)
        if not outcome and not self._looking.is_alive():
            raise StorageError("io", self._path, detail="looking at the domain failed unexpectedly, see the journal")
        if not outcome:
            raise StorageOverdue("overdue", self._path, detail=f"looking at the domain for {self._seconds:g} s")
        found = outcome[0]
        if isinstance(found, int):
            self._worker = self._worker or self._make_worker(found)
            return self._worker
        raise found if isinstance(found, StorageError) else StorageError("io", self._path, detail=str(found))

    def _look(self, outcome: List[object]) -> None:
        try:
            self._domain.verify()
            sector_size = self._domain.sector_size()
            self._check(sector_size)
            outcome.append(sector_size)
        except DomainProblem as problem:
            outcome.append(StorageError(problem.code, problem.object, detail=f"expected {problem.expected}"))
        except OSError as error:
            outcome.append(StorageError("io", self._path, error.errno or 0))
