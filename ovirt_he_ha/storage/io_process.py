"""Direct I/O on one volume, and the process that does it for a daemon.

It runs isolated and without site packages, and is imported so that it need not be compiled (``io_worker``): it starts
in 10 ms and needs 9 MB, so that a hung one can be replaced within a deadline, and one can be had for a single access.
Therefore it imports next to nothing: typing, socket, signal and collections alone took 17 ms more.

The process speaks over the inherited stream socket whose number is its first argument, one request at a time (the
second is the volume; a third and fourth are the user and group to work as):

* request: op (1 byte), offset (8), length (4); then ``length`` bytes of data for W, or of a path for L, T, D, N, I, V
* op: R read, S read one sector, W write, P probe the volume; L look at another volume, T a small text file, D whether
  it is a directory, N the names in one, I the file system's own number of a file (8 bytes), V read another volume (the
  count of bytes, 4, before the path)
* answer: code length (1), errno (4), data length (4), code (ASCII, empty: done), data

It ends when the other end of the socket is closed, so it never outlives the daemon by more than one I/O.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what the module signal wraps in enumerations
import errno
import fcntl
import mmap
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

REQUEST = struct.Struct("!cQI")
ANSWER = struct.Struct("!BiI")
FACTS = struct.Struct("!QIB")
REFUSAL = struct.Struct("!iII")  # errno, user, group
READ, SECTOR, WRITE, PROBE = b"R", b"S", b"W", b"P"
LOOK, TEXT, DIRECTORY, NAMES, NUMBER, ANOTHER = b"L", b"T", b"D", b"N", b"I", b"V"
COUNT = struct.Struct("!I")
LARGE = struct.Struct("!Q")
WITH_BODY = (WRITE, LOOK, TEXT, DIRECTORY, NAMES, NUMBER, ANOTHER)

PAGE = 4096  # every offset and length is a multiple of it: one slot, and one sector on the largest-sectored disks
BUFFER = 1 << 20  # a full scan of 8,196,096 bytes takes eight of them
MOST_NAMES = 1 << 20  # bytes; an image's name has 36, and a domain holds at most some thousand
MOST_READ = 1 << 20  # bytes of another volume in one request
MOST_TEXT = 1 << 16  # the metadata of a storage domain has about 400 bytes
BLKROGET = 0x125E  # linux/fs.h
WRITE_TRIES = 3  # a write that came out short is repeated as a whole: half a slot is worth nothing

_CODES = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ENXIO: "missing",
    errno.ENODEV: "missing",
    errno.EACCES: "no-access",
    errno.EPERM: "no-access",
    errno.EROFS: "read-only",
    errno.EISDIR: "not-a-volume",
    errno.ELOOP: "not-a-volume",
    errno.EINVAL: "sector-size",
    errno.ENOSPC: "full",
    errno.ESTALE: "stale",
}


class IoFailure(Exception):
    """``code`` is one of the values above, or ``io``, ``too-small``, ``short-read``, ``short-write``, ``no-direct-io``,
    ``request``, ``not-a-file``, ``too-large``."""

    def __init__(self, code: str, error: int = 0) -> None:
        super().__init__(code, error)
        self.code = code
        self.error = error

    @classmethod
    def of(cls, error: OSError) -> IoFailure:
        return cls(_CODES.get(error.errno or 0, "io"), error.errno or 0)


def open_direct(path: str, flags: int) -> int:
    """A descriptor of an existing file or block device, with O_DIRECT and O_DSYNC: what was written, and what is needed
    to find it again, is on the volume when a write returns, but not the file's times, which would be a second write in
    the file system's journal. Raises IoFailure."""
    try:
        handle = os.open(path, flags | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise IoFailure("no-direct-io", errno.EINVAL) from error
        raise IoFailure.of(error) from error
    mode = os.fstat(handle).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(handle)
        raise IoFailure("not-a-volume")
    return handle


def volume_size(handle: int) -> int:
    """Bytes of a file or a block device."""
    return os.lseek(handle, 0, os.SEEK_END)


def direct_read(path: str, offset: int, length: int) -> bytes:
    """Exactly ``length`` bytes, past every cache of this host. Raises IoFailure; ``too-small`` if the volume ends
    before."""
    handle = open_direct(path, os.O_RDONLY)
    try:
        with mmap.mmap(-1, min(length, BUFFER), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as buffer:
            parts = []
            for start in range(0, length, BUFFER):
                count = min(BUFFER, length - start)
                _fill(handle, buffer, offset + start, count)
                parts.append(buffer[:count])
        return b"".join(parts)
    except OSError as error:
        raise IoFailure.of(error) from error
    finally:
        os.close(handle)


def _fill(handle: int, buffer: mmap.mmap, offset: int, count: int) -> None:
    done = 0
    with memoryview(buffer) as view:
        while done < count:
            with view[done:count] as rest:
                got = os.preadv(handle, [rest], offset + done)
            whole = got - got % 512  # the rest of a sector can only be read again from its beginning
            if whole == 0:
                ends = got == 0 or volume_size(handle) < offset + count
                raise IoFailure("too-small" if ends else "short-read")
            done += whole


def direct_write(path: str, offset: int, data: bytes) -> None:
    """Returns when ``data`` is on the volume (O_DSYNC). Never makes, extends or truncates a file. Raises IoFailure."""
    handle = open_direct(path, os.O_WRONLY)
    try:
        if volume_size(handle) < offset + len(data):
            raise IoFailure("too-small")
        with mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as buffer:
            buffer[:] = data
            for _ in range(WRITE_TRIES):
                if os.pwritev(handle, [buffer], offset) == len(data):
                    return
        raise IoFailure("short-write")
    except OSError as error:
        if error.errno == errno.EPERM:  # a read-only device can be opened for writing
            raise IoFailure("read-only", errno.EPERM) from error
        raise IoFailure.of(error) from error
    finally:
        os.close(handle)


def probe(path: str) -> Tuple[int, int, bool]:
    """Size in bytes, the smallest unit of direct I/O (512 or 4096), whether it is a block device. Raises IoFailure."""
    handle = open_direct(path, os.O_RDONLY)
    try:
        size = volume_size(handle)
        is_device = stat.S_ISBLK(os.fstat(handle).st_mode)
        if size < PAGE:
            return size, PAGE, is_device
        with mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as buffer:
            with memoryview(buffer)[:512] as sector:
                try:
                    os.preadv(handle, [sector], 512)
                    return size, 512, is_device
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
            os.preadv(handle, [buffer], 0)
            return size, PAGE, is_device
    except OSError as error:
        raise IoFailure.of(error) from error
    finally:
        os.close(handle)


class VolumeLook:
    """``refusal``: empty if it can be written, else the code that says why not, with ``error`` as its errno.
    ``owner``: user and group id, -1 where nobody looked."""

    __slots__ = ("error", "is_device", "owner", "refusal", "sector_size", "size")

    def __init__(
        self,
        size: int,
        sector_size: int,
        is_device: bool,
        refusal: str = "",
        error: int = 0,
        owner: Tuple[int, int] = (-1, -1),
    ) -> None:
        self.size = size
        self.sector_size = sector_size
        self.is_device = is_device
        self.refusal = refusal
        self.error = error
        self.owner = owner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VolumeLook) and all(getattr(self, each) == getattr(other, each) for each in _LOOK)

    __hash__ = None  # type: ignore[assignment]


_LOOK = VolumeLook.__slots__


def look(path: str) -> VolumeLook:
    """What ``probe`` tells, and whether this process may write. Raises IoFailure."""
    facts = probe(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise IoFailure.of(error) from error
    owner = (status.st_uid, status.st_gid)
    try:
        _check_writable(path)
    except IoFailure as failure:
        return VolumeLook(*facts, failure.code, failure.error, owner)
    return VolumeLook(*facts, owner=owner)


def _check_writable(path: str) -> None:
    read_only = False
    try:
        read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
        handle = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise IoFailure("read-only" if read_only else IoFailure.of(error).code, error.errno or 0) from error
    try:
        if stat.S_ISBLK(os.fstat(handle).st_mode):
            # a read-only device can be opened for writing; only the write is refused
            read_only = bool(struct.unpack("i", fcntl.ioctl(handle, BLKROGET, bytes(4)))[0])
    except OSError as error:
        raise IoFailure.of(error) from error
    finally:
        os.close(handle)
    if read_only:
        raise IoFailure("read-only")


def text(path: str) -> bytes:
    """A whole file of at most 64 KiB. Raises IoFailure, ``too-large`` for a longer one."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise IoFailure.of(error) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise IoFailure("not-a-file")
        data = os.read(handle, MOST_TEXT + 1)
    except OSError as error:
        raise IoFailure.of(error) from error
    finally:
        os.close(handle)
    if len(data) > MOST_TEXT:
        raise IoFailure("too-large")
    return data


def is_directory(path: str) -> bool:
    """False also for what cannot be looked at."""
    return os.path.isdir(path)


def number(path: str) -> int:
    """What the file system knows the file by; a copy has another. Raises IoFailure."""
    try:
        return os.stat(path).st_ino
    except OSError as error:
        raise IoFailure.of(error) from error


def names(path: str) -> bytes:
    """What is in a directory, sorted, with NUL between two names. Raises IoFailure."""
    try:
        found = b"\0".join(sorted(os.listdir(os.fsencode(path))))
    except OSError as error:
        raise IoFailure.of(error) from error
    if len(found) > MOST_NAMES:
        raise IoFailure("too-large")
    return found


def serve(connection: int, path: str) -> None:
    """Answer requests until the other end is closed."""
    while True:
        head = receive(connection, REQUEST.size)
        if head is None:
            return
        operation, offset, length = REQUEST.unpack(head)
        body = receive(connection, length) if operation in WITH_BODY else b""
        if body is None:
            return
        code, error, data = "", 0, b""
        try:
            data = _perform(path, operation, offset, length, body)
        except IoFailure as failure:
            code, error = failure.code, failure.error
        _send(connection, ANSWER.pack(len(code), error, len(data)) + code.encode() + data)


def _send(connection: int, data: bytes) -> None:
    with memoryview(data) as rest:
        done = 0
        while done < len(data):
            done += os.write(connection, rest[done:])


def _perform(path: str, operation: bytes, offset: int, length: int, body: bytes) -> bytes:
    if operation == PROBE:
        return FACTS.pack(*probe(path))
    if operation in (LOOK, TEXT, DIRECTORY, NAMES, NUMBER):
        return _perform_elsewhere(os.fsdecode(body), operation)
    if operation == ANOTHER:
        return _another(body, offset)
    if operation == SECTOR and length in (512, PAGE) and not offset % length:
        return direct_read(path, offset, length)
    if offset % PAGE or length % PAGE or not length or operation == SECTOR:
        raise IoFailure("request", errno.EINVAL)
    if operation == READ:
        return direct_read(path, offset, length)
    direct_write(path, offset, body)
    return b""


def _perform_elsewhere(path: str, operation: bytes) -> bytes:
    if operation == LOOK:
        found = look(path)
        facts = FACTS.pack(found.size, found.sector_size, found.is_device)
        return facts + REFUSAL.pack(found.error, *found.owner) + found.refusal.encode()
    if operation == TEXT:
        return text(path)
    if operation == NAMES:
        return names(path)
    if operation == NUMBER:
        return LARGE.pack(number(path))
    return b"1" if is_directory(path) else b""


def _another(body: bytes, offset: int) -> bytes:
    (count,) = COUNT.unpack_from(body)
    if offset % PAGE or count % PAGE or not 0 < count <= MOST_READ:
        raise IoFailure("request", errno.EINVAL)
    return direct_read(os.fsdecode(body[COUNT.size :]), offset, count)


def receive(connection: int, count: int) -> Optional[bytes]:
    """Exactly ``count`` bytes; None if the other end was closed before."""
    parts = bytearray()
    while len(parts) < count:
        part = os.read(connection, min(count - len(parts), BUFFER))
        if not part:
            return None
        parts += part
    return bytes(parts)


def become(user: int, group: int) -> None:
    """For good. Only now, with everything loaded: the interpreter may lie where that user cannot look."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def main() -> int:
    # Signals for the daemon's whole group are not for us: its final record is still to be written.
    for each in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(each, _signal.SIG_IGN)
    if len(sys.argv) > 4:
        become(int(sys.argv[3]), int(sys.argv[4]))
    try:
        serve(int(sys.argv[1]), sys.argv[2])
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the daemon went away while we were busy
    return 0


if __name__ == "__main__":
    os._exit(main())
