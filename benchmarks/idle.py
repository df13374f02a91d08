"""Agent, broker and their workers when nothing happens: processor, wake-ups, memory, processes started."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List

from benchmarks import births, meter
from benchmarks.effort import Effort
from benchmarks.figures import Figure
from benchmarks.host import Host, Peers

_CYCLE = 10.0  # product seconds of the agent's


def processes(broker: int, agent: int) -> Dict[str, int]:
    """Ours: the daemons and whatever they started, named by what it reads."""
    found = {"broker": broker, "agent": agent}
    for name, pid in (("broker", broker), ("agent", agent)):
        for child in filter(meter.is_running, meter.children(pid)):
            found[f"{name}_worker_{volume_of(child)}"] = child
    return found


def volume_of(worker: int) -> str:
    """What an I/O worker reads: ``lease`` or ``volume``."""
    path = Path(f"/proc/{worker}/cmdline").read_bytes().decode().rstrip("\0").rpartition("\0")[2]
    return "lease" if path.endswith(".lease") else "volume"


def measured(broker: int, agent: int, seconds: float, name: str) -> List[Figure]:
    """The budgets hold for product time at normal speed."""
    ours = processes(broker, agent)
    with ExitStack() as stack:
        born = births.listen()
        if born is not None:
            stack.enter_context(born)
        before = meter.costs(ours)
        children = {pid: meter.ended_children_cpu(pid) for pid in (broker, agent)}
        began = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        # A worker that ended meanwhile is among the children that ended.
        ours = {each: pid for each, pid in ours.items() if meter.is_running(pid) and each in before}
        spent = {each: now.since(before[each]) for each, now in meter.costs(ours).items()}
        ended = sum(meter.ended_children_cpu(pid) - cpu for pid, cpu in children.items())
        started = [] if born is None else _started(born, list(ours.values()), passed, name)
    share = {each: cost.cpu / passed * 100 for each, cost in spent.items()}
    memory = {each: meter.memory(ours[each]) for each in spent}
    whole = "CPU of agent, broker and workers, those that ended meanwhile included"
    found = [
        Figure(f"{name}.cpu", sum(share.values()) + ended / passed * 100, "% of a core", whole, 0.5),
        Figure(f"{name}.pss", sum(each["pss"] for each in memory.values()) / 1e6, "MB", "smaps_rollup", 100.0),
        Figure(f"{name}.alone", _alone(memory) / 1e6, "MB", "private pages, and the shared ones once", 100.0),
        *started,
        Figure(f"{name}.wakeups", sum(each.switches for each in spent.values()) / passed, "1/s", "schedstat"),
        Figure(f"{name}.calls", sum(each.calls for each in spent.values()) / passed, "1/s", "reads and writes"),
        Figure(f"{name}.short_lived.cpu", ended / passed * 100, "% of a core", "children that ended meanwhile"),
    ]
    for each in spent:
        found.append(Figure(f"{name}.{each}.cpu", share[each], "% of a core", "CPU"))
        found.append(Figure(f"{name}.{each}.pss", memory[each]["pss"] / 1e6, "MB", "smaps_rollup"))
        found.append(Figure(f"{name}.{each}.rss", memory[each]["rss"] / 1e6, "MB", "smaps_rollup"))
        found.append(Figure(f"{name}.{each}.threads", meter.threads(ours[each]), "", "/proc"))
        found.append(Figure(f"{name}.{each}.descriptors", meter.descriptors(ours[each]), "", "/proc"))
    return found


def _started(born: births.Births, ours: List[int], passed: float, name: str) -> List[Figure]:
    """The agent reads the VM's definition once a minute by a process of its own, that is in every sixth cycle; less
    than one in two cycles is none per cycle."""
    how = f"the kernel's process events, {passed:.0f} s"
    cycles = passed / _CYCLE
    return [
        Figure(f"{name}.processes_started", born.of(ours) / cycles, "per cycle", how, 0.5),
        Figure(f"{name}.threads_started", born.of(ours, threads=True) / cycles, "per cycle", how),
    ]


def _alone(memory: Dict[str, Dict[str, int]]) -> int:
    """What they would take on a host where nobody else runs Python: at most the PSS there."""
    shared = max(each["rss"] - each["private"] for each in memory.values())
    return sum(each["private"] for each in memory.values()) + shared


def figures(host: Host, effort: Effort) -> List[Figure]:
    """Three hosts, the engine healthy on another one; no libvirt here."""
    with Peers(host, 2):
        host.await_slots(3)
        time.sleep(effort.settle)
        return measured(host.pid("broker"), host.pid("agent"), effort.window, "idle")
