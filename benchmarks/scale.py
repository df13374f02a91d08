"""What one host pays in clusters of 3 to 2,000 hosts: a real broker and a real agent beside hosts that only publish.

Not part of ``make bench``, because it takes fifteen minutes: ``python -m benchmarks scale``. The volume, its slots and
their changes are real; the other hosts' ids are not joined in sanlock, whose list is therefore short.
"""

import shutil
import subprocess
import time
from typing import Dict, List

from benchmarks import idle, meter
from benchmarks.effort import Effort
from benchmarks.figures import Figure
from benchmarks.host import Host, Peers

SIZES = (3, 16, 64, 250, 2000)
_TRACED = 31.0


def figures(host: Host, count: int, effort: Effort) -> List[Figure]:
    """``host``: with the slots of ``count`` hosts from its start."""
    with Peers(host, count - 1):
        host.await_slots(count)
        time.sleep(effort.settle)
        return _one_size(host, f"scale.{count}", effort)


def _one_size(host: Host, name: str, effort: Effort) -> List[Figure]:
    broker, agent = host.pid("broker"), host.pid("agent")
    ours = idle.processes(broker, agent)
    before, ended = meter.costs(ours), meter.ended_children_cpu(agent)
    began = time.monotonic()
    time.sleep(effort.window)
    passed = time.monotonic() - began
    found: List[Figure] = []
    for each, now in meter.costs({each: ours[each] for each in before}).items():
        spent, memory = now.since(before[each]), meter.memory(ours[each])
        found += [
            Figure(f"{name}.{each}.cpu", spent.cpu / passed * 100, "% of a core", "CPU"),
            Figure(f"{name}.{each}.rss", memory["rss"] / 1e6, "MB", "smaps_rollup"),
            Figure(f"{name}.{each}.private", memory["private"] / 1e6, "MB", "smaps_rollup"),
            Figure(f"{name}.{each}.read", spent.read / passed / 1e3, "kB/s", "/proc/PID/io, full scans included"),
            Figure(f"{name}.{each}.written", spent.written / passed / 1e3, "kB/s", "/proc/PID/io"),
            Figure(f"{name}.{each}.calls", spent.calls / passed, "1/s", "/proc/PID/io: reads and writes"),
        ]
    ended = meter.ended_children_cpu(agent) - ended
    found.append(Figure(f"{name}.short_lived.cpu", ended / passed * 100, "% of a core", "the agent's one a minute"))
    return [*found, *_system_calls(ours, name, min(_TRACED, effort.window))]


def _system_calls(ours: Dict[str, int], name: str, seconds: float) -> List[Figure]:
    """All of them, by strace; nothing where that is not installed. Tracing slows down, so only counts are kept."""
    if shutil.which("strace") is None:
        return []
    found: List[Figure] = []
    for each, pid in ours.items():
        if not meter.is_running(pid):
            continue
        command = ["timeout", f"{seconds:g}", "strace", "-f", "-c", "-S", "calls", "-p", str(pid)]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        total = [line.split() for line in told.splitlines() if line.endswith(" total")]
        calls = float(total[0][3]) if total else 0.0
        found.append(Figure(f"{name}.{each}.syscalls", calls / seconds, "1/s", "strace -f -c"))
    return found
