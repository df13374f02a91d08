"""``python -m benchmarks [--strict] [--quick] [name...]``: one JSON line per figure; without names all groups but
``scale``.

Exit status 0 when everything could be measured, 1 when a benchmark could not run (it is named; the others run), 2 for
an unknown name, and with ``--strict`` 3 when a budget is exceeded. ``--quick`` only shows that everything works: its
figures mean nothing, and no budget is held against them.
"""

import signal
import sys
import traceback
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List

from benchmarks import connection, cycle, idle, peers, reference, rpc, scale, shared, simulator, status, volume
from benchmarks.effort import FULL, QUICK, Effort
from benchmarks.figures import Figure, show
from benchmarks.host import Host


def _rpc(effort: Effort) -> Iterator[List[Figure]]:
    with Host() as host:
        host.make_storage()
        host.write(peers.slots(effort.rpc_hosts, 1000))
        host.start_sanlock()
        host.start_broker()
        host.await_slots(effort.rpc_hosts)
        host.link.push_hosts_state(range(1, effort.rpc_hosts + 1))
        yield rpc.figures(host, effort)


def _cycle(effort: Effort) -> Iterator[List[Figure]]:
    for hosts in effort.sizes:
        yield cycle.figures(hosts, effort)


@contextmanager
def running(count: int, effort: Effort) -> Iterator[Host]:
    """So many slots are in use from the start: one that sanlock does not list is found by the next full scan only."""
    with Host() as host:
        host.make_storage()
        host.write(peers.slots(count, 900))
        host.start_sanlock()
        host.start_broker()
        if effort.joined:
            host.await_held()
        host.start_agent()
        yield host


def _volume(effort: Effort) -> Iterator[List[Figure]]:
    yield volume.full_scan()
    with running(effort.peers, effort) as host:
        yield volume.steady(host, effort.peers, 2, 30.0, effort)


def _three(effort: Effort) -> Iterator[List[Figure]]:
    """Everything that a cluster of three pays, on one host."""
    with running(3, effort) as host:
        yield idle.figures(host, effort)
        yield status.figures(host, 3, effort)
        yield volume.steady(host, 3, 2, 2.5, effort)
        yield volume.steady(host, 3, 0, 12.0, effort)
        yield volume.visibility(host, effort)


def _status(effort: Effort) -> Iterator[List[Figure]]:
    with running(effort.rpc_hosts, effort) as host:
        yield status.figures(host, effort.rpc_hosts, effort)


def _shared(effort: Effort) -> Iterator[List[Figure]]:
    with running(3, effort) as host:
        yield connection.figures(host, effort)
        yield shared.figures(host, effort)


def _simulator(effort: Effort) -> Iterator[List[Figure]]:
    yield simulator.figures(effort)


def _scale(effort: Effort) -> Iterator[List[Figure]]:
    for count in scale.SIZES if effort is FULL else (3,):
        with running(count, effort) as host:
            yield scale.figures(host, count, effort)


GROUPS: Dict[str, Callable[[Effort], Iterator[List[Figure]]]] = {
    "rpc": _rpc,
    "cycle": _cycle,
    "three": _three,
    "volume": _volume,
    "status": _status,
    "shared": _shared,
    "simulator": _simulator,
    "scale": _scale,
}


def main(words: List[str]) -> int:
    options = {word for word in words if word.startswith("--")}
    names = [word for word in words if word not in options] or [name for name in GROUPS if name != "scale"]
    unknown = [*(options - {"--strict", "--quick"}), *(name for name in names if name not in GROUPS)]
    if unknown:
        sys.stderr.write(f"{unknown[0]}: no such benchmark, expected {', '.join(GROUPS)}, --strict or --quick\n")
        return 2
    effort = QUICK if "--quick" in options else FULL
    found: List[Figure] = []
    broken = [name for name in names if not _measured(name, effort, found)]
    missed = [] if effort is QUICK else [figure for figure in found if figure.ok is False]
    for figure in missed:
        sys.stderr.write(f"benchmarks: budget missed: {figure.said()}\n")
    if broken:
        sys.stderr.write(f"benchmarks: could not run: {', '.join(broken)}\n")
        return 1
    held = sum(figure.ok is True for figure in found)
    sys.stderr.write(f"benchmarks: {held} budgets met, {len(missed)} missed\n" if effort is FULL else "")
    return 3 if missed and "--strict" in options else 0


def _measured(name: str, effort: Effort, found: List[Figure]) -> bool:
    """Whether the group could be measured to its end; what it found is shown and added as it comes."""
    try:
        show(reference.machine(f"{name}.start"))
        for figures in GROUPS[name](effort):
            show(figures)
            found += figures
        show(reference.machine(f"{name}.end"))
        return True
    except SystemExit as problem:
        sys.stderr.write(f"{problem}\n")
    except Exception:  # whatever it is, the other groups run, and the exit status tells
        traceback.print_exc()
    return False


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end in order: daemons and files of ours go, too
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
