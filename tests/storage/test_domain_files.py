"""One look at a domain through a worker: all its calls share one deadline."""

from typing import List, cast

import pytest

from ovirt_he_ha.storage.domain_files import FilesOfWorker
from ovirt_he_ha.storage.io_worker import IoWorker


class Clock:
    """At ``scale`` times the pace; ``passes`` in wall seconds."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.now = 1000.0

    def passes(self, seconds: float) -> None:
        self.now += seconds * self.scale

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 0.0


class Worker:
    def __init__(self) -> None:
        self.deadlines: List[float] = []

    def is_directory(self, path: str, deadline: float) -> bool:
        self.deadlines.append(deadline)
        return True


@pytest.mark.parametrize(("scale", "wall"), [(1.0, 5.0), (2.0, 2.5), (10.0, 1.0), (20.0, 1.0)])
def test_the_calls_of_a_look_share_its_seconds_and_never_less_than_one_of_the_wall(scale: float, wall: float) -> None:
    clock, worker = Clock(scale), Worker()
    files = FilesOfWorker(cast(IoWorker, worker), clock, 5.0)
    for part in (0.4, 0.5):
        files.is_directory("/a")
        clock.passes(part * wall)
    files.is_directory("/a")
    clock.passes(wall)
    files.is_directory("/a")
    left = [deadline / scale for deadline in worker.deadlines]
    assert left == pytest.approx([wall, 0.6 * wall, 0.1 * wall, 0.001 / scale])
