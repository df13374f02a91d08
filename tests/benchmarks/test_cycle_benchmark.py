"""The benchmark of the agent's cycle runs, and its figures are complete. No root is needed for this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.system_python
def test_the_cycles_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "cycle"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0
    found = {figure["name"]: figure for figure in map(json.loads, done.stdout.splitlines())}
    assert all({"name", "value", "unit", "budget"} <= figure.keys() for figure in found.values())
    for part in ("cpu", "cpu_mean", "cpu_unrecorded", "recorded", "cpu_of_broker", "rss"):
        assert found[f"cycle.12_hosts.{part}"]["value"] > 0
    assert found["cycle.3_hosts.cpu"]["budget"] == 1.5
