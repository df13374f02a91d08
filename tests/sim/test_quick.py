"""What makes worlds quicker changes nothing in them, and is gone afterwards."""

import dataclasses
from inspect import getattr_static
from typing import Any, List, Optional

import pytest

from ovirt_he_ha.agent import cycle, publish
from ovirt_he_ha.broker import slot_reads
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Health, HostLease, Reading, Record, State, Vm
from ovirt_he_ha.sim.quick import known, quickened, remembered

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


def test_they_refuse_what_they_refused() -> None:
    with quickened():
        facts = EngineFacts(STATUS)
        with pytest.raises(TypeError):
            EngineFacts()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            EngineFacts(STATUS, colour="red")  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            cycle.replace(facts, colour="red")  # type: ignore[attr-defined]
        with pytest.raises(ValueError):
            Checked(-1)


def test_values_of_enumerations_are_the_same() -> None:
    plain = [each.value for each in (*State, *Vm, *HostLease)]
    with quickened():
        assert [each.value for each in (*State, *Vm, *HostLease)] == plain
        assert State("EngineUp") is State.ENGINE_UP
    assert "value" not in vars(State)


def test_they_are_frozen_again_afterwards() -> None:
    with quickened():
        inside = EngineFacts(STATUS)
    for facts in (inside, EngineFacts(STATUS)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            facts.pid = 5  # type: ignore[misc]
        with pytest.raises(dataclasses.FrozenInstanceError):
            del facts.pid


def test_nothing_is_left_behind() -> None:
    def places() -> List[Any]:
        methods = [
            EngineFacts.__init__,
            EngineFacts.__setattr__,
            EngineFacts.__delattr__,
            getattr_static(State, "value"),
        ]
        return [slot.decode, slot.decode_global, slot_reads.decode, cycle.replace, *methods]  # type: ignore[attr-defined]

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


def test_an_object_is_known_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: List[Any] = []
    quick = known(lambda text: asked.append(text) or len(asked))
    first, same, other = Checked(1), Checked(1), Checked(2)
    assert [quick(first), quick(first), quick(same), quick(other), quick(first)] == [1, 1, 2, 3, 1]
    assert asked == [first, same, other]
