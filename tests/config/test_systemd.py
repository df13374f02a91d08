import socket

import pytest

from ovirt_he_ha.config.systemd import Heartbeat, tell_systemd, watchdog_seconds


class Bench:
    def __init__(self, period=15.0):
        self.now = 100.0
        self.told = []
        self.heartbeat = Heartbeat(period, self.told.append, lambda: self.now)

    def beat(self, after=0.0):
        self.now += after
        before = len(self.told)
        self.heartbeat.beat()
        return len(self.told) > before


def test_three_beats_in_a_period():
    bench = Bench()
    assert bench.beat()
    assert not bench.beat(after=4.9)
    assert bench.beat(after=0.1)
    assert set(bench.told) == {"WATCHDOG=1"}


def test_nobody_listens():
    assert not Bench(period=None).beat()


def test_a_loop_that_hangs_stops_the_beat_until_it_comes_round():
    bench = Bench()
    bench.heartbeat.came_round("the cycle", 60.0)
    assert bench.beat(after=60.0)
    assert not bench.beat(after=10.0)
    bench.heartbeat.came_round("the cycle", 60.0)
    assert bench.beat(after=1.0)


@pytest.mark.parametrize(("text", "expected"), [("15000000", 15.0), ("", None), ("0", None), ("soon", None)])
def test_the_period(text, expected):
    assert watchdog_seconds({"WATCHDOG_USEC": text}) == expected


def test_it_goes_to_systemds_socket(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        tell_systemd("WATCHDOG=1")
        assert listener.recv(100) == b"WATCHDOG=1"


def test_a_socket_that_is_gone_harms_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    tell_systemd("WATCHDOG=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    tell_systemd("WATCHDOG=1")
