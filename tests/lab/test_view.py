"""What may be asked of a host's storage, and how the keeper is told."""

from typing import Any, Dict

import pytest

from ovirt_he_ha.lab import view
from ovirt_he_ha.lab.layout import Lab, LabHost


def host(scale: float = 10.0) -> LabHost:
    return Lab("/l", 2, scale, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "").host(2)


@pytest.mark.parametrize("mode", ["ok", "hang", "error"])
def test_a_mode_takes_no_time(mode: str) -> None:
    assert view.request(host(), mode, {}) == {"mode": mode, "milliseconds": 0}


@pytest.mark.parametrize(("scale", "expected"), [(1, 3000), (10, 300), (20, 150)])
def test_slow_storage_is_slow_in_the_products_time(scale: float, expected: int) -> None:
    assert view.request(host(scale), "slow", {}) == {"mode": "slow", "milliseconds": expected}


def test_slow_by_wall_milliseconds() -> None:
    assert view.request(host(), "slow", {"milliseconds": 1234.4})["milliseconds"] == 1234


@pytest.mark.parametrize(
    ("mode", "parameters"),
    [("gone", {}), ("", {}), ("hang", {"milliseconds": 5}), ("slow", {"seconds": 5}), ("slow", {"milliseconds": 0})],
)
def test_what_cannot_be_asked(mode: str, parameters: Dict[str, float]) -> None:
    with pytest.raises((view.NoSuchMode, view.BadDelay)):
        view.request(host(), mode, parameters)


def test_the_keeper_is_asked_and_its_moment_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def call(path: object, command: str, **arguments: Any) -> Dict[str, Any]:
        asked.append((path, command, arguments))
        return {"at": 12.5, "mode": "hang", "milliseconds": 0}

    monkeypatch.setattr(view.control, "call", call)
    assert view.set_storage(host(), "hang") == 12.5
    assert view.storage_mode(host()) == "hang"
    keeper = host().lab.control
    assert asked == [
        (keeper, "storage", {"host": 2, "mode": "hang", "milliseconds": 0}),
        (keeper, "storage", {"host": 2}),
    ]
