"""What is mounted on this host, as the kernel tells it. Reading it touches no file system: it cannot hang."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    target: str
    source: str  # as it was given to mount: server:/path, a device
    kind: str  # nfs4, fuse.glusterfs, ext4, ...
    options: str
    device: str  # major:minor

    @property
    def read_only(self) -> bool:
        return "ro" in self.options.split(",")


def mounts(table: Path) -> List[Mount]:
    """In the order of mounting. ``table``: ``/proc/self/mountinfo``. Lines of another form are left out; raises
    OSError."""
    return [mount for line in table.read_bytes().splitlines() for mount in [_parsed(line)] if mount is not None]


def mounted_at(table: Path, target: str) -> Optional[Mount]:
    """What is seen there: the last one, if several lie on each other."""
    found = [mount for mount in mounts(table) if mount.target == target]
    return found[-1] if found else None


def _parsed(line: bytes) -> Optional[Mount]:
    """``36 35 98:0 /root /target rw,noatime shared:1 - ext4 /dev/root rw,errors=continue``"""
    before, sign, behind = line.partition(b" - ")
    fields, rest = before.split(b" "), behind.split(b" ")
    if not sign or len(fields) < 6 or len(rest) < 2:
        return None
    above = rest[2] if len(rest) > 2 else b""
    options = b",".join(part for part in (fields[5], above) if part)
    device, target, kind, source = (_plain(part) for part in (fields[2], fields[4], rest[0], rest[1]))
    return Mount(target, source, kind, _plain(options), device)


def _plain(text: bytes) -> str:
    """Spaces, tabs, line ends and backslashes are written as three octal digits."""
    return _ESCAPED.sub(lambda found: bytes([int(found.group(1), 8) & 0xFF]), text).decode("utf-8", "surrogateescape")
