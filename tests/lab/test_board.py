"""Slots on the volume, as a drill reads them."""

import os
from pathlib import Path
from typing import Callable

import pytest

from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import SLOT_SIZE, EngineStatus, Health, Record, Vm
from ovirt_he_ha.lab.drills.board import Board
from ovirt_he_ha.lab.layout import Lab

UP = EngineStatus(Vm.UP, Health.GOOD, "Up")
DOWN = EngineStatus(Vm.DOWN, Health.BAD, "Down")
Publish = Callable[..., None]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(str(tmp_path), 2, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")
    path = lab.volume_path(lab.identity.metadata)
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(16 * SLOT_SIZE))
    return lab


@pytest.fixture
def publish(lab: Lab) -> Publish:
    def write(host_id: int, timestamp: int, state: str, engine: EngineStatus, **extra: str) -> None:
        pairs = (("state", state), *extra.items())
        record = Record(host_id, timestamp, 3400, engine, f"h{host_id}", extra=pairs)
        with open(lab.volume_path(lab.identity.metadata), "r+b") as stream:
            stream.seek(host_id * SLOT_SIZE)
            stream.write(slot.encode(record, 0.0))
            stream.flush()
            os.fsync(stream.fileno())

    return write


def test_life_is_a_change_since_we_look(lab: Lab, publish: Publish) -> None:
    publish(1, 5, "EngineUp", UP)
    board = Board(lab)
    assert board.record(1) is not None
    assert not board.changed_since(1, 0.0)
    publish(1, 6, "EngineUp", UP)
    board.read()
    assert board.changed_since(1, 0.0)
    assert board.record(2) is None
    assert list(board.present()) == [1]


def test_first_reaction_is_news_not_a_heartbeat(lab: Lab, publish: Publish) -> None:
    publish(1, 5, "EngineUp", UP)
    publish(2, 5, "EngineDown", DOWN)
    board = Board(lab)
    fault_at = board.publications[-1].at + 1e-6
    publish(2, 6, "EngineDown", DOWN)
    board.read()
    assert board.first_reaction(fault_at, [1, 2]) is None
    publish(2, 7, "EngineStart", DOWN)
    board.read()
    reaction = board.first_reaction(fault_at, [1, 2])
    assert reaction is not None
    assert (reaction.host_id, reaction.record.timestamp) == (2, 7)
    assert board.first_reaction(fault_at, [1]) is None


def test_promises(lab: Lab, publish: Publish) -> None:
    publish(1, 5, "EngineUp", UP)
    publish(2, 5, "EngineDown", DOWN, **{"bound.host-loss": "162"})
    board = Board(lab)
    assert board.promise("host-loss", [1, 2]) == 162.0
    assert board.promise("host-loss", [1]) is None
    assert board.promise("flood", [1, 2]) is None


def test_a_slot_full_of_noise_is_nobody(lab: Lab, publish: Publish) -> None:
    board = Board(lab)
    with open(lab.volume_path(lab.identity.metadata), "r+b") as stream:
        stream.seek(SLOT_SIZE)
        stream.write(os.urandom(SLOT_SIZE))
    board.read()
    assert board.record(1) is None
    assert board.changed_since(1, 0.0)
