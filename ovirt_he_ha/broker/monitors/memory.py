"""Memory a guest could get on this host."""

import re
from pathlib import Path

from ovirt_he_ha.broker.monitors.frame import Unmeasured

# What the kernel gives back under pressure, besides what is free: the definition that peers of the cluster use as well.
FIELDS = ("MemFree", "Cached", "Buffers", "SReclaimable")
_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.ASCII)


def free_mib(text: str) -> int:
    """MemFree + Cached + Buffers + SReclaimable of a /proc/meminfo, in MiB, rounded down.

    Raises Unmeasured ``format`` when one of the four is not there.
    """
    found = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match.group(1) in FIELDS:
            found[match.group(1)] = int(match.group(2))
    missing = [name for name in FIELDS if name not in found]
    if missing:
        raise Unmeasured("format", f"meminfo has no line {', '.join(missing)}")
    return sum(found.values()) // 1024


class FreeMemory:
    """``proc``: where procfs is mounted."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._path = proc / "meminfo"

    def measure(self) -> int:
        """MiB. Raises Unmeasured ``unreadable`` or ``format``."""
        try:
            return free_mib(self._path.read_text("ascii", "replace"))
        except OSError as problem:
            raise Unmeasured("unreadable", str(problem)) from problem
