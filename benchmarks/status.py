"""``hosted-engine --vm-status --json`` as a script of a monitoring system calls it: a process of its own each time."""

import json
import os
import subprocess
import sys
from typing import List

from benchmarks.figures import Figure
from benchmarks.host import ROOT, Host, Peers

_CALLS = 20
_COMMAND = [sys.executable, "-m", "ovirt_he_ha.cli.main", "--vm-status", "--json"]


def figures(host: Host) -> List[Figure]:
    with Peers(host, 2):
        host.await_slots(3)
        taken: List[float] = []
        for _ in range(_CALLS):
            with subprocess.Popen(_COMMAND, cwd=ROOT, env=host.env, stdout=subprocess.PIPE) as command:
                assert command.stdout is not None
                told = json.loads(command.stdout.read())
                _, status, usage = os.wait4(command.pid, 0)
                command.returncode = status
            if status or len(told) != 4:
                raise SystemExit(f"benchmark: --vm-status --json: exit status {status}, {len(told) - 1} hosts")
            taken.append(usage.ru_utime + usage.ru_stime)
    how = f"getrusage of the command, median of {_CALLS}"
    return [Figure("status.3_hosts.cpu", sorted(taken)[_CALLS // 2] * 1e3, "ms", how, 120.0)]
