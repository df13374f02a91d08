"""What makes worlds quicker changes nothing in them, and is gone afterwards."""

import dataclasses
from inspect import getattr_static
from typing import Any, List, Optional

import pytest

from ovirt_he_ha.agent import cycle, publish
from ovirt_he_ha.broker import slot_reads
from ovirt_he_ha.core import protection, slot
from ovirt_he_ha.core.liveness import Survey
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Health, HostLease, Reading, Record, State, Vm
from ovirt_he_ha.sim.answers import Checked, known, remembered
from ovirt_he_ha.sim.quick import quickened

STATUS = EngineStatus(Vm.UP, Health.GOOD)


@dataclasses.dataclass(frozen=True)
class Positive:
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
            Positive(-1)


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
    monkeypatch.setattr("ovirt_he_ha.sim.answers.REMEMBERED", 2)
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
    first, same, other = Positive(1), Positive(1), Positive(2)
    assert [quick(first), quick(first), quick(same), quick(other), quick(first)] == [1, 1, 2, 3, 1]
    assert asked == [first, same, other]


def test_what_depends_on_more_than_its_key_is_found_out() -> None:
    quick = Checked(lambda pair: pair[0] + pair[1], lambda pair: pair[0])
    assert [quick.answer((1, 2)) for _ in range(40)] == [3] * 40
    with pytest.raises(AssertionError, match="depends on more than 1"):
        for _ in range(20):
            quick.answer((1, 5))


def test_what_must_not_be_remembered_is_worked_out_each_time() -> None:
    asked: List[int] = []
    quick = Checked(lambda number: asked.append(number) or len(asked), lambda number: None)
    assert [quick.answer(7) for _ in range(3)] == [1, 2, 3]


def hosts(**changes: Any) -> List[Record]:
    """Three that guard themselves; the first one says what ``changes`` says."""
    words = {"state": "EngineDown", "def": "ok", "lockmgr": "sanlock", "wd": "1", "io": "10/60", "wall": "1700000000"}
    extras = [tuple({**words, **(changes if number == 1 else {})}.items()) for number in (1, 2, 3)]
    return [
        Record(number, 17, 3400, STATUS if number == 1 else None, f"host{number}", extra=extra, extra_ok=True)
        for number, extra in enumerate(extras, 1)
    ]


def meters() -> List[Any]:
    found: List[Any] = []
    told = ({}, {}, {"wall": "1700000010"}, {"wd": "0"}, {"wall": "x"}, {"io": "20/60"}, {"score.zero": "lockspace"})
    for each in told:
        made = tuple(protection.host(one.host_id, one, True) for one in hosts(**each))
        for flag, age in ((Reading.of(False), 1.0), (Reading.of(True), 1.0), (Reading.of(False), 50.0)):
            cluster = protection.Cluster(1, made, flag, False, age)
            found += [protection.assess(cluster), [one.facts for one in made]]
    return found


def test_meters_and_what_hosts_say_of_themselves_are_the_same() -> None:
    plain = meters()
    with quickened():
        assert [meters() for _ in range(8)] == [plain] * 8


def test_properties_that_are_worked_out_once_are_their_own_again_afterwards() -> None:
    before = vars(Survey)["alive"]
    with quickened():
        survey = Survey({}, {})
        inside = vars(Survey)["alive"]
        assert survey.alive == () and survey.alive is survey.alive
    assert inside is not before and vars(Survey)["alive"] is before
