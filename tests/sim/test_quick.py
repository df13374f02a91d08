"""What makes worlds quicker changes nothing in them, and is gone afterwards."""

import dataclasses
from typing import Any, List, Optional

import pytest

from ovirt_he_ha.agent import cycle, publish
from ovirt_he_ha.broker import slot_reads
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Health, Reading, Record, Vm
from ovirt_he_ha.sim.quick import quickened, remembered

STATUS = EngineStatus(Vm.UP, Health.GOOD)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Its constructor does more than setting fields: it is left alone."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(self.number)


def made() -> List[Any]:
    record = Record(3, 17, 3400, STATUS, "host3", extra=(("state", "EngineUp"),))
    facts = EngineFacts(STATUS, uptime=3.0)
    moved = cycle.replace(facts, uptime=4.0, pid=7)  # type: ignore[attr-defined]
    assert record.get("state") == "EngineUp"
    bare = publish.replace(record, extra=())  # type: ignore[attr-defined]
    assert bare.get("state") == ""  # what the other one remembers beside its fields is not handed on
    return [record, facts, moved, bare, Reading.of(5, 0.5), Reading(), slot.encode(record, 0.0)]


def test_the_same_objects_are_made() -> None:
    plain = made()
    with quickened():
        quick = made()
        assert [hash(each) for each in quick] == [hash(each) for each in plain]
    assert quick == plain
    assert [repr(each) for each in quick] == [repr(each) for each in plain]


def test_they_are_as_frozen() -> None:
    with quickened():
        facts = EngineFacts(STATUS)
        with pytest.raises(dataclasses.FrozenInstanceError):
            facts.pid = 5  # type: ignore[misc]
        with pytest.raises(TypeError):
            EngineFacts()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            EngineFacts(STATUS, colour="red")  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            cycle.replace(facts, colour="red")  # type: ignore[attr-defined]
        with pytest.raises(ValueError):
            Checked(-1)


def test_nothing_is_left_behind() -> None:
    def places() -> List[Any]:
        return [slot.decode, slot.decode_global, slot_reads.decode, cycle.replace, EngineFacts.__init__]  # type: ignore[attr-defined]

    before = places()
    with pytest.raises(RuntimeError), quickened():
        inside = places()
        with quickened():
            assert places() == inside
        assert places() == inside
        raise RuntimeError
    assert not set(before) & set(inside)
    assert places() == before


def test_an_answer_is_worked_out_once_and_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovirt_he_ha.sim.quick.REMEMBERED", 2)
    asked: List[int] = []

    def plain(number: int) -> Optional[int]:
        asked.append(number)
        return number * 2

    quick = remembered(plain)
    assert [quick(1), quick(1), quick(2), quick(3), quick(1)] == [2, 2, 4, 6, 2]
    assert asked == [1, 2, 3, 1]
