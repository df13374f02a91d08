"""A broker whose answers are as they should be, but for one value in them that is anything."""

import json
import random
from copy import deepcopy
from dataclasses import replace
from typing import Any, Iterator, List, Tuple

import pytest

from ovirt_he_ha.broker.protocol import pack_snapshot
from ovirt_he_ha.broker.rpc import Caller
from ovirt_he_ha.cli import vm
from tests.cli.test_vm import Engine, Libvirt, define
from tests.cli.world import UP, Ran, World, record, run

ANYTHING = (
    None, "", -1, 0, 1, 5000, 2**62, 1e300, -1e300, float("nan"), True, [], {}, "x" * 100, [1, "a"], {"a": 1},
    b"\xff" * 10, "\x1b[2J\n",
)  # fmt: skip
VERBS = (
    "--vm-status", "--vm-status --json", "--vm-status --table", "--why", "--why --json", "--protection",
    "--protection --json", "--vm-start", "--vm-shutdown", "--vm-migrate", "--clean-metadata --host-id=3",
    "--reinitialize-lockspace", "--set-maintenance --mode=global", "--set-maintenance --mode=local",
    "--set-maintenance --mode=none",
)  # fmt: skip
Path = Tuple[Any, ...]


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in pairs:
        yield (*at, key)
        yield from places(inner, (*at, key))


def with_lie(value: Any, at: Path, lie: Any) -> Any:
    if not at:
        return lie
    answer = deepcopy(value)
    inside = answer
    for key in at[:-1]:
        inside = inside[key]
    inside[at[-1]] = lie
    return answer


class Liar(World):
    """``lie``: method, place in its answer, what stands there instead."""

    lie: Tuple[str, Path, Any] = ("", (), None)

    def _dispatch(self, caller: Caller, method: str, args: Tuple[Any, ...]) -> Any:
        answer = super()._dispatch(caller, method, args)
        return with_lie(answer, self.lie[1], self.lie[2]) if method == self.lie[0] else answer


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    world = Liar()
    monkeypatch.setenv("OVIRT_HE_ROOT", str(world.root))
    monkeypatch.setattr(vm, "LibvirtEngineVm", Engine)
    monkeypatch.setattr(vm, "Connection", Libvirt)
    monkeypatch.setattr(vm, "in_background", lambda _words: pytest.fail("a move was begun on a liar's word"))
    define(world)
    world.publish(record(1), record(2), record(3, stopped=True))
    world.start_broker()
    yield world
    world.close()


def all_lies(world: Liar) -> List[Tuple[str, Path]]:
    snapshot = pack_snapshot(replace(world.facts, slots=dict(world.slots)))
    return [("snapshot", at) for at in places(snapshot)] + [
        (method, ()) for method in ("snapshot", "is_host_alive", "health", "put_stats", "wait_for_change")
    ]


def is_in_order(ran: Ran, words: List[str]) -> bool:
    text = ran.out + ran.err
    shown = text.replace("\n", "").replace("\t", "").isprintable()
    as_json = "--json" not in words or (isinstance(json.loads(ran.out), dict) and ran.out.count("\n") == 1)
    return "Traceback" not in text and "internal error" not in text and shown and as_json


@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_one_lie_ends_in_an_answer_or_a_refusal(liar: Liar, seed: int, here: bool) -> None:
    if here:
        liar.engine(UP, pid=77)
    chance = random.Random(seed)
    lies = all_lies(liar)
    for _ in range(60):
        liar.lie = (*chance.choice(lies), chance.choice(ANYTHING))
        words = chance.choice(VERBS).split()
        assert is_in_order(run(*words), words), (words, liar.lie)
