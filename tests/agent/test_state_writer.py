"""A disk of this host that hangs or fails: the cycle goes on, and the host shows it."""

import threading
from typing import List, Optional

import pytest

from ovirt_he_ha.agent.state_writer import StateWriter
from ovirt_he_ha.core.model import Budgets
from tests.own_time import OwnTime


class Disk:
    """A state file whose writes can be held up or refused."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.error: Optional[OSError] = None
        self.written: List[Budgets] = []
        self.problem = ""

    def save(self, budgets: Budgets) -> bool:
        assert self.goes_on.wait(10)
        if self.error is not None:
            self.problem = "full"
            raise self.error
        self.problem = ""
        self.written.append(budgets)
        return True


def writers() -> List[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "state-file"]


def await_end() -> None:
    for thread in writers():
        thread.join(5)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_what_is_saved_is_written_when_it_returns_and_not_twice(disk: Disk) -> None:
    writer = StateWriter(disk, 5.0)  # type: ignore[arg-type]
    for failures in (1, 1, 2, 2):
        writer.save(Budgets(start_failures=failures))
    assert [each.start_failures for each in disk.written] == [1, 2]
    assert writer.problem == ""


def test_s4_a_hung_disk_is_waited_for_once_and_the_last_budgets_reach_it(disk: Disk) -> None:
    writer = StateWriter(disk, 0.2)  # type: ignore[arg-type]
    disk.goes_on.clear()
    try:
        took = OwnTime()
        for failures in range(1, 20):
            writer.save(Budgets(start_failures=failures))
        assert took.seconds < 1.0
        assert writer.problem == "overdue"
        assert len(writers()) == 1
    finally:
        disk.goes_on.set()
        await_end()
    assert [each.start_failures for each in disk.written] == [1, 19]
    assert writer.problem == ""


def test_a_write_that_failed_is_tried_again(disk: Disk) -> None:
    writer = StateWriter(disk, 5.0)  # type: ignore[arg-type]
    disk.error = OSError(28, "No space left on device")
    writer.save(Budgets(start_failures=1))
    assert writer.problem == "full"
    disk.error = None
    writer.save(Budgets(start_failures=1))
    assert [each.start_failures for each in disk.written] == [1]
    assert writer.problem == ""
