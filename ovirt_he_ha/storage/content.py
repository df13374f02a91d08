"""Whether a volume holds anything: looked for before it is written to. A volume may begin with zeros and be a disk."""

import errno
import os
from typing import Iterator, List, Optional, Tuple

MIB = 1 << 20
PROBE = 64 << 10  # bytes of one look
PROBES = 256  # at most: 16 MiB, which is 0.2 s on slow storage
MOST_EXTENTS = 64  # of a file; what comes after them is looked at like a device


def first_content(handle: int, whole: int) -> Optional[int]:
    """Where something else than zeros begins. The first ``whole`` bytes are all read; beyond, a file's holes are left
    out, up to 16 MiB are all read, and of more there are samples of 64 KiB at equal distances, and the end. Raises
    OSError."""
    size = os.lseek(handle, 0, os.SEEK_END)
    for at in range(0, min(whole, size), MIB):
        found = _within(handle, at, min(MIB, whole - at))
        if found is not None:
            return found
    for at in _probes(list(_extents(handle, min(whole, size), size))):
        found = _within(handle, at, PROBE)
        if found is not None:
            return found
    return None


def _within(handle: int, at: int, count: int) -> Optional[int]:
    part = os.pread(handle, count, at)
    if part.count(0) == len(part):
        return None
    return at + len(part) - len(part.lstrip(b"\0"))


def _extents(handle: int, begin: int, size: int) -> Iterator[Tuple[int, int]]:
    """From and to. A file system that does not know its holes, and a device, have one."""
    for _ in range(MOST_EXTENTS):
        try:
            start = os.lseek(handle, begin, os.SEEK_DATA)
            begin = min(os.lseek(handle, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            break
        yield start, begin
    if begin < size:
        yield begin, size


def _probes(extents: List[Tuple[int, int]]) -> Iterator[int]:
    total = sum(end - start for start, end in extents)
    step = max(PROBE, -(-total // PROBES))
    for start, end in extents:
        yield from range(start, end, step)
        if end - start > PROBE:
            yield end - PROBE  # where partition tables and arrays have a second copy of theirs
