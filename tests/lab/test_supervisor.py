"""Restarting, stopping and killing services, with real short-lived processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from ovirt_he_ha.lab.services import RESTART_DELAY, Service
from ovirt_he_ha.lab.supervisor import NoSuchService, NotRunning, Supervisor

SLEEPER = Service("sleeper", ("sleep", "60"))


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    return Supervisor([SLEEPER], dict(os.environ), tmp_path)


def status(supervisor: Supervisor) -> "dict[str, object]":
    return supervisor.handlers()["status"]({})["sleeper"]  # type: ignore[no-any-return]


def reap(supervisor: Supervisor) -> None:
    pid, code = os.waitpid(int(str(status(supervisor)["pid"])), 0)
    assert supervisor.exited(pid, code)


def test_a_killed_service_comes_back_after_the_delay(supervisor: Supervisor) -> None:
    supervisor.start_due(time.monotonic())
    supervisor.handlers()["kill"]({"service": "sleeper"})
    reap(supervisor)
    assert status(supervisor)["last_exit"] == -signal.SIGKILL
    due = supervisor.next_due()
    assert due is not None
    assert due == pytest.approx(time.monotonic() + RESTART_DELAY, abs=1)
    supervisor.start_due(due - 0.1)
    assert status(supervisor)["pid"] is None
    supervisor.start_due(due)
    assert status(supervisor)["starts"] == 2
    supervisor.handlers()["stop"]({"service": "sleeper"})
    reap(supervisor)


def test_a_stopped_service_stays_away_until_started(supervisor: Supervisor) -> None:
    supervisor.start_due(0)
    supervisor.handlers()["stop"]({"service": "sleeper"})
    reap(supervisor)
    supervisor.start_due(time.monotonic() + 1000)
    assert supervisor.next_due() is None
    assert status(supervisor)["pid"] is None
    supervisor.handlers()["start"]({"service": "sleeper"})
    supervisor.start_due(time.monotonic())
    assert status(supervisor)["pid"] is not None
    supervisor.handlers()["stop"]({"service": "sleeper"})
    reap(supervisor)


def test_a_service_killed_for_good_stays_away(supervisor: Supervisor) -> None:
    supervisor.start_due(0)
    supervisor.handlers()["kill"]({"service": "sleeper", "away": True})
    reap(supervisor)
    supervisor.start_due(time.monotonic() + 1000)
    assert status(supervisor)["pid"] is None


def test_unknown_and_absent(supervisor: Supervisor) -> None:
    with pytest.raises(NoSuchService):
        supervisor.handlers()["kill"]({"service": "wdmd"})
    with pytest.raises(NotRunning):
        supervisor.handlers()["kill"]({"service": "sleeper"})
    assert not supervisor.exited(1, 0)
