"""One volume, read and written by a process that may hang without taking the daemon with it.

Everything that a daemon does on the storage goes this way: a thread of its own that hangs in the kernel would survive
SIGKILL, and the daemon with it, its socket and its lock included.
"""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import List, Optional, Protocol, Tuple

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import SLOT_SIZE
from ovirt_he_ha.core.seams import BlockIO
from ovirt_he_ha.storage import io_process
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue
from ovirt_he_ha.storage.io_process import (
    ANOTHER,
    ANSWER,
    COUNT,
    DIRECTORY,
    FACTS,
    LARGE,
    LOOK,
    NAMES,
    NUMBER,
    PROBE,
    READ,
    REFUSAL,
    REQUEST,
    SECTOR,
    TEXT,
    WRITE,
    VolumeLook,
)

MAX_ABANDONED = 2  # processes in uninterruptible sleep; a third would hang at the same place
KILL_GRACE = 0.2  # wall seconds from SIGKILL until a process counts as unkillable; a killable one needs about 5 ms
FLOOR = 1.0  # wall seconds: storage does not become faster when the lab's clock does


class WaitClock(Protocol):
    def wait_floor(self, product_seconds: float, floor: float = ...) -> float: ...


@dataclass(frozen=True)
class VolumeFacts:
    size: int  # bytes
    sector_size: int  # the smallest unit of direct I/O: 512 or 4096
    is_device: bool


@dataclass
class _Process:
    popen: "subprocess.Popen[bytes]"
    connection: socket.socket
    writing: Optional[int] = None  # offset of the write that has not been answered


# A program that is given by its path is compiled at every start, 2.5 ms of CPU here; what is imported comes from the
# compiled file that the installation has. The directory is behind the standard library, of which it hides nothing; and
# a process that may be root's writes no compiled file (-B). It ends by _exit: there is nothing to tidy up, the
# interpreter's own end would take 3 ms, and a command waits.
_BOOT = (
    "import os, sys; directory, _, name = sys.argv.pop(1).rpartition('/'); sys.path.append(directory); "
    "os._exit(__import__(name[:-3]).main())"
)
_PYTHON = (sys.executable, "-I", "-S", "-B", "-c", _BOOT)


