"""A sanlock resource held for the length of one change: of all processes on all hosts, one is inside."""

import errno
import importlib.util
import os
import select
import subprocess
import sys
import time
from typing import Callable, Optional

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease import resource_holder
from ovirt_he_ha.lease.binding import UNREACHABLE, SanlockMissing

END = 1.0  # wall seconds that giving back may take; it is a write of the storage, a few ms
_NOT_JOINED = (errno.ENOSPC,)
_OTHER = (-226, -227)


class LockFailed(Exception):
    """``code``: ``held`` by somebody else until the deadline; ``not-joined`` this host is not in the lockspace;
    ``no-sanlock`` it does not run; ``in-use`` something else lies in its place; ``lost`` meanwhile; ``overdue``;
    ``error``."""

    msg = "{resource}: {detail}"

    def __init__(self, code: str, lease: LeaseId, detail: str) -> None:
        super().__init__(code, lease, detail)
        self.code = code
        self.lease = lease
        self.detail = detail

    def __str__(self) -> str:
        lease = self.lease
        return self.msg.format(resource=f"{lease.lockspace}:{lease.key} at {lease.path}", detail=self.detail)


class ResourceLock:
    """``seconds`` (wall): until it is held or LockFailed is raised. ``sector_size()`` is asked when the place was never
    formatted: 512 or 4096, or it raises what forbids the formatting.

    The lock is as good as sanlock: a holder that loses the lockspace is killed 80 s after its last renewal
    (io_timeout 10), 60 s before anybody else can be inside. So ``check`` right before a change, and finish the change
    within less than that."""

    def __init__(self, lease: LeaseId, seconds: float, sector_size: Callable[[], int]) -> None:
        self.lease = lease
        self.fresh = False  # formatted just now: another host may have done so in the same moment
        self._until = time.monotonic() + seconds
        self._sector_size = sector_size
        self._busy = False
        self._holder: Optional[subprocess.Popen[bytes]] = None
        self._pending = b""

    def begin(self) -> None:
        """Start trying; returns at once. Raises SanlockMissing, LockFailed."""
        spec = importlib.util.find_spec("sanlock")
        if spec is None or not spec.origin:
            raise SanlockMissing
        lease = self.lease
        words = [lease.lockspace, lease.key, lease.path, str(lease.offset)]
        program = os.path.abspath(resource_holder.__file__)
        try:
            self._holder = subprocess.Popen(
                [sys.executable, "-I", "-S", program, os.path.dirname(spec.origin), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # One that hangs in the kernel keeps what it has: whoever reads our output from a pipe would wait for
                # its end.
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us: we say when the lock may go
            )
        except OSError as error:
            raise LockFailed("error", lease, f"no process for it: {error.strerror}") from error

    def __enter__(self) -> "ResourceLock":
        try:
            if self._holder is None:
                self.begin()
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def check(self) -> None:
        """Raises LockFailed (``lost``) when it is not held any more."""
        if self._holder is None or self._holder.poll() is not None:
            raise LockFailed("lost", self.lease, "the lock was lost: sanlock lost its lockspace, or was ended")

    def written_by(self, pid: int) -> None:
        """Which process writes what the lock guards. If this one is killed, the lock stays until that one is gone, too:
        it ends with the write that it is in."""
        if self._holder is not None:
            self._tell(f"writer {pid}")

    def release(self, after: int = 0) -> None:
        """``after``: a process that may still write; the lock stays until it is gone, without us."""
        if self._holder is None:
            return
        if after:
            self._tell(f"release-after {after}")
            self._close()
            return
        self._tell("release")
        self._end(time.monotonic() + END)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        while True:
            word, _, rest = self._line().partition(" ")
            if word == "held":
                return
            if word == "busy":
                self._busy = True
            elif word == "unformatted":
                self.fresh = True
                self._tell(f"format {self._sector_size()}")
            else:
                code, _, text = rest.partition(" ")
                raise self._failed(int(code or 0), text)

    def _line(self) -> str:
        assert self._holder is not None and self._holder.stdout is not None
        descriptor = self._holder.stdout.fileno()
        while b"\n" not in self._pending:
            left = self._until - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                if self._busy:
                    raise LockFailed("held", self.lease, "another host or process changes it just now, or died within")
                raise LockFailed("overdue", self.lease, "sanlock does not answer: is the storage there?")
            part = os.read(descriptor, 4096)
            if not part:
                return "refused 0 the process ended"
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "replace")

    def _failed(self, code: int, text: str) -> LockFailed:
        if code in _NOT_JOINED:
            return LockFailed(
                "not-joined", self.lease, f"this host is not in {self.lease.lockspace}: is ovirt-ha-broker running?"
            )
        if code in UNREACHABLE:
            return LockFailed("no-sanlock", self.lease, "sanlock cannot be reached: is it running, and may we use it?")
        if code in _OTHER:
            return LockFailed("in-use", self.lease, f"something else lies at offset {self.lease.offset} ({text})")
        return LockFailed("error", self.lease, f"{text or 'sanlock failed'} ({code})")

    def _tell(self, text: str) -> None:
        assert self._holder is not None and self._holder.stdin is not None
        try:
            self._holder.stdin.write(text.encode() + b"\n")
            self._holder.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone, and with it the lock: ``check`` and the next line say so

    def _end(self, until: float = 0.0) -> None:
        holder = self._holder
        if holder is None:
            return
        while holder.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        if holder.poll() is None:
            holder.kill()
            holder.wait()
        self._close()

    def _close(self) -> None:
        assert self._holder is not None
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # what was not told does not matter to a process that is gone
        self._holder = None
