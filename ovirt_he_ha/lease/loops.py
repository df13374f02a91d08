"""A thread that does one thing again and again, and of which others can see that it hangs."""

import logging
import threading
from typing import Callable, Optional

from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.core.seams import Clock

log = logging.getLogger(__name__)


class Loop:
    """Runs ``step`` every ``interval()`` wall seconds, and at once after ``wake``. ``limit()`` product seconds is how
    long a step may take before it counts as hanging; the thread stays in it (nothing can end it) and goes on when the
    call comes back."""

    def __init__(
        self,
        name: str,
        step: Callable[[], None],
        clock: Clock,
        interval: Callable[[], float],
        limit: Callable[[], float],
    ) -> None:
        self.name = name
        self._step = step
        self._clock = clock
        self._interval = interval
        self._limit = limit
        self._wake = threading.Event()
        self._stopped = False
        self._since: Optional[float] = None
        self._finished: Optional[float] = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """Does not wait: a step may hang."""
        self._stopped = True
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """True if the thread has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def overdue(self) -> bool:
        since = self._since
        return since is not None and self._clock.monotonic() - since > self._limit()

    def busy_for(self) -> Optional[float]:
        """Product seconds since the step under way began; None: none is."""
        since = self._since
        return None if since is None else max(0.0, self._clock.monotonic() - since)

    def age(self) -> Optional[float]:
        """Product seconds since a step came to its end; None: none has."""
        finished = self._finished
        return None if finished is None else max(0.0, self._clock.monotonic() - finished)

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            self._since = self._clock.monotonic()
            try:
                self._step()
                self._finished = self._clock.monotonic()
            except Exception:
                # A defect of ours: said with its place, and the reading grows old, which everybody treats as unknown.
                log.exception("%s: unexpected error", self.name, extra=throttled("defect"))
            self._since = None
            if not self._stopped:
                self._wake.wait(self._interval())
