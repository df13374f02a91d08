"""W-14 to W-29: what is on the volume, and what is written there."""

import threading
from binascii import crc32
from dataclasses import replace

import pytest

from ovirt_he_ha.agent.collect import decode_slots
from ovirt_he_ha.broker.protocol import FaultCode
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import EngineStatus, Health, Invalid, LockspaceState, Record, Vm
from ovirt_he_ha.storage import io_process
from ovirt_he_ha.storage.errors import StorageError
from tests.broker.fakes import missing
from tests.broker.test_handlers import Bench
from tests.broker.test_whiteboard import Board
from tests.core.world import World, peer


def record(host_id, timestamp=100, **more):
    engine = EngineStatus(Vm.DOWN, Health.BAD, "Down")
    return slot.encode(Record(host_id, timestamp, 3400, engine, f"host{host_id}", **more), 0.0)


def with_crc(*fields):
    texts = [*fields[:9], "00000000", *fields[10:]]
    texts[9] = f"{crc32('|'.join(texts).encode()):08x}"
    return "|".join(texts).encode().ljust(4096, b"\0")


@pytest.fixture
def made():
    return Board()


@pytest.fixture
def bench():
    return Bench()


def decoded(board):
    board.tick(10.0)
    return decode_slots(board.board.slots())


def test_w14_a_byte_that_is_no_text_is_one_bad_host(made):
    for host_id in (1, 2, 3):
        made.volume.put(host_id, record(host_id))
    made.volume.data[2 * 4096 + 30] = 0xFF
    found = decoded(made)
    assert isinstance(found[2], Invalid)
    assert isinstance(found[1], Record) and isinstance(found[3], Record)
    assert made.board.storage(made.clock.now).state == "ok"


def test_w14_not_even_with_a_right_checksum():
    """The record of a host whose name is in Latin-1."""
    line = b"1|1|100|2|3400|null|h\xf6st|0|0|%b|1|0"
    data = (line % (b"%08x" % crc32(line % b"00000000"))).ljust(4096, b"\0")
    found = decode_slots({1: record(1), 2: data, 3: record(3)})
    assert isinstance(found[2], Invalid) and found[2].reason == "encoding"
    assert isinstance(found[1], Record) and isinstance(found[3], Record)


def test_w15_a_character_of_many_bytes_moves_no_other_slot(made):
    for host_id in (1, 2, 3):
        made.volume.put(host_id, record(host_id))
    made.volume.put(2, record(2)[:600] + "é€𝄞".encode() * 20)
    found = decoded(made)
    assert [found[host_id].host_id for host_id in (1, 3)] == [1, 3]


@pytest.mark.parametrize(
    "status",
    [
        "{}",
        "[]",
        "0",
        "nonsense",
        '{"vm": "migrating", "health": "starting", "detail": "x"}',
        '{"vm": 1, "health": []}',
        '{"vm": "up", "health": "unknown", "detail": "x"}',
    ],
)
def test_w16_a_malformed_status_of_one_host_stops_nobody(status):
    world = World()
    world.slots.update(decode_slots({2: with_crc("1", "1", "100", "2", "3400", status, "h2", "0", "0", "", "1", "0")}))
    assert world.step(10.0).state in list(type(world.carried.state))
    assert world.step(10.0).record is not None


@pytest.mark.parametrize("place", [2, 4, 7, 8, 10, 11])
def test_w16_a_word_in_the_place_of_a_number_is_one_bad_host(place):
    fields = ["1", "1", "100", "2", "3400", "null", "h2", "0", "0", "", "1", "0"]
    fields[place] = "many"
    found = decode_slots({2: with_crc(*fields), 3: record(3)})
    assert isinstance(found[2], Invalid) and found[2].reason == "integer"
    assert isinstance(found[3], Record)


@pytest.mark.parametrize("flag", [b"maintenance=perhaps", b"maintenance=", b"\xff\xfe", b"===\n|||"])
def test_w16_a_global_flag_that_is_nonsense_is_unknown(flag):
    assert slot.decode_global(flag.ljust(4096, b"\0")).value is None


