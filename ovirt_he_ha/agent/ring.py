"""The recording's files: numbered segments in one directory, the oldest removed before the whole exceeds its limit.

A segment is only ever appended to by the process that began it. A crash leaves a torn end, which readers skip; there is
nothing to mend at the next start.
"""

import errno
import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from ovirt_he_ha.agent.state_file import problem_of
from ovirt_he_ha.config.recordings import segment_name, segments
from ovirt_he_ha.core.frames import HEADER

log = logging.getLogger(__name__)

SHARE = 8  # a segment is an eighth of the whole: so much of the oldest is lost at once
_BLOCK = 4096  # bytes that the smallest file takes
_MODE = 0o600  # the daemons' user only
_PENDING = 1 << 20  # bytes that may wait for a disk that hangs
_SYNC = 5.0  # wall seconds: a host that the watchdog resets has lost no more of its last moments
OVERDUE = "overdue"


class Ring:
    """Segments in ``directory`` (made if it is missing), ``limit`` bytes in all. Not thread-safe; may block as long as
    the disk does."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._handle: Optional[int] = None
        self._sizes: List[Tuple[Path, int]] = []  # the one being written is the last
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why nothing is written: ``full``, ``read-only``, ``no-access``, ``missing`` or ``io``; empty: it is."""
        return self._problem

    def offer(self, data: bytes, first: bool) -> bool:
        """Append; ``first`` begins a segment. After a failure only a first one is taken again. Never raises."""
        if self._handle is None and not first:
            return False
        try:
            if first:
                self._begin()
                data = HEADER + data
            self._append(data)
        except OSError as error:
            self._problem = problem_of(error)
            self._end()
            return False
        self._problem = ""
        return True

    def sync(self) -> None:
        """What was offered survives a power loss. Never raises."""
        if self._handle is None:
            return
        try:
            os.fdatasync(self._handle)
        except OSError as error:
            self._problem = problem_of(error)
            self._end()

    def close(self, seconds: float = 0.0) -> None:
        self.sync()
        self._end()

    def _end(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _begin(self) -> None:
        self._end()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        found = segments(self._directory)
        self._sizes = [(path, _blocks(path.stat().st_size)) for _, path in found]
        self._make_room(self._limit // SHARE)
        path = self._directory / segment_name(found[-1][0] + 1 if found else 1)
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        self._sizes.append((path, 0))

    def _append(self, data: bytes) -> None:
        assert self._handle is not None
        path, size = self._sizes.pop()
        self._make_room(_blocks(size + len(data)))
        self._sizes.append((path, size + len(data)))
        if sum(_blocks(each) for _, each in self._sizes) > self._limit:
            raise OSError(errno.EFBIG, f"one chunk of {len(data)} bytes exceeds the recording's limit", str(path))
        if os.write(self._handle, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _make_room(self, size: int) -> None:
        """Remove the oldest until ``size`` bytes more fit, besides the segment that is being written."""
        while self._sizes and sum(_blocks(each) for _, each in self._sizes) + size > self._limit:
            oldest, _ = self._sizes.pop(0)
            oldest.unlink()


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


class RingThread:
    """A ring behind a thread of its own: a disk that hangs costs the recording, not the cycle."""

    def __init__(self, ring: Ring, clock: Callable[[], float] = time.monotonic, sync: float = _SYNC) -> None:
        self._ring = ring
        self._clock = clock
        self._sync = sync
        self._queue: queue.SimpleQueue[Optional[Tuple[bytes, bool]]] = queue.SimpleQueue()
        self._pending = 0
        self._lock = threading.Lock()
        self._overdue = False
        self._thread: Optional[threading.Thread] = None

    @property
    def problem(self) -> str:
        """The ring's, or ``overdue``: the disk hangs."""
        return OVERDUE if self._overdue else self._ring.problem

    def offer(self, data: bytes, first: bool) -> bool:
        """Returns at once. False: too much waits already, and this is not taken."""
        with self._lock:
            self._overdue = self._pending > 0 and self._pending + len(data) > _PENDING
            if self._overdue:
                return False
            self._pending += len(data)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._thread.start()
        self._queue.put((data, first))
        return True

    def close(self, seconds: float) -> None:
        """Write what waits, for at most so many wall seconds."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        dirty_since: Optional[float] = None
        while True:
            wait = None if dirty_since is None else max(0.0, dirty_since + self._sync - self._clock())
            try:
                item = self._queue.get(timeout=wait)
            except queue.Empty:
                self._ring.sync()
                dirty_since = None
                continue
            if item is None:
                self._ring.close()
                return
            self._ring.offer(*item)
            dirty_since = self._clock() if dirty_since is None else dirty_since
            with self._lock:
                self._pending -= len(item[0])
