"""What a volume holds, by its first bytes: whose it is can be told before anything is written to it.

Only what is recognized by a magic number or by a whole record is named; anything else that is not zeros is ``unknown``,
which may be a raw disk or what a deleted volume left behind.
"""

import struct
from dataclasses import dataclass
from typing import Optional, Tuple

from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import SLOT_SIZE, Record
from ovirt_he_ha.storage.tar import BLOCK, is_header, member

EXAMINED = 1 << 17  # bytes: the last signature that is looked for lies 64 KiB from the beginning

ZEROS, UNKNOWN = "zeros", "unknown"
LOCKSPACE, RESOURCE, SLOTS, ARCHIVE, OVF_STORE, TAR = "lockspace", "lease", "slots", "archive", "ovf-store", "tar"
DISK = "disk"  # a partition table or a boot sector: a raw disk of a VM

_LEADER = struct.Struct("<IIIIQQQQQ48s48s")  # sanlock's record of a lockspace or of a lease
_DELTA, _PAXOS = 0x12212010, 0x06152010
# offset, magic number, name
_MAGIC: Tuple[Tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"conectix", "vhd"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"XFSB", "xfs"),
    (512, b"LABELONE", "lvm"),
    (0, b"LABELONE", "lvm"),
    (512, b"EFI PART", DISK),
    (4096, b"EFI PART", DISK),
    (1080, b"\x53\xef", "ext4"),
    (32769, b"CD001", "iso9660"),
    (65600, b"_BHRfS_M", "btrfs"),
    (4086, b"SWAPSPACE2", "swap"),
    (4096, b"\xfc\x4e\x2b\xa9", "md-raid"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\x7fELF", "program"),
)


@dataclass(frozen=True)
class Signature:
    """``name``: of the lockspace, of the lease as ``lockspace:resource``, or of the archive's first member."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


def signature(data: bytes) -> Signature:
    """Of any first bytes of a volume; EXAMINED of them see everything. Never raises."""
    if data.count(0) == len(data):
        return Signature(ZEROS)
    found = _sanlock(data) or _tar(data) or _slots(data)
    if found is not None:
        return found
    for offset, magic, name in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return Signature(name)
    if data[510:512] == b"\x55\xaa":
        return Signature(DISK)
    return Signature(UNKNOWN)


def _sanlock(data: bytes) -> Optional[Signature]:
    if len(data) < _LEADER.size:
        return None
    magic, *_, space, resource = _LEADER.unpack_from(data)
    if magic == _DELTA:
        return Signature(LOCKSPACE, _name(space))
    if magic == _PAXOS:
        return Signature(RESOURCE, f"{_name(space)}:{_name(resource)}")
    return None


def _tar(data: bytes) -> Optional[Signature]:
    block = data[:BLOCK]
    if not is_header(block) or block.count(0) == len(block):
        return None
    try:
        name, _, _ = member(block, 0)
    except ValueError:
        return None
    if name.endswith(".ovf"):
        return Signature(OVF_STORE, _printable(name))
    ours = name in ("version", "fhanswers.conf", "hosted-engine.conf", "broker.conf", "vm.conf")
    return Signature(ARCHIVE if ours else TAR, _printable(name))


def _slots(data: bytes) -> Optional[Signature]:
    """A flag in slot 0, or, where slot 0 was never written, a whole record in the place of a host."""
    if data.startswith((b"maintenance=0", b"maintenance=1")):
        return Signature(SLOTS)
    if data[:SLOT_SIZE].strip(b"\0"):
        return None
    for host_id in range(1, len(data) // SLOT_SIZE):
        begin = host_id * SLOT_SIZE
        if data[begin] and isinstance(slot.decode(host_id, data[begin : begin + SLOT_SIZE]), Record):
            return Signature(SLOTS)
    return None


def _name(field: bytes) -> str:
    return _printable(field.rstrip(b"\0").decode("ascii", "replace"))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:80])
