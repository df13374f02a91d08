"""``hosted-engine --vm-status --json`` as a script of a monitoring system calls it: a process of its own each time."""

import json
import os
import subprocess
import sys
from typing import List, Tuple

from benchmarks.figures import Figure
from benchmarks.host import ROOT, Host, Peers

_CALLS = 20
_COMMAND = [sys.executable, "-m", "ovirt_he_ha.cli.main", "--vm-status", "--json"]
# Its own word for its size: the kernel's maximum for a child counts what its parent had before the exec.
_MEASURED = """
import sys
from ovirt_he_ha.cli.main import main
status = main(["--vm-status", "--json"])
sys.stderr.write(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")))
sys.exit(status)
"""


_BUDGETS = {3: (120.0, 30.0), 250: (250.0, None)}  # hosts -> ms, MB


def figures(host: Host, count: int) -> List[Figure]:
    """In a cluster of ``count`` hosts, whose slots are on the volume already."""
    with Peers(host, count - 1):
        host.await_slots(count)
        taken = sorted(_once(host, count) for _ in range(_CALLS))
        size = _size(host)
    cpu, memory = _BUDGETS[count]
    name, how = f"status.{count}_hosts", f"getrusage of the command, median of {_CALLS}"
    return [
        Figure(f"{name}.cpu", taken[_CALLS // 2], "ms", how, cpu),
        Figure(f"{name}.rss", size, "MB", "VmHWM of the command", memory),
    ]


def _once(host: Host, count: int) -> float:
    """ms of CPU."""
    with subprocess.Popen(_COMMAND, cwd=ROOT, env=host.env, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        told = json.loads(command.stdout.read())
        _, status, usage = os.wait4(command.pid, 0)
        command.returncode = status
    if status or len(told) != count + 1:
        raise SystemExit(f"benchmark: --vm-status --json: exit status {status}, {len(told) - 1} hosts")
    return (usage.ru_utime + usage.ru_stime) * 1e3


def _size(host: Host) -> float:
    """MB at the most."""
    command: Tuple[str, ...] = (sys.executable, "-c", _MEASURED)
    done = subprocess.run(command, cwd=ROOT, env=host.env, capture_output=True, text=True, check=True)
    return int(done.stderr.split()[1]) / 1e3
