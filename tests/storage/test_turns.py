"""Two that connect the storage on one host at the same moment."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ovirt_he_ha.storage.errors import ConnectionProblem
from ovirt_he_ha.storage.turns import turn
from tests.storage.mounted_world import MountedWorld

HOLD = """
import sys
from pathlib import Path
from ovirt_he_ha.storage.turns import turn
with turn(Path(sys.argv[1]), 5):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path):
    return tmp_path / "run" / "turn"


@pytest.fixture
def holder(place):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_who_comes_second_is_told_when_its_time_is_over(place, holder):
    with pytest.raises(ConnectionProblem) as caught, turn(place, 0.1):
        pass
    assert caught.value.code == "busy" and str(place) in str(caught.value)
    assert os.stat(place).st_mode & 0o077 == 0  # nobody else can hold it


def test_who_is_killed_gives_its_turn_back(place, holder):
    threading.Timer(0.2, holder.send_signal, (signal.SIGKILL,)).start()
    with turn(place, 20) as left:
        assert 1 <= left < 20


def test_what_is_left_is_enough_for_an_answer(place):
    with turn(place, 0.0) as left:
        assert left == 1.0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the storage is connected by nobody else")
def test_the_second_connection_finds_what_the_first_one_mounted():
    world = MountedWorld()
    try:
        world.make_domain()
        target = world.target
        slow = [
            ["sleep", 0.7],
            ["append", str(world.table), world.line()],
            ["move", str(world.export), target],
        ]
        world.expect_mount(do=slow)
        changed = []
        calls = [
            threading.Thread(target=lambda: changed.append(world.provider().connect(30).changed)) for _ in range(2)
        ]
        for each in calls:
            each.start()
        for each in calls:
            each.join()
        assert sorted(changed) == [False, True]
        world.script.done()  # one mount, and no umount
    finally:
        world.close()
