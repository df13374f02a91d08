"""A copy of the VM that gives its lease back while its host's storage hangs, as libvirt does for it when it is paused:
what the real sanlock and wdmd make of that, and what the guard does about it. Twenty times as fast; seconds below are
sanlock's."""

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from ovirt_he_ha.lab import watchdog
from tests.contract import lease_real, own_mounts, storage_view
from tests.contract.lease_cases import DEAD, LIVE, flag_at, join_apart, last_seen, taken, wait
from tests.contract.lease_real import KEY, SPACE
from tests.contract.sanlock_cluster import REAL_SCALE, missing
from tests.contract.test_guard import Reports
from tests.contract.test_lease_reality import before_others
from tests.contract.test_watchdog_device import boot, library

pytestmark = pytest.mark.contract
__all__ = ["library"]

ROOT = Path(__file__).resolve().parents[2]


class FencedHost(lease_real.Host):
    """With a watchdog. What holds its lease looks like the VM's qemu."""

    watchdog = "1"
    vmid = str(uuid.uuid4())

    def holder(self, who="vm"):
        process = lease_real.Process(self, "qemu-system-x86_64", ["-uuid", self.vmid])
        self.holders[who] = process
        assert process.ask("register").code == 0
        return process

    def release(self, who="vm"):
        return self.process.begin("release_of", SPACE, KEY, str(self.lease), self.holders[who].popen.pid)

    def guard(self):
        return subprocess.Popen(
            [sys.executable, "-m", "tests.contract.guard_process", self.vmid, str(self.lease), SPACE, KEY],
            env={
                **os.environ,
                "SANLOCK_RUN_DIR": str(self.run_dir),
                "HE_TIME_SCALE": f"{REAL_SCALE:g}",
                "PYTHONPATH": str(ROOT),
            },
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


class Scene:
    """Host 1, which has a watchdog, holds the lease; host 2 sees it alive. ``fired``: when the watchdog ran out."""

    def __init__(self, machine, clock, view_program, directory):
        self.cluster = cluster = lease_real.Cluster(directory, view_program)
        self.guard = None
        self.fired = []
        try:
            self.two = cluster.host(2)
            self.one = cluster.hosts[1] = FencedHost(cluster, 1, "host1", clock)  # wdmd's
            self.one.start()
            self.one.own_way()
            join_apart(cluster, self.one, self.two)
            cluster.until(lambda: self.two.flags() == {1: LIVE, 2: LIVE}, 100)
            taken(cluster, self.one)
            self.watcher = watchdog.Watcher(REAL_SCALE, lambda host_id, keepalive: self.fired.append(cluster.now))
            self.watcher.start()
            self.watcher.watch(1, watchdog.OpenDevice(machine.watchdog))
        except BaseException:
            self.close()
            raise

    def start_guard(self):
        self.guard = self.one.guard()
        self.reports = Reports(self.guard)
        self.reports.until("guarded")

    def hang(self):
        """Returns the moment of the last renewal that host 2 has seen."""
        seen = last_seen(self.cluster, 1, 2)
        self.one.storage("hang")
        self.one.touch_storage()
        self.cluster.go(3)
        return seen

    def pause(self):
        """What libvirt does at a pause. sanlock forgets the lease at once, whatever becomes of its record."""
        answer = self.one.release()
        self.cluster.until(lambda: self.one.status()[2] == 0, 10)
        return answer

    def close(self):
        if self.one.view is not None:
            self.one.storage("ok")
        if self.guard is not None:
            self.guard.stdin.close()
            self.guard.wait(10)
            self.guard.stdout.close()
        self.cluster.close()


def staged(body, library, view_program, directory):
    with before_others(), boot(library) as (machine, start, clock):
        start()
        scene = Scene(machine, clock, view_program, directory)
        try:
            body(scene)
        finally:
            scene.close()


@pytest.fixture(scope="module")
def stage(library):
    """Runs a body in a mount namespace of its own."""
    lacks = missing() or storage_view.missing_component()
    if lacks:
        pytest.skip(lacks)
    with tempfile.TemporaryDirectory(prefix="he-paused-") as place:
        program = storage_view.build(Path(place))

        def run(body):
            directory = Path(place) / body.__name__
            directory.mkdir()
            own_mounts.run(staged, body, library, program, directory)

        yield run


def holds_on(scene):
    seen = scene.hang()
    dead = flag_at(scene.cluster, scene.two, 1, DEAD, seen)
    assert scene.one.alive() and scene.one.status()[2] == 1
    assert scene.fired and scene.fired[0] - seen < 140 <= dead


def test_a_copy_that_holds_its_lease_has_the_host_reset_by_sanlock(stage):
    stage(holds_on)


def is_paused(scene):
    seen = scene.hang()
    answer = scene.pause()
    flag_at(scene.cluster, scene.two, 1, DEAD, seen)
    assert wait(scene.cluster, scene.two.take()) == [0]
    assert scene.cluster.owner().host_id == 2
    assert scene.one.alive() and not answer.done, "both hang in the kernel"
    facts = scene.watcher.facts(1)
    assert not scene.fired and facts["armed"] and not facts["overdue"], "wdmd goes on"


def test_a_copy_that_gave_its_lease_back_is_nobodys_and_another_host_gets_the_lease_beside_it(stage):
    stage(is_paused)


def is_paused_and_killed(scene):
    seen = scene.hang()
    scene.pause()
    scene.one.crash()
    flag_at(scene.cluster, scene.two, 1, DEAD, seen)
    assert scene.one.alive(), "one of its threads is uninterruptible"
    assert not scene.fired and not scene.watcher.facts(1)["overdue"]


def test_nor_does_it_matter_that_it_was_killed(stage):
    stage(is_paused_and_killed)


def is_guarded(scene):
    scene.start_guard()
    seen = scene.hang()
    scene.pause()
    dead = flag_at(scene.cluster, scene.two, 1, DEAD, seen)
    assert scene.one.alive() and scene.one.status()[2] == 0, "neither the signal nor sanlock has ended it"
    assert scene.fired and 80 < scene.fired[0] - seen < dead


def test_s2_the_guard_has_the_host_reset_before_another_may_start(stage):
    stage(is_guarded)


def is_guarded_and_goes_on(scene):
    scene.start_guard()
    seen = scene.hang()
    scene.pause()
    scene.cluster.until(lambda: scene.watcher.facts(1)["overdue"], 140)
    overdue = scene.cluster.now - seen
    scene.one.storage("ok")
    scene.cluster.until(lambda: not scene.one.alive(), 20)
    scene.cluster.until(lambda: not scene.watcher.facts(1)["overdue"], 20)
    scene.cluster.go(80)
    assert not scene.fired and 60 < overdue < 120, overdue


def test_s2_a_process_that_ends_in_time_after_all_takes_the_reset_back(stage):
    stage(is_guarded_and_goes_on)
