"""Who watches the device, and when it fires. The device itself: tests/contract/test_watchdog_device.py."""

import struct
import threading
import time
from pathlib import Path
from typing import List, Tuple

import pytest

from ovirt_he_ha.lab.watchdog import LOOK, OpenDevice, Watcher, make_device

SCALE = 10.0
TIMEOUT = 60 / SCALE


class Fired(List[Tuple[int, float]]):
    def __call__(self, host_id: int, keepalive: float) -> None:
        self.append((host_id, keepalive))


@pytest.fixture
def fired() -> Fired:
    return Fired()


@pytest.fixture
def watcher(tmp_path: Path, fired: Fired) -> Watcher:
    watcher = Watcher(SCALE, fired)
    for host_id in (1, 2):
        make_device(tmp_path / str(host_id))
        watcher.watch(host_id, OpenDevice(tmp_path / str(host_id)))
    return watcher


def pet(path: Path, moment: float) -> None:
    with open(path, "r+b") as device:
        device.write(struct.pack("<Q", int(moment * 1e9)))


def test_a_disarmed_device_never_fires(watcher: Watcher, fired: Fired) -> None:
    assert watcher.fire_due(1000.0) == 1000.0 + LOOK
    assert watcher.fire_due(1e6) == 1e6 + LOOK
    assert fired == []
    assert watcher.facts(1) == {"present": True, "armed": False}


def test_it_fires_once_its_time_has_passed_since_the_last_keepalive(
    watcher: Watcher, fired: Fired, tmp_path: Path
) -> None:
    pet(tmp_path / "2", 100.0)
    assert watcher.fire_due(101.0) == 101.0 + LOOK  # host 1 may be armed at any moment
    pet(tmp_path / "1", 103.0)
    assert watcher.fire_due(100.0 + TIMEOUT - 0.01) == pytest.approx(100.0 + TIMEOUT)
    pet(tmp_path / "2", 105.0)
    assert watcher.fire_due(100.0 + TIMEOUT) == pytest.approx(103.0 + TIMEOUT)
    assert fired == []
    watcher.fire_due(103.0 + TIMEOUT)
    assert fired == [(1, pytest.approx(103.0))]
    watcher.fire_due(105.0 + TIMEOUT)
    watcher.fire_due(200.0)
    assert fired == [(1, pytest.approx(103.0)), (2, pytest.approx(105.0))]
    assert watcher.facts(2) == {"present": False, "armed": False}


def test_a_host_that_lost_its_power_is_forgotten(watcher: Watcher, fired: Fired, tmp_path: Path) -> None:
    pet(tmp_path / "1", 100.0)
    watcher.forget(1)
    watcher.fire_due(1e6)
    assert fired == []


def test_an_overdue_keepalive_shows_before_it_fires(watcher: Watcher, tmp_path: Path) -> None:
    pet(tmp_path / "1", time.monotonic())
    assert watcher.facts(1)["overdue"] is False
    pet(tmp_path / "1", time.monotonic() - 3.0)
    facts = watcher.facts(1)
    assert facts["overdue"] is True
    assert facts["keepalive_ago"] == pytest.approx(3.0, abs=0.5)
    assert facts["fires_in"] == pytest.approx(TIMEOUT - 3.0, abs=0.5)


def test_the_thread_fires_in_time(tmp_path: Path) -> None:
    """Armed while it waits for the other host's far end: it must notice."""
    happened = threading.Event()
    when: List[float] = []

    def fire(host_id: int, keepalive: float) -> None:
        when.append(time.monotonic() - keepalive)
        happened.set()

    watcher = Watcher(200.0, fire)  # 0.3 s
    watcher.start()
    make_device(tmp_path / "1")
    watcher.watch(1, OpenDevice(tmp_path / "1"))
    pet(tmp_path / "1", time.monotonic())
    assert happened.wait(10)
    assert 0.3 <= when[0] < 2
