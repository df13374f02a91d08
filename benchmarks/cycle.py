"""One cycle of the agent: collect, decide, record, note, publish, over the real link to a broker's socket.

The history is full (15 minutes of load samples, every peer seen before) and every slot has changed since the cycle
before, as is the case in a cluster of live hosts.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

from benchmarks import installed, meter
from benchmarks.cycle_process import WARM
from benchmarks.effort import Effort
from benchmarks.figures import Figure

_BUDGETS = {3: 1.5, 250: 10.0}  # ms
_MEMORY = {250: 50.0}  # MB
_MANY = 1000  # from here on a tenth of the cycles is enough


@contextmanager
def quick_broker(path: Path, hosts: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "benchmarks.quick_broker", str(path), str(hosts)]
    env = {**os.environ, **installed.environment()}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=installed.tree(), env=env, stdin=pipe, stdout=pipe, text=True) as broker:
        assert broker.stdout is not None and broker.stdin is not None
        broker.stdout.readline()
        yield broker
        broker.stdin.close()


def figures(hosts: int, effort: Effort) -> List[Figure]:
    cycles = effort.cycles if hosts < _MANY else max(1, effort.cycles // 10)
    whole, plain = _run(hosts, cycles, "recorded"), _run(hosts, cycles, "plain")
    name, how = f"cycle.{hosts}_hosts", "every slot changed; recorder and ledger as in production"
    return [
        Figure(f"{name}.cpu", whole["median"] * 1e3, "ms", f"CPU of the agent, median, {how}", _BUDGETS.get(hosts)),
        Figure(f"{name}.cpu_mean", whole["mean"] * 1e3, "ms", f"the same, mean of {cycles}"),
        Figure(f"{name}.cpu_unrecorded", plain["median"] * 1e3, "ms", "median, neither recorder nor ledger"),
        Figure(f"{name}.recorded", whole["recorded"] / 1e3, "kB", "written to this host's own disk per cycle"),
        Figure(f"{name}.cpu_of_broker", whole["broker"] * 1e3, "ms", "CPU of the broker"),
        Figure(
            f"{name}.rss", whole["rss"] / 1e6, "MB", "smaps_rollup, with every module of the agent", _MEMORY.get(hosts)
        ),
    ]


def _run(hosts: int, cycles: int, mode: str) -> Dict[str, Any]:
    """What cycle_process tells, and the broker's CPU seconds per cycle."""
    with tempfile.TemporaryDirectory(prefix="he-bench-", dir="/var/tmp") as directory:
        path, state = Path(directory) / "broker.socket", Path(directory) / "state"
        state.mkdir()
        with quick_broker(path, hosts) as broker:
            before = meter.cost(broker.pid)
            command = [sys.executable, "-m", "benchmarks.cycle_process", str(path), str(state), str(cycles), mode]
            env = {**os.environ, **installed.environment(), **installed.unit_environment("agent")}
            done = subprocess.run(command, cwd=installed.tree(), env=env, check=True, stdout=subprocess.PIPE, text=True)
            spent = meter.cost(broker.pid).since(before)
    found: Dict[str, Any] = json.loads(done.stdout)
    if found["alive"] < hosts - 1:
        raise SystemExit(f"benchmark: the agent found {found['alive']} of {hosts - 1} peers alive")
    return {**found, "broker": spent.cpu / (WARM + cycles)}
