"""The real wdmd over the stand-in device, and the clock that it shares with a restarted daemon."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from ovirt_he_ha.lab import native_code, services, shared_clock, watchdog
from ovirt_he_ha.lab.layout import Lab
from ovirt_he_ha.lease.host_reset import HostReset
from tests.contract import own_mounts

pytestmark = pytest.mark.contract

SCALE = 20.0
TIMEOUT = watchdog.TIMEOUT / SCALE


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    missing = own_mounts.missing()
    for program, package in ((services.WDMD, "sanlock"), ("/usr/bin/faketime", "faketime")):
        if not os.path.exists(program):
            missing = f"{program} is missing (package {package})"
    if missing:
        pytest.skip(missing)
    built = tmp_path_factory.mktemp("native") / "watchdog_device.so"
    try:
        native_code.build_device(built)
    except native_code.NotBuilt as e:
        pytest.skip(str(e))
    return built


def eventually(look):
    end = time.monotonic() + 10
    while not look():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def boot(library):
    """A host with its own /run and shared memory, a new device, its clock, and a way to start wdmd."""
    for target in ("/run", "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    os.mkdir(services.WDMD_RUN)
    lab = Lab("/run/lab", 1, SCALE, "10.9.0.0/24", "10.9.1.0/24", sys.executable, "")  # wdmd takes 63 characters
    lab.native.mkdir(parents=True)
    lab.watchdog_library.symlink_to(library)
    host = lab.host(1)
    host.directory.mkdir()
    watchdog.make_device(host.watchdog)
    clock = shared_clock.make_clock(SCALE)
    started = []

    def start():
        service = services.wdmd(host, clock)
        words = [word if word != "kvm" else "root" for word in service.argv]
        with open(host.directory / "log", "ab") as output:
            daemon = subprocess.Popen(words, env={**os.environ, **service.env}, stdout=output, stderr=output)
        started.append(daemon)
        return daemon

    try:
        yield host, start, clock
    finally:
        for daemon in started:
            daemon.kill()
            daemon.wait()


def lives_and_ends(library):
    with boot(library) as (host, start, _):
        device = watchdog.OpenDevice(host.watchdog)
        assert device.read() == (None, watchdog.TIMEOUT)
        daemon = start()
        eventually(lambda: device.read().alive is not None)
        beats = [device.read().alive]
        assert abs(time.monotonic() - beats[0]) < 5, "the machine's clock, not the fast one"
        # wdmd sends one when it opens the device and one when its loop begins; then one every 10 s of its clock.
        while len(beats) < 3:
            eventually(lambda: device.read().alive > beats[-1])
            beats.append(device.read().alive)
        assert beats[2] - beats[1] >= 10 / SCALE - 0.1
        daemon.terminate()
        daemon.wait(10)
        assert device.read() == (None, watchdog.TIMEOUT)


def test_it_is_petted_and_disarmed_in_order(library):
    own_mounts.run(lives_and_ends, library)


def fires(library):
    with boot(library) as (host, start, _):
        fired = []
        happened = threading.Event()

        def fire(host_id, keepalive):
            fired.append((time.monotonic(), keepalive))
            happened.set()

        watcher = watchdog.Watcher(SCALE, fire)
        watcher.start()
        device = watchdog.OpenDevice(host.watchdog)
        watcher.watch(1, device)
        daemon = start()
        eventually(lambda: watcher.facts(1)["armed"])
        assert not happened.wait(TIMEOUT + 1), "it is petted"
        daemon.kill()
        daemon.wait()
        last = device.read().alive
        again = start()
        assert again.wait(10) != 0, "wdmd refuses after an unclean end: only a reboot helps"
        assert device.read().alive == last
        assert happened.wait(TIMEOUT + 5)
        ((at, keepalive),) = fired
        assert keepalive == last
        assert TIMEOUT <= at - keepalive < TIMEOUT + 0.5


def test_a_killed_wdmd_leaves_it_counting(library):
    own_mounts.run(fires, library)


CLOCKS = "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC)); print(open('/proc/uptime').read().split()[0])"


def agree(library):
    with boot(library) as (_, _, clock):
        assert shared_clock.make_clock(1) == {}
        zeros = []
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, "-c", CLOCKS], env={**os.environ, **clock}, capture_output=True, text=True, check=True
            )
            fast, machine = map(float, done.stdout.split())
            zeros.append(fast - machine * SCALE)
            time.sleep(0.5)
        assert max(zeros) - min(zeros) < 1.0, zeros  # the other clock is read some milliseconds later


def test_processes_started_at_different_times_share_the_clock(library):
    own_mounts.run(agree, library)


def resets_when_asked(library):
    with boot(library) as (host, start, _):
        fired, happened = [], threading.Event()

        def fire(host_id, keepalive):
            fired.append(time.monotonic())
            happened.set()

        watcher = watchdog.Watcher(SCALE, fire)
        watcher.start()
        watcher.watch(1, watchdog.OpenDevice(host.watchdog))
        start()
        eventually(lambda: watcher.facts(1)["armed"])
        reset = HostReset()
        reset.want(True)
        eventually(lambda: reset.asked)
        asked = time.monotonic()
        assert happened.wait(TIMEOUT + 10 / SCALE + 2), "no reset"
        assert fired[0] - asked > TIMEOUT - 10 / SCALE - 0.5


def is_taken_back(library):
    with boot(library) as (host, start, _):
        happened = threading.Event()
        watcher = watchdog.Watcher(SCALE, lambda host_id, keepalive: happened.set())
        watcher.start()
        device = watchdog.OpenDevice(host.watchdog)
        watcher.watch(1, device)
        start()
        eventually(lambda: watcher.facts(1)["armed"])
        reset = HostReset()
        for _ in range(2):
            reset.want(True)
            eventually(lambda: reset.asked)
            assert not happened.wait(12 / SCALE), "a look of wdmd's, and no reset yet"
            last = device.read().alive
            reset.want(False)
            eventually(lambda: not reset.asked)
            eventually(lambda before=last: device.read().alive > before)
        assert not happened.wait(TIMEOUT + 1)


def test_wdmd_resets_a_host_that_asks_for_it(library):
    own_mounts.run(resets_when_asked, library)


def test_a_wish_that_is_taken_back_in_time_resets_nothing(library):
    own_mounts.run(is_taken_back, library)
