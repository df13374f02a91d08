"""The right to serve one socket path: a POSIX lock on ``<socket>.lock``. The kernel drops it with the process, a forked
worker does not inherit it, and it names its holder."""

import fcntl
import os
import struct
from pathlib import Path
from typing import Optional

_LOCK = struct.Struct("hhqqi4x")  # struct flock of 64 bit Linux


class SocketProblem(Exception):
    """The socket cannot be offered. ``str()`` is one line."""


class BrokerRunning(SocketProblem):
    """Another broker serves this socket."""

    def __init__(self, path: Path, pid: Optional[int]) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{path}: a broker is already running here ({who}); stop it before starting another one")
        self.pid = pid


class SocketLock:
    """The right to serve one socket path."""

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}.lock")
        self._socket_path = path
        self._descriptor: Optional[int] = None

    def take(self) -> None:
        """Raises BrokerRunning, or SocketProblem if the lock file cannot be made."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SocketProblem(
                f"{self._path}: cannot be opened ({error.strerror}); expected a writable directory "
                f"{self._path.parent} owned by the daemon's user"
            ) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise BrokerRunning(self._socket_path, holder) from error
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _holder(descriptor: int) -> Optional[int]:
    """Process id that holds the lock, None if it cannot be told (it may have ended just now)."""
    question = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        kind, _whence, _start, _length, pid = _LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    except (OSError, struct.error):
        return None
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None
