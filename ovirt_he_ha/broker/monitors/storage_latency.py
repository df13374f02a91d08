"""How long the last read of the shared volume took: the real path, so no read is made for the measurement's sake."""

import threading
from typing import Callable, Optional

from ovirt_he_ha.core.model import Reading
from ovirt_he_ha.core.seams import Clock

SLOW = 10.0  # seconds: what peers of the cluster call an invalid domain


class StorageLatency:
    """Filled by whoever reads the volume, on any thread. ``on_change`` is called when the domain turns valid or
    invalid."""

    def __init__(self, clock: Clock, on_change: Optional[Callable[[], None]] = None) -> None:
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._seconds: Optional[float] = None
        self._why = "not-yet"
        self._at: Optional[float] = None

    def record(self, seconds: float) -> None:
        """A read succeeded and took so long (product seconds)."""
        self._keep(max(0.0, seconds), "")

    def failed(self, why: str = "error") -> None:
        """A read failed or was given up (``overdue``): the latency is unknown."""
        self._keep(None, why)

    def reading(self) -> Reading[float]:
        """Never waits."""
        now = self._clock.monotonic()
        with self._lock:
            age = None if self._at is None else max(0.0, now - self._at)
            return Reading(self._seconds, age, self._why)

    def valid(self) -> Optional[bool]:
        """Did the last read succeed, within 10 s? None before the first one."""
        with self._lock:
            return self._valid()

    def _valid(self) -> Optional[bool]:
        return None if self._at is None else self._seconds is not None and self._seconds <= SLOW

    def _keep(self, seconds: Optional[float], why: str) -> None:
        with self._lock:
            before = self._valid()
            self._seconds, self._why, self._at = seconds, why, self._clock.monotonic()
            changed = self._valid() != before
        if changed and self._on_change is not None:
            self._on_change()
