"""Two that connect the storage on one host at the same moment."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from ovirt_he_ha.storage import connection
from ovirt_he_ha.storage.errors import ConnectionProblem, DomainProblem
from ovirt_he_ha.storage.refusal import UNVERIFIED, Refusal
from ovirt_he_ha.storage.turns import turn
from tests.own_time import OwnTime
from tests.storage.mounted_world import MountedWorld

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the storage is connected by nobody else")
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


@root
def test_the_broker_is_kept_out_until_the_copy_is_verified():
    """Also if that never happens: the connection fails, or is killed in between."""
    world = MountedWorld()
    try:
        why = Refusal(world.paths.storage_refusal).why
        connect = partial(connection.connect, world.conf, world.paths, 20, commands=world.script.commands)
        seen = []
        watcher = threading.Thread(target=lambda: seen.append((soon(why), world.target in world.table.read_text())))
        world.expect_mount(
            do=[["sleep", 0.7], ["append", str(world.table), world.line()]]
        )  # an export with nothing in it
        world.expect_umount()
        watcher.start()
        with pytest.raises(DomainProblem) as caught:
            connect()
        watcher.join()
        assert caught.value.code == "no-domain" and seen == [(UNVERIFIED, False)] and why() == UNVERIFIED
        world.make_domain()
        world.expect_mount()
        assert connect()[1].changed and why() == ""
        world.script.done()
    finally:
        world.close()


def soon(look):
    """What it finds before anything is mounted."""
    clock = OwnTime()
    while not look() and clock.seconds < 5:
        time.sleep(0.01)
    return look()


@root
def test_what_is_connected_already_is_looked_at_and_the_broker_may_join_meanwhile(monkeypatch):
    world = MountedWorld()
    try:
        world.make_domain()
        world.mounted()
        monkeypatch.setattr(Refusal, "note", lambda *_: pytest.fail("it was verified when it was mounted"))
        assert not connection.connect(world.conf, world.paths, 20, commands=world.script.commands)[1].changed
    finally:
        world.close()


@root
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