def test_w17_writes_from_all_sides_lose_nothing(made):
    made.tick()
    for turn in range(30):
        flag = b"maintenance=%d" % (turn % 2)
        wanted = ((1, record(1, turn)), (0, flag), (1, record(1, 1000 + turn)))
        threads = [threading.Thread(target=made.board.write, args=each) for each in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made.volume.slot(0).rstrip(b"\0") == flag
        assert made.volume.slot(1) in (record(1, turn), record(1, 1000 + turn))


def test_w18_the_global_flag_needs_no_host_id(bench):
    assert bench.lockspaces.wanted is None
    assert bench.call("put_stats", 0, b"maintenance=1") == "ok"
    assert bench.volume.slot(0).startswith(b"maintenance=1")


def test_w19_a_flag_that_another_host_overwrites_meanwhile_is_not_acknowledged(made):
    made.tick()

    def other_host(offset):
        if offset == 0 and made.volume.slot(0).startswith(b"maintenance=1"):
            made.volume.put(0, b"maintenance=0")

    made.volume.before_read = other_host
    with pytest.raises(StorageError) as caught:
        made.board.write(0, b"maintenance=1")
    assert caught.value.code == "not-stored"


@pytest.mark.parametrize(
    ("host_id", "data", "code"),
    [
        (7, record(7), FaultCode.NOT_OWNER),
        (2001, record(1), FaultCode.ARGUMENT),
        (-1, record(1), FaultCode.ARGUMENT),
        (1, record(1) + b"x", FaultCode.ARGUMENT),
        (1, "text", FaultCode.ARGUMENT),
        (1, record(2), FaultCode.ARGUMENT),
    ],
)
def test_w20_only_the_own_slot_of_one_sector_is_written(bench, host_id, data, code):
    bench.call("lock_host_id", 1)
    bench.board.tick()
    before = bytes(bench.volume.data)
    assert bench.fault("put_stats", host_id, data) is code
    assert bytes(bench.volume.data) == before
    with pytest.raises(ValueError, match="4097"):
        bench.board.write(1, bytes(4097))


def test_w21_a_removed_host_leaves_the_view_with_the_next_read(made):
    made.volume.put(5, record(5))
    made.tick()
    assert 5 in made.board.slots()
    made.volume.put(5, b"")
    made.tick(10.0)
    assert 5 not in made.board.slots()


def test_w22_what_was_not_written_is_not_served(bench):
    bench.call("lock_host_id", 1)
    bench.board.tick()
    bench.volume.problem = missing()
    assert bench.fault("put_stats", 1, record(1)) is FaultCode.STORAGE
    assert "1" not in bench.call("get_stats")


def test_w23_a_lost_host_id_is_a_fault_and_not_silence(bench):
    bench.call("lock_host_id", 1)
    bench.board.tick()
    lost = replace(bench.lockspaces.current.whiteboard, value=LockspaceState.NOT_HELD)
    bench.lockspaces.current = replace(bench.lockspaces.current, whiteboard=lost)
    assert bench.fault("put_stats", 1, record(1)) is FaultCode.NOT_HELD


@pytest.mark.parametrize("state", [LockspaceState.ID_TAKEN, LockspaceState.NO_DAEMON, LockspaceState.ERROR])
def test_w24_a_host_id_that_is_not_had_is_a_fault(bench, state):
    bench.lockspaces.stuck = state
    assert bench.fault("lock_host_id", 1) is FaultCode.LOCKSPACE


def test_w25_three_hosts_cost_the_reading_of_a_few_slots_and_a_write_that_of_one(made):
    for host_id in (1, 2, 3):
        made.volume.put(host_id, record(host_id))
    made.tick(listed={1, 2, 3})
    made.read_slots()
    for _ in range(10):
        made.tick(10.0, listed={1, 2, 3})
        assert len(made.read_slots()) <= 4
    made.board.write(1, record(1, 7))
    assert made.read_slots() == {1}


def test_w26_old_bytes_beyond_the_first_megabyte_are_bad_hosts_and_nothing_else(made):
    noise = bytes(range(1, 256)) * 17
    for host_id in range(256, 2001, 7):
        made.volume.put(host_id, noise[:4096])
    made.volume.put(1, record(1))
    found = decoded(made)
    assert isinstance(found[1], Record)
    assert all(isinstance(each, Invalid) for host_id, each in found.items() if host_id >= 256)
    world = World()
    world.slots.update({host_id: each for host_id, each in found.items() if host_id > 3})
    world.run(70, every=10.0)
    assert world.decision.action is not None  # silent for the liveness limit: they keep nobody from starting


def test_w27_a_record_in_another_hosts_slot_is_bad():
    found = slot.decode(3, record(2))
    assert isinstance(found, Invalid) and (found.reason, found.detail) == ("foreign-id", "2")


def test_w28_a_short_write_is_repeated_or_an_error(tmp_path, monkeypatch):
    path = tmp_path / "volume"
    path.write_bytes(bytes(8192))
    monkeypatch.setattr(io_process.os, "pwritev", lambda *_: 512)
    with pytest.raises(io_process.IoFailure) as caught:
        io_process.direct_write(str(path), 4096, record(1))
    assert caught.value.code == "short-write"


def test_w29_a_separator_in_a_text_makes_no_field():
    odd = replace(peer(2, extra=()), hostname="a|b\nc\0d", engine=EngineStatus(Vm.UP, Health.BAD, "x|y", "w|z\n"))
    found = slot.decode(2, slot.encode(odd, 0.0))
    assert isinstance(found, Record)
    assert (found.score, found.stopped, found.engine.vm) == (3400, False, Vm.UP)
    assert "|" not in found.hostname + found.engine.detail + found.engine.reason


@pytest.mark.parametrize("data", [b"maintenance=1\nother=1", b"maintenance=1other=1", b"other=1"])
def test_w29_the_global_slot_takes_one_key(bench, data):
    assert bench.fault("put_stats", 0, data) is FaultCode.ARGUMENT
