"""The frame around every measurement: one thread, an exact interval, a value with its age, a stop that is awaited.

A measurement may hang (a name server, a dead interface, /proc of a stuck process). It then holds up its own thread
only: whoever reads gets ``overdue`` from the moment it took too long, never an old value that looks fresh, and
nobody waits.
"""

import logging
import math
import threading
from typing import Callable, Generic, Optional, TypeVar

from ovirt_he_ha.core.model import Reading
from ovirt_he_ha.core.seams import Clock

T = TypeVar("T")
log = logging.getLogger(__name__)

ROUTINE = ("not-yet", "no-vm", "stopping")  # unknown in the ordinary course of things: not for the journal


class Unmeasured(Exception):
    """The value could not be measured. ``why`` is the short code of the unknown reading, ``detail`` for the journal."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(why, detail)
        self.why = why
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.why}: {self.detail}" if self.detail else self.why


def wall_seconds(clock: Clock, product_seconds: float, floor: float = 0.0) -> float:
    """Wall seconds of a product duration. ``floor``: what no time scale makes faster (a round trip, a web server)
    gets at least this many, unless the unscaled duration is shorter still."""
    return max(product_seconds / clock.scale, min(floor, product_seconds))


Significant = Callable[[Reading[T], Reading[T]], bool]


def known_or_value_changed(old: Reading[T], new: Reading[T]) -> bool:
    """The usual idea of a change worth waking somebody for."""
    return old.value != new.value or old.unknown != new.unknown


class Monitor(Generic[T]):
    """Calls ``measure`` every ``interval`` product seconds on its own thread, and at once after :meth:`wake`.

    ``measure`` returns the value or raises :class:`Unmeasured`; any other exception reads as unknown ``error``.
    ``limit`` (product seconds, at least 2 wall seconds): a measurement that runs longer is ``overdue``; so is a value
    older than ``interval + limit``. ``on_change`` is called on the monitor's thread, outside any lock, when
    ``significant(old, new)``.
    """

    def __init__(
        self,
        name: str,
        measure: Callable[[], T],
        clock: Clock,
        interval: float,
        limit: float,
        on_change: Callable[[], None],
        significant: Significant[T] = known_or_value_changed,
    ) -> None:
        self.name = name
        self._measure = measure
        self._clock = clock
        self._interval = interval
        self._limit = max(limit, 2.0 * clock.scale)
        self._on_change = on_change
        self._significant = significant
        self._state = threading.Condition()
        self._reading: Reading[T] = Reading()
        self._measured_at: Optional[float] = None
        self._began_at: Optional[float] = None  # of the measurement that is running
        self._woken = False
        self._stopping = False
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Begin with a first measurement at once. A monitor is started once in its life."""
        if self._thread is not None:
            raise RuntimeError(f"monitor {self.name} was already started; make a new one instead")
        self._thread = threading.Thread(target=self._run, name=f"monitor-{self.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Measure now (or, if a measurement is running, once more right after it). Never waits."""
        with self._state:
            self._woken = True
            self._state.notify_all()

    def ask_stop(self) -> None:
        """No further measurement begins. Never waits."""
        with self._state:
            self._stopping = True
            self._state.notify_all()

    def stop(self, wall_deadline: float) -> bool:
        """Wait at most ``wall_deadline`` wall seconds for the thread to end. False: it hangs and is left behind; it
        is a daemon thread, so it does not keep the process."""
        self.ask_stop()
        if self._thread is None:
            return True
        self._thread.join(max(0.0, wall_deadline))
        return not self._thread.is_alive()

    def reading(self) -> Reading[T]:
        """What is known now; never waits. An ``overdue`` reading's age is that of the hung measurement (since it began)
        or, when the thread got no turn, of the last finished one."""
        now = self._clock.monotonic()
        with self._state:
            if self._began_at is not None and now - self._began_at > self._limit:
                return Reading.missing("overdue", now - self._began_at)
            if self._measured_at is None:
                return self._reading
            age = max(0.0, now - self._measured_at)
            if age > self._interval + self._limit:
                return Reading.missing("overdue", age)
            return Reading(self._reading.value, age, self._reading.unknown)

    def _run(self) -> None:
        first = self._clock.monotonic()
        while True:
            with self._state:
                if self._stopping:
                    return
                self._woken = False
                self._began_at = self._clock.monotonic()
            self._measure_once()
            if not self._wait_until_due(first):
                return

    def _measure_once(self) -> None:
        self.take(self.outcome())

    def take(self, result: Reading[T]) -> None:
        """A measurement has ended with this."""
        with self._state:
            old, self._reading = self._reading, result
            self._measured_at = self._clock.monotonic()
            self._began_at = None
            quiet = self._stopping
        if quiet or not self._significant(old, result):
            return
        if result.unknown not in ("", old.unknown, *ROUTINE):
            log.warning("Monitor %s: no value (%s)", self.name, result.unknown, extra={"HE_MONITOR": self.name})
        self._on_change()

    def outcome(self) -> Reading[T]:
        """Measure now, on the caller's thread. Never raises."""
        try:
            return Reading.of(self._measure())
        except Unmeasured as problem:
            log.debug("Monitor %s: %s", self.name, problem)
            return Reading.missing(problem.why, 0.0)
        except Exception:
            # The thread's boundary. Said once per spell: a broken monitor would fill the journal every few seconds.
            log.log(
                logging.DEBUG if self._reading.unknown == "error" else logging.ERROR,
                "Monitor %s failed; its value is unknown until it works again",
                self.name,
                exc_info=True,
                extra={"HE_MONITOR": self.name},
            )
            return Reading.missing("error", 0.0)

    def _wait_until_due(self, first: float) -> bool:
        """Wait for the next point of the grid ``first + n * interval`` (missed points are skipped, so that a slow round
        does not shift the later ones). False: stop."""
        passed = self._clock.monotonic() - first
        due = first + (math.floor(passed / self._interval) + 1) * self._interval
        with self._state:
            while not (self._stopping or self._woken):
                left = (due - self._clock.monotonic()) / self._clock.scale
                if left <= 0:
                    break
                self._state.wait(left)
            return not self._stopping
