import threading

import pytest

from ovirt_he_ha.agent.fence import KILLING, STUCK, Fencer
from ovirt_he_ha.core.model import Fence
from tests.agent.clocks import ManualClock


class Victim:
    """A process that dies when ``dies`` is set; every try is counted."""

    def __init__(self, dies: bool = True) -> None:
        self.dies = dies
        self.tries = 0
        self.gate = threading.Event()
        self.gate.set()
        self.done = threading.Event()

    def kill(self, fence: Fence, deadline: float) -> bool:
        self.tries += 1
        assert self.gate.wait(10)
        return self.dies

    def fencer(self) -> Fencer:
        return Fencer(self.kill, ManualClock(), self.done.set)


def test_nothing_to_kill_kills_nothing() -> None:
    victim = Victim()
    fencer = victim.fencer()
    fencer.order(None)
    assert victim.tries == 0
    assert fencer.state == ""


def test_s2_the_order_kills_and_is_over_when_the_process_is_gone() -> None:
    victim = Victim()
    victim.gate.clear()
    fencer = victim.fencer()
    fencer.order(Fence("paused", 5.0))
    assert fencer.state == KILLING
    assert fencer.reason == "paused"
    fencer.order(Fence("paused", 5.0))
    victim.gate.set()
    assert victim.done.wait(10)
    assert victim.tries == 1
    assert fencer.state == ""


def test_s2_a_process_that_survives_is_said_and_tried_again() -> None:
    victim = Victim(dies=False)
    fencer = victim.fencer()
    fencer.order(Fence("paused", 1.0))
    assert victim.done.wait(10)
    assert fencer.state == STUCK
    victim.done.clear()
    victim.dies = True
    fencer.order(Fence("paused", 1.0))
    assert victim.done.wait(10)
    assert victim.tries == 2
    assert fencer.state == ""


def test_a_failing_kill_path_counts_as_still_there() -> None:
    done = threading.Event()

    def broken(fence: Fence, deadline: float) -> bool:
        raise OSError("no /proc")

    fencer = Fencer(broken, ManualClock(), done.set)
    fencer.order(Fence("paused", 1.0))
    assert done.wait(10)
    assert fencer.state == STUCK


def test_each_takes_back_its_own_order_only() -> None:
    victim = Victim(dies=False)
    fencer = victim.fencer()
    fencer.order(Fence("paused", 1.0), "guard")
    assert victim.done.wait(10)
    fencer.order(None, "cycle")
    assert fencer.state == STUCK
    fencer.order(None, "guard")
    assert fencer.state == ""


def test_without_a_thread_the_caller_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    victim = Victim()
    fencer = victim.fencer()
    monkeypatch.setattr(threading.Thread, "start", refused)
    fencer.order(Fence("paused", 1.0))
    assert victim.tries == 1
    assert fencer.state == ""
