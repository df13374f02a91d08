"""What is kept beside the configuration archive: the archive as it was before the last change.

A change of 20,480 bytes in place is not one write for the storage: a host that loses its power meanwhile leaves the
first sectors new and the others old, which may well look like an archive. So the old bytes, and checksums of the new
ones, are written first. An archive whose every sector is an old or a new one, and neither all old nor all new, was cut
off: then the old one counts, because nobody was told that the new one is there.

At byte 32,768 of the volume: ``he-journal 1``, the CRC-32 of what follows, both archives' CRC-32, and the CRC-32 of
each sector of the new one; at 36,864 the old archive. Writers that know nothing of it leave it alone, and do not hurt:
what they write is no mixture of the two.
"""

import struct
import zlib
from typing import List, Optional

SIZE = 20480  # bytes of an archive
SECTOR = 512
SECTORS = SIZE // SECTOR
JOURNAL = 32768
HEAD = 4096
AREA = JOURNAL + HEAD + SIZE  # 57,344 bytes
_MAGIC = b"he-journal 1\n\0\0\0"
_HEAD = struct.Struct(f">16sII{SECTORS}I")


def entry(old: bytes, new: bytes) -> bytes:
    """What is written at JOURNAL before ``new`` is written in place of ``old``, both SIZE bytes."""
    sums = [zlib.crc32(old), *_sums(new)]
    body = struct.pack(f">{SECTORS + 1}I", *sums)
    return _HEAD.pack(_MAGIC, zlib.crc32(body), *sums).ljust(HEAD, b"\0") + old


def previous_copy(data: bytes) -> Optional[bytes]:
    """The old archive in the first AREA bytes of a volume; None if there is none, or a damaged one."""
    if len(data) < AREA:
        return None
    magic, checksum, old_sum, *_ = _HEAD.unpack_from(data, JOURNAL)
    if magic != _MAGIC or checksum != zlib.crc32(data[JOURNAL + 20 : JOURNAL + _HEAD.size]):
        return None
    old = data[JOURNAL + HEAD : AREA]
    return old if zlib.crc32(old) == old_sum else None


def whole(data: bytes) -> bytes:
    """The archive in the first bytes of a volume: what stands there, or, if its change was cut off, the one before."""
    present = data[:SIZE]
    old = previous_copy(data)
    if old is None or present == old:
        return present
    fresh = _HEAD.unpack_from(data, JOURNAL)[3:]
    stale = False
    for number, found in enumerate(_sums(present)):
        if found != fresh[number]:
            if present[number * SECTOR : (number + 1) * SECTOR] != old[number * SECTOR : (number + 1) * SECTOR]:
                return present  # another writer's
            stale = True
    return old if stale else present


def written_over(data: bytes) -> bool:
    """Whether what stands there is of a writer that knows nothing of the journal: neither what the last change put
    there, whole or cut off, nor what was before it."""
    present = data[:SIZE]
    return (
        previous_copy(data) is not None
        and whole(data) == present
        and not _is_last(data)
        and present != data[AREA - SIZE : AREA]
    )


def _is_last(data: bytes) -> bool:
    return tuple(_sums(data[:SIZE])) == _HEAD.unpack_from(data, JOURNAL)[3:]


def _sums(archive: bytes) -> List[int]:
    return [zlib.crc32(archive[at : at + SECTOR]) for at in range(0, SIZE, SECTOR)]