class IoWorker(BlockIO):
    """Every method is bounded: it returns or raises by ``deadline`` product seconds, at the latest ``KILL_GRACE``
    after.

    A process that does not answer is killed. If it cannot be killed (it sleeps in the kernel) it is abandoned; its
    write may still land when the storage comes back: ``late_writes`` names the offsets. With two of them left behind
    every call raises ``StorageOverdue`` with the code ``stuck`` at once, until one of them is gone.

    Threads may share a worker; their calls take turns, and waiting for one's turn counts.
    """

    def __init__(
        self,
        path: str,
        sector_size: int = 512,
        clock: Optional[WaitClock] = None,
        owner: Optional[Tuple[int, int]] = None,
    ) -> None:
        """``owner``: user and group that the process works as; only root may give others than its own."""
        if sector_size not in (512, 4096):
            raise ValueError(f"sector size {sector_size}: expected 512 or 4096")
        self.path = str(path)
        self.sector_size = sector_size
        self._clock = clock or SystemClock()
        self._owner = owner or ()
        self._turn = threading.Lock()
        self._process: Optional[_Process] = None
        self._abandoned: List[_Process] = []
        self._closed = False

    @property
    def abandoned(self) -> int:
        """How many unkillable processes there are now."""
        return len(self._still_there())

    def late_writes(self) -> Tuple[int, ...]:
        """Offsets at which a write that we gave up may still reach the volume."""
        return tuple(each.writing for each in self._still_there() if each.writing is not None)

    def late_writers(self) -> Tuple[int, ...]:
        """The processes that may still do so."""
        return tuple(each.popen.pid for each in self._still_there() if each.writing is not None)

    def read(self, offset: int, length: int, deadline: float) -> bytes:
        _check_request(self.path, offset, length)
        data = self._call(READ, offset, length, b"", deadline)
        if len(data) != length:
            raise StorageError("io", self.path, detail=f"{len(data)} bytes instead of {length}")
        return data

    def sector(self, offset: int, deadline: float) -> bytes:
        """One sector of ``sector_size`` bytes, alone: what a look at every few seconds may cost. Raises like
        ``read``."""
        if offset < 0 or offset % self.sector_size:
            raise StorageError("request", self.path, detail=f"offset {offset}, length {self.sector_size}")
        return self._call(SECTOR, offset, self.sector_size, b"", deadline)

    def write(self, offset: int, data: bytes, deadline: float) -> None:
        """Exactly one slot: 4,096 bytes."""
        if len(data) != SLOT_SIZE:
            raise StorageError("request", self.path, detail=f"a slot of {len(data)} bytes")
        _check_request(self.path, offset, len(data))
        self._call(WRITE, offset, len(data), data, deadline)

    def probe(self, deadline: float) -> VolumeFacts:
        """Raises like ``read``."""
        return VolumeFacts(*FACTS.unpack(self._call(PROBE, 0, 0, b"", deadline)))

    # --- other places of the same storage ---------------------------------------------------------------------------

    def look(self, path: str, deadline: float) -> VolumeLook:
        """Size, sectors and whether it can be written, of another volume. Raises like ``read``."""
        answer = self._call(LOOK, 0, 0, os.fsencode(path), deadline, path)
        size, sector_size, is_device = FACTS.unpack_from(answer)
        error, *owner = REFUSAL.unpack_from(answer, FACTS.size)
        refusal = answer[FACTS.size + REFUSAL.size :].decode()
        return VolumeLook(size, sector_size, bool(is_device), refusal, error, (owner[0], owner[1]))

    def text(self, path: str, deadline: float) -> bytes:
        """A file of at most 64 KiB. Raises like ``read``."""
        return self._call(TEXT, 0, 0, os.fsencode(path), deadline, path)

    def is_directory(self, path: str, deadline: float) -> bool:
        return bool(self._call(DIRECTORY, 0, 0, os.fsencode(path), deadline, path))

    def number(self, path: str, deadline: float) -> int:
        """What the file system knows a file by; a copy of the file has another. Raises like ``read``."""
        return int(LARGE.unpack(self._call(NUMBER, 0, 0, os.fsencode(path), deadline, path))[0])

    def names(self, path: str, deadline: float) -> List[str]:
        """What is in a directory, sorted. Raises like ``read``."""
        answer = self._call(NAMES, 0, 0, os.fsencode(path), deadline, path)
        return [os.fsdecode(name) for name in answer.split(b"\0") if name]

    def read_from(self, path: str, offset: int, length: int, deadline: float) -> bytes:
        """Of another volume, at most 1 MiB. Raises like ``read``."""
        _check_request(path, offset, length)
        data = self._call(ANOTHER, offset, 0, COUNT.pack(length) + os.fsencode(path), deadline, path)
        if len(data) != length:
            raise StorageError("io", path, detail=f"{len(data)} bytes instead of {length}")
        return data

    def process(self, deadline: float) -> int:
        """The number of the process that does the next access. Raises StorageError."""
        end = time.monotonic() + self._clock.wait_floor(deadline, FLOOR)
        if not self._turn.acquire(timeout=max(0.0, end - time.monotonic())):
            raise StorageOverdue("overdue", self.path, detail=f"{deadline:.3g} s, waiting for another access")
        try:
            return self._started().popen.pid
        finally:
            self._turn.release()

    def rest(self) -> None:
        """End the process until the next call, which starts another one (12 ms): for who comes rarely, 10 MB are worth
        it. Not while a call is under way."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            process, self._process = self._process, None
            if process is not None:
                process.connection.close()
                if not _ended_by(process, time.monotonic() + KILL_GRACE):
                    self._kill(process)
        finally:
            self._turn.release()

    def close(self, deadline: float) -> None:
        """Ends the process; one that hangs is killed, or left behind. Never raises, never hangs."""
        self._closed = True
        end = time.monotonic() + self._clock.wait_floor(deadline, FLOOR)
        if not self._turn.acquire(timeout=max(0.0, end - time.monotonic())):
            return  # its user kills it at its own deadline
        try:
            process, self._process = self._process, None
            if process is None:
                return
            process.connection.close()
            if not _ended_by(process, end - KILL_GRACE):
                self._kill(process)
        finally:
            self._turn.release()

    def _call(
        self, operation: bytes, offset: int, length: int, body: bytes, deadline: float, path: Optional[str] = None
    ) -> bytes:
        """``path``: what the call is about, if it is not the volume."""
        path = path or self.path
        end = time.monotonic() + self._clock.wait_floor(deadline, FLOOR)
        if not self._turn.acquire(timeout=max(0.0, end - time.monotonic())):
            raise StorageOverdue("overdue", path, detail=f"{deadline:.3g} s, waiting for another access")
        try:
            process = self._started()
            process.writing = offset if operation == WRITE else None
            request = REQUEST.pack(operation, offset, length or len(body)) + body
            return self._ask(process, request, end, deadline, path)
        finally:
            self._turn.release()

    def _ask(self, process: _Process, request: bytes, end: float, deadline: float, path: str) -> bytes:
        try:
            _send(process.connection, request, end)
            code_length, error, size = ANSWER.unpack(_receive(process.connection, ANSWER.size, end))
            code = _receive(process.connection, code_length, end).decode("ascii", "replace")
            answer = _receive(process.connection, size, end)
        except TimeoutError:
            self._discard(process)
            raise StorageOverdue("overdue", path, detail=f"{deadline:.3g} s") from None
        except (EOFError, OSError):
            self._discard(process)
            raise StorageError("worker-died", path) from None
        except BaseException:
            self._discard(process)  # an answer that nobody reads would be taken for the next one's
            raise
        process.writing = None
        if code:
            raise StorageError(code, path, error)
        return answer

    def _started(self) -> _Process:
        if self._closed:
            raise StorageError("closed", self.path)
        if self._abandoned:
            self._abandoned = self._still_there()  # also reaps those that could end at last
        if self._process is not None:
            return self._process
        if len(self._abandoned) >= MAX_ABANDONED:
            raise StorageOverdue("stuck", self.path)
        ours, theirs = socket.socketpair()
        try:
            program = os.path.abspath(io_process.__file__)
            popen = subprocess.Popen(
                # isolated and without site: nothing in the environment or the working directory slows it or leads it
                # astray
                [*_PYTHON, program, str(theirs.fileno()), self.path, *map(str, self._owner)],
                pass_fds=[theirs.fileno()],
                # One that hangs in the kernel keeps what it has: whoever reads our output from a pipe (a shell's
                # $(...), a monitoring system) would wait for its end, and that is when the storage comes back.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            ours.close()
            raise StorageError("worker-died", self.path, error.errno or 0) from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self._process = _Process(popen, ours)
        return self._process

    def _discard(self, process: _Process) -> None:
        self._process = None
        process.connection.close()
        self._kill(process)

    def _kill(self, process: _Process) -> None:
        process.popen.kill()
        if not _ended_by(process, time.monotonic() + KILL_GRACE):
            self._abandoned = [*self._abandoned, process]

    def _still_there(self) -> List[_Process]:
        return [each for each in self._abandoned if each.popen.poll() is None]


def _check_request(path: str, offset: int, length: int) -> None:
    if offset < 0 or length <= 0 or offset % io_process.PAGE or length % io_process.PAGE:
        raise StorageError("request", path, detail=f"offset {offset}, length {length}")


def _ended_by(process: _Process, end: float) -> bool:
    while process.popen.poll() is None:
        if time.monotonic() >= end:
            return False
        time.sleep(0.002)  # Popen.wait sleeps up to 50 ms between two looks
    return True


def _wait(connection: socket.socket, event: int, end: float) -> None:
    poller = select.poll()
    poller.register(connection, event)
    if not poller.poll(max(0.0, end - time.monotonic()) * 1000):
        raise TimeoutError


def _send(connection: socket.socket, data: bytes, end: float) -> None:
    rest = memoryview(data)
    while rest:
        _wait(connection, select.POLLOUT, end)
        try:
            rest = rest[connection.send(rest) :]
        except BlockingIOError:
            continue


def _receive(connection: socket.socket, count: int, end: float) -> bytes:
    """Raises TimeoutError at ``end``, EOFError if the process is gone."""
    data = bytearray(count)
    view = memoryview(data)
    done = 0
    while done < count:
        _wait(connection, select.POLLIN, end)
        try:
            got = connection.recv_into(view[done:])
        except BlockingIOError:
            continue
        if got == 0:
            raise EOFError
        done += got
    return bytes(data)
