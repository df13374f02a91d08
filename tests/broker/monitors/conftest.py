import ctypes
import os
import subprocess
import threading
import time

import pytest


class HandClock:
    """Product time that the test moves."""

    def __init__(self, scale=1.0):
        self.scale = scale
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def wall(self):
        return 1_700_000_000.0 + self.now


class RealClock:
    def __init__(self, scale=1.0):
        self.scale = scale

    def monotonic(self):
        return time.monotonic() * self.scale

    def wall(self):
        return time.time()


class Bell:
    """An on_change callback that can be waited for."""

    def __init__(self):
        self._state = threading.Condition()
        self.rung = 0

    def __call__(self):
        with self._state:
            self.rung += 1
            self._state.notify_all()

    def wait_until(self, condition, seconds=10.0):
        """Wait until ``condition()`` holds; looked at after every ring."""
        with self._state:
            return self._state.wait_for(condition, seconds)


@pytest.fixture
def hand_clock():
    return HandClock()


@pytest.fixture
def real_clock():
    return RealClock


@pytest.fixture
def bell():
    return Bell()


CLONE_NEWNET = 0x40000000


@pytest.fixture
def own_network():
    """Run a function on a thread with a network namespace of its own, after some commands in it; loopback is up."""

    def run(function, commands=()):
        outcome = []

        def inside():
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                outcome.append(PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno())))
                return
            for command in ("ip link set lo up", *commands):
                subprocess.run(command.split(), check=True)
            outcome.append(function())

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join(60)
        if isinstance(outcome[0], PermissionError):
            pytest.skip("CAP_SYS_ADMIN is missing")
        return outcome[0]

    return run
