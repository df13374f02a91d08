"""``hosted-engine --vm-status --json`` as a script of a monitoring system calls it: a process of its own each time."""

import json
import os
import subprocess
import sys
from typing import Dict, List, Optional, Tuple

from benchmarks import installed
from benchmarks.effort import Effort
from benchmarks.figures import Figure
from benchmarks.host import Host, Peers

# As the installed command does it.
_COMMAND = (
    sys.executable,
    "-c",
    "import re, sys; from ovirt_he_ha.cli.main import main; sys.exit(main())",
    "--vm-status",
    "--json",
)
# Its own word for its size: the kernel's maximum for a child counts what its parent had before the exec.
_MEASURED = """
import sys
from ovirt_he_ha.cli.main import main
status = main(["--vm-status", "--json"])
sys.stderr.write(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")))
sys.exit(status)
"""
_BUDGETS: Dict[int, Tuple[Optional[float], Optional[float]]] = {3: (120.0, 30.0), 250: (250.0, None)}  # ms, MB


def figures(host: Host, count: int, effort: Effort) -> List[Figure]:
    """In a cluster of ``count`` hosts, whose slots are on the volume already."""
    with Peers(host, count - 1):
        host.await_slots(count)
        taken = sorted(_one_call(host, count) for _ in range(effort.calls))
        size = _size(host)
    cpu, memory = _BUDGETS.get(count, (None, None))
    name, how = f"status.{count}_hosts", f"getrusage of the command, median of {effort.calls}"
    return [
        Figure(f"{name}.cpu", taken[len(taken) // 2] * 1e3, "ms", how, cpu),
        Figure(f"{name}.rss", size, "MB", "VmHWM of the command", memory),
    ]


def _one_call(host: Host, count: int) -> float:
    """Its CPU seconds."""
    with subprocess.Popen(_COMMAND, cwd=installed.tree(), env=host.env, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        told = json.loads(command.stdout.read())
        _, status, usage = os.wait4(command.pid, 0)
        command.returncode = status
    if status or len(told) != count + 1:
        raise SystemExit(f"benchmark: --vm-status --json: exit status {status}, {json.dumps(told)[:200]}")
    return usage.ru_utime + usage.ru_stime


def _size(host: Host) -> float:
    """MB at the most."""
    command = (sys.executable, "-c", _MEASURED)
    done = subprocess.run(command, cwd=installed.tree(), env=host.env, capture_output=True, text=True, check=True)
    return int(done.stderr.split()[1]) / 1e3
