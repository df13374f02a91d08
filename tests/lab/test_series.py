"""Drills in a row."""

from typing import List

import pytest

from ovirt_he_ha.lab.drills.drill import Drill
from ovirt_he_ha.lab.drills.report import Course, Limit, Report
from ovirt_he_ha.lab.drills.series import Series
from ovirt_he_ha.lab.judge import Judgement
from ovirt_he_ha.lab.layout import Lab, LabError
from ovirt_he_ha.lab.main import main

LAB = Lab("/nowhere", 3, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")


def report(seconds: float, two_ran: bool = False, unleased: float = 0.0) -> Report:
    course = Course(fault_at=100.0, ended_at=100.0 + seconds, recovered=True)
    return Report("x", course, Limit(10.0, "wall"), Judgement((), two_ran, unleased), 10.0)


class Played(Drill):
    limit = Limit(10.0, "wall")

    def __init__(self, *course: object) -> None:
        self._course = list(course)

    def hold(self, *_args: object, **_options: object) -> Report:
        found = self._course.pop(0)
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Report)
        return found


def series(monkeypatch: pytest.MonkeyPatch, **drills: Drill) -> Series:
    monkeypatch.setattr("ovirt_he_ha.lab.drills.series.Stage", lambda lab: None)
    return Series(LAB, drills, lambda _: None)


def test_each_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    held = series(monkeypatch, a=Played(report(3), report(9), report(11)), b=Played(report(1), report(1), report(1)))
    told: List[Report] = []
    assert not held.run(["a", "b"], 3, told.append)
    assert len(told) == 6
    assert held.tallies["a"].text() == "2/3, median 9.0, worst 11.0 of 10 wall seconds"
    assert held.tallies["a"].problems == ["took 11.0 wall seconds"]
    assert held.tallies["b"].problems == []


def test_what_is_unsafe_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    held = series(monkeypatch, a=Played(report(11, two_ran=True), report(1, unleased=2.0), report(1)))
    assert not held.run(["a"], 3, lambda _: None)
    assert held.tallies["a"].problems == ["two copies ran", "ran without its lease for 2.0 s"]


def test_a_cluster_that_stays_broken_ends_the_series(monkeypatch: pytest.MonkeyPatch) -> None:
    held = series(monkeypatch, a=Played(report(1), LabError("not whole")), b=Played())
    assert not held.run(["a", "b"], 2, lambda _: None)
    assert held.tallies["a"].problems == ["not whole"]
    assert held.tallies["a"].text().startswith("1/2")
    assert "b" not in held.tallies


def test_all_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert series(monkeypatch, a=Played(report(1), report(2))).run(["a"], 2, lambda _: None)


@pytest.mark.parametrize(
    "words", [["drill", "all", "--times", "0"], ["soak", "--minutes", "x"], ["soak", "--seed", "-1"]]
)
def test_bad_numbers_are_refused(words: List[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
