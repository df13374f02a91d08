"""The serial that moves whenever something happened that a waiting client should look at."""

import threading
import time


class Changes:
    """A number that only moves forward, and threads that wait for it to move.

    ``start`` should differ between two runs of a broker, so that a client which kept a serial over a restart sees a
    change.
    """

    def __init__(self, start: int = 0) -> None:
        self._serial = start
        self._closed = False
        self._moved = threading.Condition()

    @property
    def serial(self) -> int:
        with self._moved:
            return self._serial

    def bump(self) -> None:
        with self._moved:
            self._serial += 1
            self._moved.notify_all()

    def wait(self, serial: int, timeout: float) -> int:
        """The serial, as soon as it is not ``serial``, at the latest after ``timeout`` wall seconds, at once when
        closed."""
        until = time.monotonic() + timeout
        with self._moved:
            while self._serial == serial and not self._closed:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._moved.wait(left)
            return self._serial

    def close(self) -> None:
        """Wake everybody, for good."""
        with self._moved:
            self._closed = True
            self._moved.notify_all()
