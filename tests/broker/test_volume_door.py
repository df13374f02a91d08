"""Finding the volume: named states, one worker for good, and a look that hangs."""

import threading

import pytest

from ovirt_he_ha.broker.volume_door import VolumeDoor
from ovirt_he_ha.storage.errors import DomainProblem, StorageError, StorageOverdue


class Domain:
    def __init__(self):
        self.problem = None
        self.hang = None

    def verify(self):
        if self.hang is not None:
            self.hang.wait(10)
        if self.problem is not None:
            raise self.problem

    def sector_size(self):
        return 4096


class Door:
    def __init__(self, seconds=5.0):
        self.domain = Domain()
        self.checked = []
        self.made = []
        self.door = VolumeDoor(self.domain, "/volume", self.checked.append, self.make, seconds)

    def make(self, sector_size):
        self.made.append(sector_size)
        return object()


def test_the_same_worker_every_time():
    door = Door()
    first = door.door.open()
    assert door.door.open() is first
    assert (door.checked, door.made) == ([4096, 4096], [4096])


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (DomainProblem("missing", "/domain", "a directory", "mount it"), "missing"),
        (DomainProblem("sector-size", "/domain", "512", "no"), "sector-size"),
        (OSError(5, "Input/output error"), "io"),
    ],
)
def test_problems_are_storage_errors(problem, code):
    door = Door()
    door.domain.problem = problem
    with pytest.raises(StorageError) as caught:
        door.door.open()
    assert caught.value.code == code
    door.domain.problem = None
    door.door.open()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_is_an_error_too():
    door = Door()
    door.domain.problem = KeyError("x")
    with pytest.raises(StorageError) as caught:
        door.door.open()
    assert caught.value.code == "io"


def test_a_look_that_hangs_is_left_behind_and_not_repeated():
    door = Door(seconds=0.05)
    door.domain.hang = threading.Event()
    for _ in range(3):
        with pytest.raises(StorageOverdue):
            door.door.open()
    assert sum(thread.name == "volume-check" for thread in threading.enumerate()) == 1
    door.domain.hang.set()
    door.door._looking.join(5)
    door.door.open()
    assert door.made == [4096]
