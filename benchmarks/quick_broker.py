"""A broker's socket, methods and codec as they are, over slots that change with every call: what the agent's cycle
costs does not depend on how fast a volume is read.

    python -m benchmarks.quick_broker SOCKET HOSTS      ends with its standard input
"""

import sys
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Tuple, cast

from benchmarks import peers
from ovirt_he_ha.broker.changes import Changes
from ovirt_he_ha.broker.handlers import Handlers, Parts, Policy
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.protocol import PublishFacts, StorageFacts
from ovirt_he_ha.broker.rpc import Caller, RpcServer
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import (
    SLOT_SIZE,
    EngineFacts,
    EngineStatus,
    Health,
    HostLease,
    LeaseFacts,
    LeaseOwner,
    LockspaceState,
    Monitors,
    Reading,
    Vm,
)

SETS = 305  # contents of the volume, each slot 10 s later than in the one before; a slot never goes back in time
MANY_SETS = 125  # from 1,000 hosts on


class Board:
    """The volume, one set further with each snapshot."""

    def __init__(self, count: int) -> None:
        self._own: Dict[int, bytes] = {}
        self._sets: List[Mapping[int, bytes]] = []
        for n in range(SETS if count < 1000 else MANY_SETS):
            self._sets.append({h: data.rstrip(b"\0") for h, data in peers.slots(count, 1000 + 10 * n).items()})
        self._at = -1

    def slots(self) -> Mapping[int, bytes]:
        return MappingProxyType({h: data.ljust(SLOT_SIZE, b"\0") for h, data in self._sets[self._at].items()})

    def step(self) -> None:
        self._at = min(self._at + 1, len(self._sets) - 1)

    def slots_age(self, _now: float) -> float:
        return 1.0

    def storage(self, _now: float) -> StorageFacts:
        return StorageFacts("ok", 1.0)

    def publish(self, _now: float) -> PublishFacts:
        return PublishFacts(1.0)

    def write(self, host_id: int, data: bytes) -> None:
        self._own[host_id] = data


class Leases:
    def __init__(self, count: int) -> None:
        hosts = MappingProxyType({host_id: HostLease.LIVE for host_id in range(1, count + 1)})
        held = Reading.of(LockspaceState.HELD, 1.0)
        self._facts = LeaseFacts(held, held, Reading.of(hosts, 1.0), Reading.of(LeaseOwner(2, 3, 1000), 1.0), 1)

    def want(self, _host_id: int) -> None:
        return None

    def facts(self) -> LeaseFacts:
        return self._facts

    def states(self) -> "Tuple[Reading[LockspaceState], Reading[LockspaceState]]":
        return self._facts.lockspace, self._facts.whiteboard

    def leave(self, _deadline: float) -> None:
        return None


class Room:
    """Monitors and mail."""

    def monitors(self) -> Monitors:
        engine = EngineFacts(EngineStatus(Vm.DOWN, Health.BAD, "Down"))
        known: Any = Reading.of(1.0, 1.0)
        return Monitors(
            known, Reading.of(True, 1.0), Reading.of(64000, 1.0), Reading.of(0.1, 1.0), known, Reading.of(engine, 1.0)
        )

    def types(self) -> Tuple[str, ...]:
        return ("network",)

    def legacy_text(self, _name: str) -> str:
        return "1.0"

    def check_start(self, name: str, _options: Mapping[str, str]) -> str:
        return name

    def notify(self, _event: str, _detail: str, _options: Mapping[str, str]) -> str:
        return "ignored"


class Stepping(Handlers):
    """The slots have changed whenever they are asked for."""

    board: Board

    def dispatch(self, caller: Caller, method: str, args: Tuple[Any, ...]) -> Any:
        if method in ("snapshot", "get_stats"):
            self.board.step()
        return super().dispatch(caller, method, args)


def main(words: List[str]) -> int:
    path, count = Path(words[0]), int(words[1])
    board, room, changes, metrics = Board(count), Room(), Changes(), Metrics()
    parts = Parts(
        cast(Whiteboard, board),
        Leases(count),
        room,
        room,
        changes,
        metrics,
        SystemClock(1.0),
        lambda: None,
        threading.Event(),
    )
    policy = Policy(0)
    handlers = Stepping(1, parts, policy)
    handlers.board = board
    server = RpcServer(path, handlers.dispatch, policy.may_connect, metrics)
    server.reserve()
    server.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
