"""The status without the broker: what is shown, where it is from, and that nothing hangs."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping

import pytest

from ovirt_he_ha.broker.protocol import FaultCode
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.cli import sources
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import HostLease
from tests.cli.world import UP, Ran, World, record, run
from tests.own_time import OwnTime

LONGEST = 3.0  # wall seconds


@pytest.fixture
def volume(host: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Three hosts on the volume, this one's agent alive, sanlock answering, no broker."""
    now = int(time.monotonic())
    host.publish(record(1, timestamp=now), record(2, engine=UP), record(3))
    host.slots[300] = slot.encode(record(300), 0.0)
    host.make_volume()
    monkeypatch.delenv("HE_TIME_SCALE", raising=False)
    flags = {1: HostLease.LIVE, 2: HostLease.LIVE, 3: HostLease.DEAD}
    monkeypatch.setattr(sources, "_sanlock_hosts", lambda _lockspace: flags)
    return host


def timed(*words: str) -> Ran:
    took = OwnTime()
    ran = run(*words)
    assert took.seconds < LONGEST
    return ran


def blocks(ran: Ran) -> Dict[str, Any]:
    return {key: block for key, block in ran.json.items() if key.isdigit()}


def check_direct(ran: Ran, code: str) -> None:
    found = blocks(ran)
    assert ran.status == 0 and list(found) == ["1", "2", "3", "300"]
    assert [block["live-data"] for block in found.values()] == [True, False, False, False]
    assert found["2"]["engine-status"]["vm"] == "up"
    assert [found[host]["sanlock"] for host in found] == ["live", "live", "dead", "unknown"]
    assert found["2"]["sources"]["slot"]["from"] == "volume" and found["2"]["sources"]["slot"]["age"] < LONGEST
    assert found["2"]["sources"]["sanlock"]["from"] == "sanlock"
    assert found["1"]["sources"]["live-data"]["from"] == "clock"
    assert found["2"]["sources"]["live-data"] == {"from": "none", "age": None}
    assert [problem["code"] for problem in found["1"]["problems"]] == [code, "read-directly"]


def test_no_broker(volume: World) -> None:
    check_direct(timed("--vm-status", "--json"), "broker-no-socket")


def test_a_broker_that_does_not_answer(volume: World) -> None:
    volume.hang_broker()
    check_direct(timed("--vm-status", "--json"), "broker-overdue")


@pytest.mark.parametrize("lie", ["", 7, [], {}, {"slots": b"x"}, {"slots": b"", "facts": "{"}], ids=range(6))
def test_a_broker_that_lies(volume: World, lie: Any) -> None:
    volume.start_broker()
    volume.lies["snapshot"] = lie
    check_direct(timed("--vm-status", "--json"), "broker-garbage")


def test_a_broker_that_lies_about_who_is_alive(volume: World) -> None:
    volume.start_broker()
    volume.lies["is_host_alive"] = {"1": True}
    check_direct(timed("--vm-status", "--json"), "broker-garbage")


def test_a_broker_that_fails(volume: World) -> None:
    volume.start_broker()
    volume.refuse["snapshot"] = Fault(FaultCode.STOPPING, "the broker is stopping")
    check_direct(timed("--vm-status", "--json"), "broker-fault")


