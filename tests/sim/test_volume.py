"""Every way in which a host's path to the slots can be ill."""

from random import Random
from typing import List, Tuple

import pytest

from ovirt_he_ha.core.model import SLOT_SIZE
from ovirt_he_ha.sim.clock import Scope, Timeline, ns
from ovirt_he_ha.sim.volume import BLANK, FOREVER, Door, Path, SlotBytes, Volume
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue

ONE = b"1" * SLOT_SIZE
TWO = b"2" * SLOT_SIZE


class Bench:
    def __init__(self) -> None:
        self.timeline = Timeline()
        self.volume = Volume()
        self.path = Path(Random("path"), 0.001)
        self.scope = Scope()
        self.door = Door(self.volume, self.path, self.timeline, 1, self.scope)
        self.written: List[Tuple[int, int]] = []
        self.volume.on_write = lambda writer, slot, data: self.written.append((writer, slot))

    def write(self, slot: int, data: bytes) -> None:
        self.door.write(slot * SLOT_SIZE, data, 5.0)

    def read(self, slot: int, count: int = 1) -> bytes:
        return self.door.read(slot * SLOT_SIZE, count * SLOT_SIZE, 5.0)


def test_what_was_written_is_read_and_takes_its_time() -> None:
    bench = Bench()
    bench.write(7, ONE)
    assert bench.read(7) == ONE
    assert bench.written == [(1, 7)]
    assert 0 < bench.timeline.lag < ns(0.1)


def test_many_slots_are_read_at_once_and_cut_without_copies() -> None:
    bench = Bench()
    bench.write(3, ONE)
    data = bench.read(2, 4)
    assert isinstance(data, SlotBytes) and len(data) == 4 * SLOT_SIZE
    assert data[SLOT_SIZE : 2 * SLOT_SIZE] is bench.volume.get(3)
    assert data[:SLOT_SIZE] == BLANK
    assert data[SLOT_SIZE - 2 : SLOT_SIZE + 2] == b"\0\0" + b"11"


@pytest.mark.parametrize("operation", ["read", "write"])
def test_errors_have_their_code(operation: str) -> None:
    bench = Bench()
    bench.path.trouble.read_error = bench.path.trouble.write_error = "io"
    with pytest.raises(StorageError) as error:
        bench.read(1) if operation == "read" else bench.write(1, ONE)
    assert error.value.code == "io"
    assert not bench.written


def test_a_hang_is_given_up_at_the_deadline_and_no_third_process_hangs() -> None:
    bench = Bench()
    bench.path.trouble.hang_reads_until = FOREVER
    for _ in range(2):
        with pytest.raises(StorageOverdue):
            bench.read(1)
    assert bench.timeline.lag == ns(10.0)
    with pytest.raises(StorageOverdue) as error:
        bench.read(1)
    assert error.value.code == "stuck"
    assert bench.timeline.lag == ns(10.0)


def test_a_hang_that_ends_in_time_is_a_slow_answer() -> None:
    bench = Bench()
    bench.volume.put(0, 1, ONE)
    bench.path.trouble.hang_reads_until = ns(3.0)
    assert bench.read(1) == ONE
    assert ns(3.0) <= bench.timeline.lag < ns(3.1)


def test_a_write_that_was_given_up_arrives_when_the_hang_ends() -> None:
    bench = Bench()
    bench.path.trouble.hang_writes_until = ns(60.0)
    with pytest.raises(StorageOverdue):
        bench.write(1, ONE)
    assert bench.door.late_writes() == (SLOT_SIZE,)
    bench.volume.put(0, 1, TWO)
    bench.timeline.run(ns(59.0))
    assert bench.volume.get(1) == TWO
    bench.timeline.run(ns(61.0))
    assert bench.volume.get(1) == ONE
    assert bench.door.late_writes() == ()


def test_the_end_of_the_machine_takes_its_hanging_writes_with_it() -> None:
    bench = Bench()
    bench.path.trouble.hang_writes_until = ns(60.0)
    with pytest.raises(StorageOverdue):
        bench.write(1, ONE)
    bench.scope.end()
    bench.timeline.run(ns(100.0))
    assert bench.volume.get(1) == BLANK


def test_a_torn_write_is_new_at_its_beginning_and_old_at_its_end() -> None:
    bench = Bench()
    bench.write(1, ONE)
    bench.path.trouble.torn = True
    bench.write(1, TWO)
    found = bench.read(1)
    assert found[:512] == TWO[:512] and found[-512:] == ONE[-512:]


def test_a_lost_write_is_good_and_never_there() -> None:
    bench = Bench()
    bench.path.trouble.lost = True
    bench.write(1, ONE)
    assert bench.read(1) == BLANK and not bench.written


def test_stale_reads_show_the_past() -> None:
    bench = Bench()
    bench.write(1, ONE)
    bench.path.trouble.stale = dict(bench.volume.slots)
    bench.write(1, TWO)
    assert bench.read(1) == ONE
    bench.path.trouble.stale = None
    assert bench.read(1) == TWO


def test_rot_flips_bits_and_tells_nobody() -> None:
    bench = Bench()
    bench.write(1, ONE)
    bench.written.clear()
    bench.volume.damage(1, Random("rot"), 3)
    differing = sum(bin(a ^ b).count("1") for a, b in zip(bench.volume.get(1), ONE))
    assert 1 <= differing <= 3 and not bench.written


def test_an_access_slower_than_its_deadline_is_overdue() -> None:
    bench = Bench()
    bench.path.trouble.latency = 6.0
    with pytest.raises(StorageOverdue):
        bench.read(1)
    assert bench.timeline.lag == ns(5.0)
