"""``python -m benchmarks [name...]``: one JSON line per figure; without names all groups but ``scale``.

Exit status 0 when everything could be measured; with ``--strict`` 1 when a budget is exceeded.
"""

import sys
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List

from benchmarks import cycle, idle, peers, rpc, scale, status, volume
from benchmarks.figures import Figure, show
from benchmarks.host import Host

HOSTS = 250


def _rpc() -> List[Figure]:
    with Host() as host:
        host.make_storage()
        host.write(peers.slots(HOSTS, 1000))
        host.start_sanlock()
        host.start_broker()
        host.await_slots(HOSTS)
        host.link.push_hosts_state(range(1, HOSTS + 1))
        return rpc.figures(host)


def _running(count: int) -> Iterator[Host]:
    """So many slots are in use from the start: one that sanlock does not list is found by the next full scan only."""
    with Host() as host:
        host.make_storage()
        host.write(peers.slots(count, 900))
        host.start_sanlock()
        host.start_broker()
        host.await_held()
        host.start_agent()
        yield host


running = contextmanager(_running)


def _volume() -> List[Figure]:
    found: List[Figure] = []
    with running(3) as host:
        found += volume.steady(host, 3, 2, 2.5, "3_hosts")
        found += volume.steady(host, 3, 0, 12.0, "3_hosts_engine_not_well")
        found += volume.visibility(host)
    with running(64) as host:
        found += volume.steady(host, 64, 2, 30.0, "64_hosts")
    return found


def _idle() -> List[Figure]:
    with running(3) as host:
        return [*idle.figures(host), *status.figures(host, 3)]


def _status() -> List[Figure]:
    with running(250) as host:
        return status.figures(host, 250)


def _scale() -> List[Figure]:
    found: List[Figure] = []
    for count in scale.SIZES:
        with running(count) as host:
            found += scale.figures(host, count)
    return found


GROUPS: Dict[str, Callable[[], List[Figure]]] = {
    "rpc": _rpc,
    "cycle": cycle.figures,
    "volume": _volume,
    "idle": _idle,
    "status": _status,
    "scale": _scale,
}


def main(words: List[str]) -> int:
    strict = "--strict" in words
    names = [word for word in words if word != "--strict"] or [name for name in GROUPS if name != "scale"]
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        sys.stderr.write(f"{unknown[0]}: no such benchmark, expected {', '.join(GROUPS)}\n")
        return 2
    missed = 0
    for name in names:
        found = GROUPS[name]()
        show(found)
        missed += sum(figure.ok is False for figure in found)
    return 1 if strict and missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
