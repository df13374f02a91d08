"""What a drill's numbers mean."""

import json
from typing import Any

import pytest

from ovirt_he_ha.lab.drills.report import Course, Limit, Report
from ovirt_he_ha.lab.judge import Judgement, judge


def report(limit: Limit, scale: float = 10.0, two: bool = False, unleased: float = 0.0, **changes: Any) -> Report:
    course = Course(fault_at=100.0, ended_at=120.0, recovered=True, started_at=116.0, healthy_at=120.0)
    for name, value in changes.items():
        setattr(course, name, value)
    return Report("host-loss", course, limit, Judgement((), two, unleased), scale)


def test_the_guests_boot_is_not_the_products_fault() -> None:
    found = report(Limit(167.0))
    assert found.boot_seconds == 4.0
    assert found.measured == 160.0
    assert found.passed


def test_product_seconds_are_not_wall_seconds() -> None:
    assert not report(Limit(150.0)).passed
    assert report(Limit(16.0, "wall")).passed
    assert not report(Limit(15.0, "wall")).passed


def test_nothing_is_accelerated_once_the_new_process_is_there() -> None:
    """Fault at 100, QEMU at 115.5, its first instruction at 116: 15.5 s of ten product seconds each, and half a
    second."""
    assert report(Limit(167.0), appeared_at=115.5).measured == pytest.approx(155.5)
    assert report(Limit(20.0, "wall"), appeared_at=115.5).measured == 16.0
    assert report(Limit(167.0), appeared_at=115.5, recovered=False, started_at=None).measured == pytest.approx(159.5)


@pytest.mark.parametrize(
    "changes", [{"two": True}, {"unleased": 0.2}, {"recovered": False}], ids=["ran twice", "unleased", "not back"]
)
def test_fast_is_not_enough(changes: Any) -> None:
    assert not report(Limit(1000.0), **changes).passed


def test_one_json_object_and_seconds_is_never_null() -> None:
    found = report(Limit(5.0), recovered=False, started_at=None, healthy_at=None, problem="nothing came")
    values = json.loads(json.dumps(found.as_json()))
    assert values["seconds"] == 20.0
    assert values["boot_seconds"] == 0.0
    assert values["recovered"] is False
    assert {"name", "detected_seconds", "started_seconds", "bound", "two_ran", "owners"} <= set(values)
    assert "nothing came" in found.as_text()


def test_owners_are_told_from_the_fault_on() -> None:
    ran = {"kind": "ran", "at": 99.1, "host": 2, "pid": 5, "started": 1, "first": [98.0, 98.1], "last": [99.0, 99.1]}
    course = Course(fault_at=100.0, ended_at=101.0, recovered=True)
    values = Report("x", course, Limit(10.0), judge([ran]), 1.0).as_json()
    assert values["owners"] == [{"host": 2, "pid": 5, "from": -1.9, "to": -0.9}]
