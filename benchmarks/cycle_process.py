"""A process that runs the agent's cycle over a broker's socket and loads nothing that the agent does not.

    python -m benchmarks.cycle_process SOCKET DIRECTORY CYCLES recorded|plain    prints one JSON line

DIRECTORY: an empty one. ``recorded``: with the recorder and the ledger, as the daemon runs; ``plain``: without them.
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
from ovirt_he_ha.agent.ledger import Ledger, LedgerFile
from ovirt_he_ha.agent.publish import Publisher, beside
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


class CountedRing(Ring):
    """With the bytes that it was given."""

    given = 0  # bytes

    def offer(self, data: bytes, first: bool) -> bool:
        self.given += len(data)
        return super().offer(data, first)


def cycle_over(link: BrokerLink, clock: StepClock, state: Path) -> Cycle:
    lockspace, key, path, offset = peers.LEASE.split(":")
    lease = LeaseId(lockspace, key, path, int(offset))
    timers, published = Timers(), PublishClock()
    workers = Workers(lambda: Effective("<domain/>", 4096, 1, "", ""), lambda: None, lambda: "", lambda: "d4f1c0ffee5a")
    identity = Identity(1, "host1.example.com", "boot", lease, AgentConf(), "0.1.0")
    store = StateFile(state / "agent-state.json", "boot", 1.0)

    def save(carried: Carried) -> None:
        store.save(carried.budgets)

    return Cycle(
        collector=Collector(link.snapshot, identity, state / "ha.conf", workers, clock, published),
        actions=Nothing(),
        fencer=NoKill(),
        publisher=Publisher(link, 1, clock, published, timers, beside),
        save=save,
        timers=timers,
        carried=Carried(),
    )


def run(path: Path, state: Path, cycles: int, recorded: bool) -> Dict[str, float]:
    """CPU seconds of one cycle: the median, and the mean with everything that other threads did meanwhile and after it;
    bytes that the recorder put on this host's disk in one cycle; the resident bytes of this process."""
    clock = StepClock()
    limit = AgentConf().recorder_kib * 1024
    ring = CountedRing(state / "recording", limit)
    recorder = Recorder(RingThread(ring), limit // SHARE)
    ledger = Ledger(LedgerFile(state / "ledger"))
    with BrokerLink(path) as link:
        cycle = cycle_over(link, clock, state)
        if recorded:
            cycle.recorder, cycle.ledger = recorder, ledger
        taken: List[float] = []
        began = 0.0
        for number in range(WARM + cycles):
            clock.now += 10.0
            began = time.process_time() if number == WARM else began
            before = time.process_time()
            decision = cycle.run_one_cycle()
            taken.append(time.process_time() - before)
        spent = time.process_time() - began
        taken = sorted(taken[WARM:])
    memory = meter.memory(os.getpid())
    recorder.close(5.0)
    ledger.close(5.0)
    assert not recorder.problem and not ledger.problem, (recorder.problem, ledger.problem)
    assert decision.record is not None and len(decision.carried.loads) >= 89
    return {
        "median": taken[len(taken) // 2],
        "mean": spent / cycles,
        "alive": len(decision.alive),
        "recorded": ring.given / (WARM + cycles),
        **memory,
    }


if __name__ == "__main__":
    for module in (service.__name__, "libvirt", "sanlock"):
        importlib.import_module(module)  # what the daemon imports counts in its memory
    settle()  # as both daemons do
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "recorded")))
