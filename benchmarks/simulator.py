"""How fast simulated clusters are: the size of the swarm that CI can afford."""

import time
from dataclasses import replace
from pathlib import Path
from typing import List

from benchmarks.effort import FULL, Effort
from benchmarks.figures import AT_LEAST, Figure
from ovirt_he_ha.sim.run import laboratory, run
from ovirt_he_ha.sim.scenario import Scenario, load

SCENARIOS = Path(__file__).resolve().parent.parent / "tests" / "scenarios"
# Three hosts: calm, crashes, a lost host, storage and sanlock in trouble, moves, an agent that restarts.
NAMES = (
    "quiet", "vm-crash", "vm-crashes", "host-loss", "storage-hang", "sanlock-kill", "local-maintenance", "network-loss",
    "agent-kill", "hung-guest", "page-flaps", "cold-start",
)  # fmt: skip


def figures(effort: Effort) -> List[Figure]:
    rounds = 3 if effort is FULL else 1
    scenarios = [load(SCENARIOS / name) for name in NAMES]
    if effort is not FULL:
        scenarios = [replace(each, length=10.0, expect=()) for each in scenarios[:2]]
    virtual = sum(each.length for each in scenarios)
    spent = 0.0
    with laboratory():
        for scenario in scenarios:
            spent += min(_seconds(scenario) for _ in range(rounds))
    how = f"{len(scenarios)} scenarios of three hosts, process CPU time, the best of {rounds} rounds of each"
    return [Figure("simulator.three_hosts", virtual / spent, "virtual s per CPU s", how, 5000.0, AT_LEAST)]


def _seconds(scenario: Scenario) -> float:
    began = time.process_time()
    run(scenario)
    return time.process_time() - began
