"""Every benchmark runs against the real sanlock, and says what it is held against."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = {
    "rpc.is_host_alive.rate": 2500,
    "rpc.is_host_alive.p99_of_8": 5,
    "rpc.get_stats.cpu_12_hosts": 5,
    "idle.cpu": 0.5,
    "idle.alone": 100,
    "status.3_hosts.cpu": 120,
    "volume.3_hosts.metadata": 2.5,
    "volume.3_hosts_engine_not_well.metadata": 12,
    "volume.visible_after": 2,
}


@pytest.mark.timeout(300)  # 40 s where nobody else needs the processors
@pytest.mark.skipif(shutil.which("sanlock") is None, reason="sanlock is missing")
def test_every_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "rpc", "three", "scale"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0
    found = {figure["name"]: figure for figure in map(json.loads, done.stdout.splitlines())}
    assert all({"name", "value", "unit", "budget"} <= figure.keys() for figure in found.values())
    assert {name: found[name]["budget"] for name in BUDGETS} == BUDGETS
    assert found["rpc.stdlib.is_host_alive.rate"]["value"] > 0
    assert found["scale.3.broker.cpu"]["value"] >= 0
