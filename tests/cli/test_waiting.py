"""Waiting for what a verb has begun, beside a broker that tells of changes whenever it is asked."""

from io import StringIO
from typing import List, Tuple

import pytest

from ovirt_he_ha.cli import waiting
from ovirt_he_ha.cli.hosts import Hosts
from ovirt_he_ha.client.link import BrokerSnapshot
from tests.cli.world import World

PAUSE = waiting.PAUSE  # before the fixture makes it short


def test_a_broker_that_always_tells_of_a_change_is_not_asked_without_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PAUSE", PAUSE)
    with pytest.raises(waiting.Overdue):
        waiting.wait_for(world.paths, 1.0, lambda _snapshot, _hosts: ("not yet", False), StringIO())
    assert 2 <= world.calls.count("snapshot") <= 1 + 1.0 / PAUSE
    assert world.calls.count("wait_for_change") <= 1 + 1.0 / PAUSE


def test_what_holds_already_is_not_paused_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAUSE", 60.0)
    waiting.wait_for(world.paths, 60.0, lambda _snapshot, _hosts: ("there", True), StringIO())
    assert world.calls == ["snapshot", "is_host_alive"]


def test_the_pause_does_not_make_a_wait_longer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAUSE", 60.0)
    looks: List[int] = []

    def condition(_snapshot: BrokerSnapshot, _hosts: Hosts) -> Tuple[str, bool]:
        looks.append(1)
        return "not yet", False

    with pytest.raises(waiting.Overdue):
        waiting.wait_for(world.paths, 0.3, condition, StringIO())
    assert len(looks) == 1
