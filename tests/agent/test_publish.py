import threading
from dataclasses import replace
from typing import List, Mapping, Sequence, Tuple

import pytest

from ovirt_he_ha.agent.collect import PublishClock
from ovirt_he_ha.agent.publish import Launch, Publisher, at_once, beside
from ovirt_he_ha.client.link import BrokerFault
from ovirt_he_ha.core.model import (
    Carried,
    Decision,
    HostFacts,
    LeaseFacts,
    Monitors,
    Reading,
    Record,
    ScoreCard,
    Snapshot,
    State,
)
from ovirt_he_ha.core.timers import Timers
from tests.agent.clocks import ManualClock
from tests.own_time import OwnTime


class Broker:
    def __init__(self) -> None:
        self.slots: List[Tuple[int, bytes]] = []
        self.pushed: List[Sequence[int]] = []
        self.mails: List[Tuple[str, str, Mapping[str, str]]] = []
        self.fault = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def put_stats(self, host_id: int, data: bytes) -> None:
        assert self.goes_on.wait(3)
        if self.fault:
            raise BrokerFault("put_stats", self.fault, "no storage")
        self.slots.append((host_id, data))

    def push_hosts_state(self, ids: Sequence[int]) -> None:
        self.pushed.append(ids)

    def notify(self, event: str, detail: str, options: Mapping[str, str]) -> str:
        self.mails.append((event, detail, options))
        return "sent"


class Bench:
    def __init__(self, launch: Launch = at_once) -> None:
        self.broker = Broker()
        self.clock = ManualClock()
        self.published = PublishClock()
        self.publisher = Publisher(
            self.broker,  # type: ignore[arg-type]
            1,
            self.clock,
            self.published,
            Timers(),
            launch,
        )
        self.record = Record(1, 1000, 3400, None, "h1", extra=(("state", "EngineDown"),))

    def cycle(self, state: State = State.ENGINE_DOWN, alive: Tuple[int, ...] = (2, 3), **changes: object) -> None:
        now = self.clock.monotonic()
        record = replace(self.record, timestamp=int(now), **changes)  # type: ignore[arg-type]
        snapshot = Snapshot(
            now, 0.0, HostFacts(1, "h1", "boot"), {}, 0.0, Reading.of(False), Monitors(), LeaseFacts(), Carried()
        )
        decision = Decision(state, None, ScoreCard(3400, (), 3400), record, alive, (), (), Carried(), now + 10)
        self.publisher.publish(snapshot, decision)


def test_the_slot_is_written_and_live_peers_are_pushed_with_the_own_id() -> None:
    bench = Bench()
    bench.cycle()
    assert [(host, len(data)) for host, data in bench.broker.slots] == [(1, 4096)]
    assert bench.broker.pushed == [[1, 2, 3]]
    assert bench.published.written_at == bench.clock.now


def test_an_unchanged_record_waits_for_the_keep_alive() -> None:
    bench = Bench()
    for _ in range(9):
        bench.cycle()
        bench.clock.now += 1
    assert len(bench.broker.slots) == 1
    bench.clock.now += 1
    bench.cycle()
    assert len(bench.broker.slots) == 2


@pytest.mark.parametrize(
    "changes", [{"score": 0}, {"maintenance": True}, {"stopped": True}, {"extra": (("state", "EngineUp"),)}]
)
def test_what_peers_act_on_is_written_at_once(changes: object) -> None:
    bench = Bench()
    bench.cycle()
    bench.clock.now += 0.5
    bench.cycle(**changes)  # type: ignore[arg-type]
    assert len(bench.broker.slots) == 2


def test_a_change_of_reasons_alone_is_not_worth_a_write() -> None:
    bench = Bench()
    bench.cycle()
    bench.clock.now += 0.5
    bench.cycle(extra=(("state", "EngineDown"), ("why.1", "rank:wait=3")))
    assert len(bench.broker.slots) == 1


def test_s8_a_write_that_failed_is_tried_again_and_not_taken_for_written() -> None:
    bench = Bench()
    bench.broker.fault = 6
    bench.cycle()
    assert bench.published.written_at is None
    assert bench.broker.pushed == [[1, 2, 3]]
    bench.broker.fault = 0
    bench.cycle()
    assert len(bench.broker.slots) == 1


def test_only_a_change_of_state_is_mailed() -> None:
    bench = Bench()
    bench.cycle(State.ENGINE_DOWN)
    bench.cycle(State.ENGINE_DOWN)
    bench.cycle(State.ENGINE_START)
    assert bench.broker.mails == [("state_transition", "EngineDown-EngineStart", {"hostname": "h1"})]


def test_s4_a_write_that_hangs_delays_no_cycle_and_the_last_record_is_written_next() -> None:
    bench = Bench(beside)
    bench.broker.goes_on.clear()
    try:
        took = OwnTime()
        for score in range(20):
            bench.clock.now += 1
            bench.cycle(score=score)
            assert took.seconds < 1.5  # one of them waited a moment, and no other
        assert sum(thread.name == "publish" for thread in threading.enumerate()) == 1
        assert bench.published.written_at is None
        assert len(bench.broker.pushed) == 20
        assert not bench.publisher.settle(0.01)
    finally:
        bench.broker.goes_on.set()
    assert bench.publisher.settle(5)
    assert len(bench.broker.slots) == 2
    assert b"score=19\n" in bench.broker.slots[-1][1]
    assert bench.published.written_at == bench.clock.now


def test_s8_a_last_record_that_was_refused_is_not_on_the_volume() -> None:
    bench = Bench(beside)
    assert not bench.publisher.settle(0.01)
    bench.cycle()
    assert bench.publisher.settle(5)
    bench.broker.fault = 6
    bench.cycle(stopped=True)
    assert not bench.publisher.settle(5)
