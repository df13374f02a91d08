"""One cycle of the agent: collect, decide, publish, record, over the real link to a broker's socket.

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
from typing import Iterator, List

from benchmarks import meter
from benchmarks.cycle_process import WARM
from benchmarks.figures import Figure
from benchmarks.host import ROOT, unit_environment


@contextmanager
def quick_broker(path: Path, hosts: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "benchmarks.quick_broker", str(path), str(hosts)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None and broker.stdin is not None
        broker.stdout.readline()
        yield broker
        broker.stdin.close()


def figures() -> List[Figure]:
    found: List[Figure] = []
    for hosts, budget, rss in ((3, 1.5, None), (64, None, None), (250, 10.0, 50.0), (2000, None, None)):
        cycles = 200 if hosts < 1000 else 20
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "broker.socket"
            with quick_broker(path, hosts) as broker:
                before = meter.cost(broker.pid)
                state = Path(directory) / "state"
                state.mkdir()
                command = [sys.executable, "-m", "benchmarks.cycle_process", str(path), str(state), str(cycles)]
                env = {**os.environ, **unit_environment("agent")}
                done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
                spent = meter.cost(broker.pid).since(before)
        one = json.loads(done.stdout)
        assert one["alive"] >= hosts - 1, one
        name = f"cycle.{hosts}_hosts"
        how = "CPU of the agent, median, every slot changed"
        found.append(Figure(f"{name}.cpu", one["median"] * 1e3, "ms", how, budget))
        found.append(Figure(f"{name}.cpu_of_broker", spent.cpu / (WARM + cycles) * 1e3, "ms", "CPU of the broker"))
        found.append(Figure(f"{name}.rss", one["rss"] / 1e6, "MB", "smaps_rollup, with every module of the agent", rss))
    return found
