"""What one host pays in clusters of 3 to 2,000 hosts: a real broker and a real agent beside hosts that only publish.

Not part of ``make bench``, because it takes ten minutes: ``python -m benchmarks scale``. The volume, its slots and
their changes are real; the other hosts' ids are not joined in sanlock, whose list is therefore short.
"""

import shutil
import subprocess
import time
from typing import Dict, List

from benchmarks import idle, meter
from benchmarks.figures import Figure
from benchmarks.host import Host, Peers

SIZES = (3, 16, 64, 250, 2000)
_SECONDS = 101.0
_TRACED = 11.0


def figures(host: Host, count: int) -> List[Figure]:
    """``host``: with the slots of ``count`` hosts from its start."""
    with Peers(host, count - 1):
        host.await_slots(count)
        time.sleep(25.0)
        return _one_size(host, f"scale.{count}")


def _one_size(host: Host, name: str) -> List[Figure]:
    ours = idle.processes(host.pid("broker"), host.pid("agent"))
    before = meter.costs(ours)
    began = time.monotonic()
    time.sleep(_SECONDS)
    passed = time.monotonic() - began
    found: List[Figure] = []
    moved = 0
    for each, now in meter.costs({each: ours[each] for each in before}).items():
        spent, memory = now.since(before[each]), meter.memory(ours[each])
        moved += spent.read + spent.written if each == "broker_worker_volume" else 0
        found += [
            Figure(f"{name}.{each}.cpu", spent.cpu / passed * 100, "% of a core", "CPU"),
            Figure(f"{name}.{each}.rss", memory["rss"] / 1e6, "MB", "smaps_rollup"),
            Figure(f"{name}.{each}.private", memory["private"] / 1e6, "MB", "smaps_rollup"),
        ]
    found.append(Figure(f"{name}.bytes", moved / passed / 1e3, "kB/s", "/proc/PID/io of the metadata's worker"))
    return [*found, *_system_calls(ours, name)]


def _system_calls(ours: Dict[str, int], name: str) -> List[Figure]:
    """All of them, by strace; nothing where that is not installed. Tracing slows down, so only counts are kept."""
    if shutil.which("strace") is None:
        return []
    found: List[Figure] = []
    for each, pid in ours.items():
        command = ["timeout", f"{_TRACED:g}", "strace", "-f", "-c", "-S", "calls", "-p", str(pid)]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        total = [line.split() for line in told.splitlines() if line.endswith(" total")]
        calls = float(total[0][3]) if total else 0.0
        found.append(Figure(f"{name}.{each}.syscalls", calls / _TRACED, "1/s", "strace -f -c"))
    return found
