"""Asks wdmd for a reset of this host: the last means against a copy of the VM that survives SIGKILL.

sanlock's own line to wdmd covers a process that holds a lease. One that gave it back (it was paused) and hangs in the
kernel is nobody's: its writes could still land beside a successor. wdmd sends the watchdog no sign of life while one of
its clients is overdue, so a client that is overdue from its first moment has the host reset. wdmd looks every 10 s and
closes the device when it finds one, which the kernel takes for a last sign of life: the reset comes 60 to 70 s after
it was asked for. Taken back before that, wdmd opens the device again within a second.
"""

import ctypes
import logging
import os
import threading
import time
from typing import Callable, Optional, Protocol

from ovirt_he_ha.config.journal import throttled

log = logging.getLogger(__name__)

LIBRARY = "libwdmd.so.1"  # of the package that has libsanlock
NAME = b"ovirt-ha-agent"
# Of wdmd's clock, which need not be ours: the first second after the boot is over on either.
LONG_AGO = 1
AGAIN = 5.0  # wall seconds after a refusal


class ResetRefused(Exception):
    """wdmd cannot be asked: it does not run, or does not take us."""


class Line(Protocol):
    """A client's connection to wdmd. Every call may block while wdmd stands still, and raises ResetRefused."""

    def overdue(self) -> None: ...

    def close(self) -> None: ...


class WdmdLine:
    """The connection by libwdmd, registered with a reference: should this process end, wdmd still counts it, and nobody
    can take it back."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise ResetRefused(str(error)) from error
        self._library.wdmd_test_live.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64]
        self._connection = self._done("connect", self._library.wdmd_connect())
        try:
            self._done("register", self._library.wdmd_register(self._connection, NAME))
        except ResetRefused:
            os.close(self._connection)
            raise

    def overdue(self) -> None:
        try:
            self._done("refcount_set", self._library.wdmd_refcount_set(self._connection))
            self._done("test_live", self._library.wdmd_test_live(self._connection, LONG_AGO, LONG_AGO))
            self._await_answer()
        except ResetRefused:
            os.close(self._connection)
            raise

    def close(self) -> None:
        """Nothing is overdue any more."""
        try:
            self._done("test_live", self._library.wdmd_test_live(self._connection, 0, 0))
            # A connection that ends before wdmd has read that would stay overdue for ever.
            self._await_answer()
            self._done("refcount_clear", self._library.wdmd_refcount_clear(self._connection))
        finally:
            os.close(self._connection)

    def _await_answer(self) -> None:
        """wdmd has read all that was said: what is unread when a client ends is lost."""
        interval, timeout, alive = ctypes.c_int(), ctypes.c_int(), ctypes.c_uint64()
        found = (ctypes.byref(interval), ctypes.byref(timeout), ctypes.byref(alive))
        self._done("status", self._library.wdmd_status(self._connection, *found))

    @staticmethod
    def _done(what: str, code: int) -> int:
        if code < 0:
            raise ResetRefused(f"wdmd_{what}: {os.strerror(-code)}")
        return code


class HostReset:
    """``want`` is a level, told again and again, and returns at once: wdmd is asked on a thread of its own."""

    def __init__(self, line: Callable[[], Line] = WdmdLine) -> None:
        self._open = line
        self._lock = threading.Lock()
        self._wanted = False
        self._busy = False
        self._line: Optional[Line] = None
        self._not_before = 0.0

    @property
    def asked(self) -> bool:
        """wdmd knows."""
        return self._line is not None

    @property
    def busy(self) -> bool:
        """wdmd is being asked."""
        with self._lock:
            return self._busy

    def want(self, wanted: bool) -> None:
        with self._lock:
            self._wanted = wanted
            if self._busy or wanted == self.asked or time.monotonic() < self._not_before:
                return
            self._busy = True
        try:
            threading.Thread(target=self._settle, name="host reset", daemon=True).start()
        except RuntimeError as error:  # no memory or no process left for a thread: the next ``want`` tries again
            self._gave_up(error)

    def _settle(self) -> None:
        """Until what is so is what is wanted, or wdmd refuses; a later ``want`` tries again."""
        while True:
            try:
                self._step()
            except Exception as error:  # whatever it was: left busy, nobody would ask again
                self._gave_up(error)
                return
            with self._lock:
                if self._wanted == self.asked:
                    self._busy = False
                    return

    def _gave_up(self, error: Exception) -> None:
        log.error("This host cannot be reset: %s", error, extra=throttled("reset"))
        with self._lock:
            self._not_before = time.monotonic() + AGAIN
            self._busy = False

    def _step(self) -> None:
        if self._wanted and self._line is None:
            line = self._open()
            line.overdue()
            self._line = line
            log.critical("The watchdog resets this host: a process of the engine VM without a lease cannot be ended")
        elif not self._wanted and self._line is not None:
            line, self._line = self._line, None
            line.close()
            log.warning("The process is gone: the watchdog is fed again")
