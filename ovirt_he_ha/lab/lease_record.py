"""Who owns a sanlock resource, read from its leader record on the disk.

Of our own, so that the observer depends on neither sanlock nor the product: the first sector of the resource holds,
little-endian, magic 0x06152010, version, flags, sector size (4 bytes each), number and maximum of hosts, owner id,
owner generation, lease version (8 each), the lockspace's and the resource's name (48 each), and the timestamp (8),
which is 0 when nobody holds the resource. Checked against `sanlock direct read_leader`.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Optional

PAXOS_DISK_MAGIC = 0x06152010
_LEADER = struct.Struct("<IIIIQQQQQ48s48sQ")
_BLOCK = 4096


@dataclass(frozen=True)
class Leader:
    """``owner`` 0: free."""

    owner: int
    generation: int
    version: int


def parse_leader(data: bytes) -> Optional[Leader]:
    """None when the bytes are no leader record."""
    if len(data) < _LEADER.size:
        return None
    magic, _, _, _, _, _, owner, generation, version, _, _, timestamp = _LEADER.unpack_from(data)
    if magic != PAXOS_DISK_MAGIC:
        return None
    return Leader(owner if timestamp else 0, generation, version)


class LeaderReader:
    """Reads past the page cache, as sanlock writes. Raises OSError."""

    def __init__(self, path: str, offset: int = 0) -> None:
        self._path, self._offset = path, offset
        self._buffer = mmap.mmap(-1, _BLOCK)

    def read(self) -> Optional[Leader]:
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        try:
            length = os.preadv(fd, [self._buffer], self._offset)
        finally:
            os.close(fd)
        return parse_leader(self._buffer[:length])
