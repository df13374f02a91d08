"""How wdmd is asked for a reset: once, on a thread of its own, and taken back."""

import threading
import time
from typing import Callable, List

import pytest

from ovirt_he_ha.lease import host_reset
from ovirt_he_ha.lease.host_reset import HostReset, ResetRefused


class Wdmd:
    def __init__(self) -> None:
        self.said: List[str] = []
        self.refuses = False
        self.stands = threading.Event()
        self.stands.set()

    def open(self) -> "Wdmd":
        assert self.stands.wait(10)
        if self.refuses:
            self.said.append("refused")
            raise ResetRefused("nobody listens")
        self.said.append("open")
        return self

    def overdue(self) -> None:
        self.said.append("overdue")

    def close(self) -> None:
        self.said.append("close")


@pytest.fixture
def wdmd() -> Wdmd:
    return Wdmd()


def eventually(look: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not look():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_it_is_asked_once_and_taken_back_once(wdmd: Wdmd) -> None:
    reset = HostReset(wdmd.open)
    reset.want(False)
    for _ in range(3):
        reset.want(True)
        eventually(lambda: reset.asked)
    for _ in range(3):
        reset.want(False)
        eventually(lambda: not reset.asked)
    eventually(lambda: wdmd.said == ["open", "overdue", "close"])


def test_whoever_asks_never_waits_for_wdmd(wdmd: Wdmd) -> None:
    wdmd.stands.clear()
    reset = HostReset(wdmd.open)
    began = time.thread_time()
    for _ in range(100):
        reset.want(True)
    assert time.thread_time() - began < 1.0 and not reset.asked and wdmd.said == []
    wdmd.stands.set()
    eventually(lambda: reset.asked)
    assert wdmd.said == ["open", "overdue"]


def test_what_was_taken_back_meanwhile_ends_taken_back(wdmd: Wdmd) -> None:
    wdmd.stands.clear()
    reset = HostReset(wdmd.open)
    reset.want(True)
    reset.want(False)
    wdmd.stands.set()
    eventually(lambda: not reset.busy)
    assert not reset.asked
    assert wdmd.said in ([], ["open", "overdue", "close"])


def test_a_refusal_is_tried_again_after_a_while(wdmd: Wdmd, monkeypatch: pytest.MonkeyPatch) -> None:
    wdmd.refuses = True
    reset = HostReset(wdmd.open)
    reset.want(True)
    eventually(lambda: wdmd.said == ["refused"] and not reset.busy)
    for _ in range(100):
        reset.want(True)
    assert not reset.busy and wdmd.said == ["refused"]
    monkeypatch.setattr(host_reset, "AGAIN", 0.0)
    wdmd.refuses = False
    end = time.monotonic() + 30
    while not reset.asked:
        assert time.monotonic() < end
        reset.want(True)
        time.sleep(0.05)
    assert wdmd.said == ["refused", "open", "overdue"]


def test_without_the_library_there_is_no_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_reset, "LIBRARY", "libwdmd-that-is-not-there.so.1")
    with pytest.raises(ResetRefused, match="libwdmd-that-is-not-there"):
        host_reset.WdmdLine()


def test_no_thread_left_is_a_refusal(wdmd: Wdmd, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reset = HostReset(wdmd.open)
    monkeypatch.setattr(host_reset, "AGAIN", 0.0)
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", refuses)
        reset.want(True)
    assert not reset.busy
    reset.want(True)
    eventually(lambda: reset.asked)


def test_whatever_goes_wrong_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Wdmd:
        raise AttributeError("undefined symbol: wdmd_connect")

    reset = HostReset(broken)
    reset.want(True)
    eventually(lambda: not reset.busy)
    assert not reset.asked
