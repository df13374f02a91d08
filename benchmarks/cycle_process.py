"""A process that runs the agent's cycle over a broker's socket and loads nothing that the agent does not.

python -m benchmarks.cycle_process SOCKET DIRECTORY CYCLES       prints one JSON line; DIRECTORY: an empty one
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

from benchmarks import meter, peers
from ovirt_he_ha.agent import service
from ovirt_he_ha.agent.collect import Collector, Identity, PublishClock, Workers
from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.definition_source import Effective
from ovirt_he_ha.agent.publish import Publisher
from ovirt_he_ha.agent.recorder import Recorder
from ovirt_he_ha.agent.ring import SHARE, Ring, RingThread
from ovirt_he_ha.agent.state_file import StateFile
from ovirt_he_ha.client.link import BrokerLink
from ovirt_he_ha.config.files import AgentConf
from ovirt_he_ha.config.memory import settle
from ovirt_he_ha.core.model import ActionReport, Carried, Fence, LeaseId
from ovirt_he_ha.core.timers import Timers

WARM = 100  # cycles: more than the 90 samples of the load's history


class StepClock:
    scale = 1.0

    def __init__(self) -> None:
        self.now = 100_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now


class Nothing:
    """Neither actions nor kills are carried out here."""

    def order(self, action: object) -> bool:
        return True

    def taken(self, report: Optional[ActionReport]) -> None:
        return None

    def abort_migration(self) -> None:
        return None


class NoKill:
    def order(self, fence: Optional[Fence]) -> None:
        return None


def cycle_over(link: BrokerLink, clock: StepClock, state: Path) -> Cycle:
    lockspace, key, path, offset = peers.LEASE.split(":")
    lease = LeaseId(lockspace, key, path, int(offset))
    timers, published = Timers(), PublishClock()
    workers = Workers(lambda: Effective("<domain/>", 4096, 1, "", ""), lambda: None, lambda: "", lambda: "d4f1c0ffee5a")
    identity = Identity(1, "host1.example.com", "boot", lease, AgentConf(), "0.1.0")
    store = StateFile(state / "agent-state.json", "boot", 1.0)

    def save(carried: Carried) -> None:
        store.save(carried.budgets)

    limit = AgentConf().recorder_kib * 1024
    return Cycle(
        recorder=Recorder(RingThread(Ring(state / "recording", limit)), limit // SHARE) if limit else None,
        collector=Collector(link.snapshot, identity, state / "ha.conf", workers, clock, published),
        actions=Nothing(),
        fencer=NoKill(),
        publisher=Publisher(link, 1, clock, published, timers),
        save=save,
        timers=timers,
        carried=Carried(),
    )


def run(path: Path, state: Path, cycles: int) -> Dict[str, float]:
    """CPU seconds of one cycle (median and mean) and the resident bytes of this process."""
    clock = StepClock()
    with BrokerLink(path) as link:
        cycle = cycle_over(link, clock, state)
        taken: List[float] = []
        for _ in range(WARM + cycles):
            clock.now += 10.0
            before = time.process_time()
            decision = cycle.run_one_cycle()
            taken.append(time.process_time() - before)
        recorder, cycle.recorder = cycle.recorder, None
        assert isinstance(recorder, Recorder) and not recorder.problem
        recorder.close(5.0)
        taken = sorted(taken[WARM:])
    assert decision.record is not None and len(decision.carried.loads) >= 89
    memory = meter.memory(os.getpid())
    return {"median": taken[len(taken) // 2], "mean": sum(taken) / len(taken), "alive": len(decision.alive), **memory}


if __name__ == "__main__":
    for module in (service.__name__, "libvirt", "sanlock"):
        importlib.import_module(module)  # what the daemon imports counts in its memory
    settle()  # as both daemons do
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