def test_with_the_broker_nothing_is_read(volume: World, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.start_broker()
    volume.hang_storage(monkeypatch)
    found = blocks(timed("--vm-status", "--json"))
    assert found["2"]["sources"] == {
        "slot": {"from": "broker", "age": 1.0},
        "live-data": {"from": "agent", "age": None},
        "sanlock": {"from": "broker", "age": 0.0},
        "global_maintenance": {"from": "broker", "age": 1.0},
    }
    assert [found[host]["live-data"] for host in "123"] == [True, True, True]


def test_layout_says_where_it_is_from(volume: World) -> None:
    volume.slots[0] = slot.encode_global(True)
    volume.make_volume()
    ran = timed("--vm-status")
    lines = ran.out.splitlines()
    assert ran.status == 0 and ran.err == ""
    assert lines[4] == "--== Host host1 (id: 1) status ==--" or "GLOBAL MAINTENANCE" in lines[2]
    assert [line for line in lines if line.startswith("Read from the volume")]
    assert lines[-1].endswith("host 1 live, host 2 live, host 3 dead, host 300 unknown")
    assert ran.out.count("Engine status                      : unknown stale-data") == 3


def test_storage_and_broker_both_hang(volume: World, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.hang_storage(monkeypatch)
    volume.hang_broker()
    ran = timed("--vm-status", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "broker-overdue" and ran.err == ""
    ran = timed("--vm-status")
    assert ran.status == 1 and ran.out == "" and len(ran.err.splitlines()) == 2


@pytest.mark.parametrize("what", ["hangs", "fails"])
def test_a_sanlock_that_does_not_answer(volume: World, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    release = threading.Event()

    def ask(_lockspace: str) -> Mapping[int, HostLease]:
        if what == "fails":
            raise ValueError("no daemon")
        release.wait(20)
        return {}

    monkeypatch.setattr(sources, "_sanlock_hosts", ask)
    try:
        found = blocks(timed("--vm-status", "--json"))
        assert "sanlock does not say" in timed("--vm-status").out
    finally:
        release.set()
    assert {block["sanlock"] for block in found.values()} == {"unknown"}


def test_a_clock_that_is_before_the_slots_is_not_ours(volume: World) -> None:
    """Another boot's timestamp, or one of long ago, is no sign of life."""
    for timestamp in (int(time.monotonic()) + 500, max(1, int(time.monotonic()) - 500)):
        volume.publish(record(1, timestamp=timestamp))
        volume.make_volume()
        assert blocks(timed("--vm-status", "--json"))["1"]["live-data"] is False


@pytest.mark.parametrize("content", [b"", b"\xff" * 4096 * 2001, bytes(4096)])
def test_a_volume_that_holds_nonsense(volume: World, content: bytes) -> None:
    volume.make_volume().write_bytes(content)
    ran = timed("--vm-status", "--json")
    assert (ran.status, "error" in ran.json) in ((1, True), (0, False))
    assert "Traceback" not in ran.err


def process(proc: Path, number: int, state: str, *words: str) -> None:
    entry = proc / str(number)
    entry.mkdir(parents=True)
    (entry / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")
    (entry / "stat").write_text(f"{number} (python3 (x)) {state} 1 1")


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Path]:
    program = "/lib/ovirt_he_ha/storage/io_process.py"
    process(tmp_path, 1, "D", "python3", "-I", "-S", program, "5", "/volume")
    process(tmp_path, 2, "D", "python3", "-I", "-S", program, "5", "/volume")
    process(tmp_path, 3, "S", "python3", "-I", "-S", program, "5", "/volume")
    process(tmp_path, 4, "D", "python3", "-I", "-S", program, "5", "/another")
    process(tmp_path, 5, "D", "dd", "/volume")
    (tmp_path / "6").mkdir()
    (tmp_path / "sys").mkdir()
    yield tmp_path


def test_readers_that_hang_in_the_kernel_are_counted(proc: Path) -> None:
    assert sources.stuck_readers("/volume", str(proc)) == 2
    assert sources.stuck_readers("/other", str(proc)) == 0


@pytest.fixture
def mute(proc: Path) -> Iterator[Callable[[int], None]]:
    """Processes whose command line is read for ever, as under a lock that they sleep with."""
    made: List[Path] = []

    def make(number: int) -> None:
        process(proc, number, "D", "fsync")
        made.append(proc / str(number) / "cmdline")
        made[-1].unlink()
        os.mkfifo(made[-1])

    yield make
    for pipe in made:  # whoever still reads goes on
        with suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


def test_a_process_that_does_not_tell_its_command_is_passed_over(proc: Path, mute: Callable[[int], None]) -> None:
    mute(7)
    mute(8)
    begin = time.monotonic()
    assert sources.stuck_readers("/volume", str(proc)) == 2
    assert time.monotonic() - begin < 1.0


def test_many_of_them_take_no_longer(proc: Path, mute: Callable[[int], None]) -> None:
    for number in range(10, 40):
        mute(number)
    begin = time.monotonic()
    assert sources.stuck_readers("/volume", str(proc)) <= 2
    assert time.monotonic() - begin < 1.0


def test_no_third_reader_is_made(volume: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "stuck_readers", lambda _path: 2)
    ran = timed("--vm-status", "--json")
    assert ran.status == 1 and "still hang" in ran.json["error"]["message"]
