"""Which slots are read and when, what readers see, and what becomes of writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker.slot_reads import CHUNK, runs
from ovirt_he_ha.broker.whiteboard import Whiteboard
from ovirt_he_ha.core.model import EngineStatus, Health, Record, Vm
from ovirt_he_ha.core.slot import encode
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue
from tests.broker.fakes import ManualClock, MemoryVolume, missing

TIMERS = Timers()


def record(host_id, vm=Vm.DOWN, health=Health.BAD, timestamp=100, **more):
    return encode(
        Record(
            host_id=host_id,
            timestamp=timestamp,
            score=3400,
            engine=EngineStatus(vm, health, "Up" if vm is Vm.UP else "Down"),
            hostname=f"host{host_id}",
            **more,
        ),
        0.0,
    )


class Board:
    def __init__(self, host_id=1):
        self.clock = ManualClock()
        self.volume = MemoryVolume()
        self.changes = 0
        self.latencies = []
        self.board = Whiteboard(
            self.volume.open,
            host_id,
            self.clock,
            TIMERS,
            on_change=self.changed,
            on_read=lambda seconds, why: self.on_read(seconds, why),
        )

    def on_read(self, seconds, why):
        self.latencies.append((seconds, why))

    def changed(self):
        self.changes += 1

    def tick(self, after=0.0, **arguments):
        self.clock.now += after
        return self.board.tick(**arguments) - self.clock.now

    def read_slots(self):
        """Slots covered by reads since the last call."""
        transfers, self.volume.transfers = self.volume.transfers, []
        return {
            slot
            for kind, offset, length in transfers
            if kind == "read"
            for slot in range(offset // 4096, (offset + length) // 4096)
        }


@pytest.fixture
def made():
    return Board()


# --- which slots, and when ----------------------------------------------------------------------------------------


def test_the_first_read_covers_everything(made):
    made.tick()
    assert made.read_slots() == set(range(2001))


def test_later_reads_cover_what_is_listed_used_own_and_global(made):
    made.volume.put(900, record(900))
    made.tick(listed={1, 40})
    made.read_slots()
    made.tick(2.0, listed={1, 40})
    assert {0, 1, 40, 900} <= made.read_slots() <= set(range(41)) | {900}


def test_a_change_of_sanlocks_list_scans_everything(made):
    made.tick(listed={1})
    made.read_slots()
    made.tick(2.0, listed={1, 7})
    assert made.read_slots() == set(range(2001))


def test_a_list_that_cannot_be_had_changes_nothing(made):
    made.tick(listed={1, 40})
    made.read_slots()
    made.tick(2.0, listed=None)
    assert 40 in made.read_slots()


def test_everything_is_scanned_again_after_full_scan(made):
    made.tick(listed=())
    made.read_slots()
    made.volume.put(1500, record(1500))
    made.tick(TIMERS.full_scan - 1, listed=())
    assert 1500 not in made.read_slots()
    made.tick(TIMERS.slot_read_well, listed=())
    assert 1500 in made.board.slots()


def test_a_volume_that_ends_too_early_is_named(made):
    made.volume.data = made.volume.data[: 100 * 4096]
    made.tick()
    assert made.board.storage(made.clock.now).state == "too-small"


def test_read_often_while_the_engine_is_not_well(made):
    made.tick()
    assert made.tick(1.0) == pytest.approx(TIMERS.slot_read_alert - 1.0)
    made.read_slots()
    made.tick(1.0)
    assert made.read_slots()


def test_read_seldom_while_the_engine_is_well(made):
    made.volume.put(2, record(2, Vm.UP, Health.GOOD))
    made.tick()
    made.read_slots()
    for _ in range(4):
        assert made.tick(2.0) <= TIMERS.slot_read_alert
        assert not made.read_slots()
    made.tick(2.0)
    assert made.read_slots()


@pytest.mark.parametrize("ill", ["silent", "stopped", "bad", "alert"])
def test_what_counts_as_not_well(made, ill):
    made.volume.put(2, record(2, Vm.UP, Health.BAD if ill == "bad" else Health.GOOD, stopped=ill == "stopped"))
    made.tick()
    if ill == "silent":
        made.tick(31.0)
    made.read_slots()
    made.tick(2.0, alert=ill == "alert")
    assert made.read_slots()


def test_global_maintenance_needs_no_haste(made):
    made.volume.put(0, b"maintenance=1")
    made.tick()
    made.read_slots()
    made.tick(2.0)
    assert not made.read_slots()


def test_our_own_bad_news_starts_haste_at_once(made):
    made.volume.put(1, record(1, Vm.UP, Health.GOOD))
    made.tick()
    made.board.write(1, record(1, Vm.DOWN, timestamp=101))
    made.read_slots()
    made.tick(2.0)
    assert made.read_slots()


@given(st.sets(st.integers(0, 2000)))
def test_runs_cover_all_ids_in_bounded_reads(ids):
    found = runs(ids)
    covered = [slot for first, count in found for slot in range(first, first + count)]
    assert ids <= set(covered)
    assert covered == sorted(set(covered))
    assert all(1 <= count <= CHUNK for _first, count in found)
    assert {first for first, _count in found} <= ids


@pytest.mark.parametrize("ids", [range(2001), range(CHUNK), range(3, CHUNK + 4), range(5, 6), range(7, 7)])
def test_the_whole_volume_is_read_in_the_same_pieces_as_its_list(ids):
    assert runs(ids) == runs(list(ids))


# --- what readers see ---------------------------------------------------------------------------------------------


def test_nothing_is_served_before_the_first_read(made):
    assert made.board.slots() == {}
    assert made.board.slots_age(made.clock.now) is None
    assert made.board.storage(made.clock.now).state == "starting"


def test_a_host_that_left_the_volume_leaves_the_view(made):
    made.volume.put(5, record(5))
    made.tick()
    assert 5 in made.board.slots()
    made.volume.put(5, b"")
    made.tick(2.0)
    assert 5 not in made.board.slots()


def test_a_view_that_was_handed_out_does_not_change(made):
    made.volume.put(5, record(5))
    made.tick()
    view = made.board.slots()
    made.volume.put(5, record(5, timestamp=101))
    made.tick(2.0)
    assert view[5] == record(5)
    with pytest.raises(TypeError):
        view[5] = b""


@given(st.binary(min_size=1, max_size=4096))
def test_any_bytes_in_any_slot_are_one_bad_host(data):
    made = Board()
    made.volume.put(2, record(2, Vm.UP, Health.GOOD))
    made.volume.put(3, data)
    made.tick()
    assert made.board.slots()[2] == record(2, Vm.UP, Health.GOOD)
    assert made.board.slots().get(3, b"").rstrip(b"\0") in (data.rstrip(b"\0"), b"")
    assert made.board.storage(made.clock.now).state == "ok"


def test_a_new_timestamp_wakes_nobody_a_new_meaning_does(made):
    made.volume.put(2, record(2, timestamp=100))
    made.tick()
    before = made.changes
    made.volume.put(2, record(2, timestamp=110))
    made.tick(2.0)
    assert made.changes == before
    made.volume.put(2, record(2, Vm.UP, Health.GOOD, timestamp=120))
    made.tick(2.0)
    assert made.changes == before + 1


def test_the_global_flag_wakes(made):
    made.tick()
    before = made.changes
    made.board.write(0, b"maintenance=1")
    assert made.changes == before + 1


def test_age_of_the_view(made):
    made.tick()
    made.clock.now += 7
    assert made.board.slots_age(made.clock.now) == 7


def test_age_of_a_slot_that_changed_and_none_of_one_that_was_only_found(made):
    made.volume.put(2, record(2, timestamp=100))
    made.volume.put(3, record(3, timestamp=100))
    made.tick()
    assert made.board.slot_ages(made.clock.now) == {}
    made.volume.put(2, record(2, timestamp=110))
    made.tick(2.0)
    made.tick(3.0)
    assert made.board.slot_ages(made.clock.now) == {2: 3.0}


# --- storage that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["missing", "too-small", "read-only", "sector-size"])
def test_a_volume_that_does_not_open_is_a_named_state_and_retried(made, code):
    made.volume.problem = StorageError(code, "/volume")
    assert made.tick() == pytest.approx(TIMERS.slot_read_alert)
    assert made.board.storage(made.clock.now).state == code
    assert made.board.slots() == {}
    made.volume.problem = None
    made.tick(2.0)
    assert made.board.storage(made.clock.now).state == "ok"
    assert set(made.board.slots()) == {0, 1}


def test_storage_that_goes_leaves_an_ageing_view(made):
    made.volume.put(2, record(2))
    made.tick()
    made.volume.problem = missing()
    made.tick(2.0)
    made.clock.now += 3
    assert made.board.slots()[2] == record(2)
    assert made.board.slots_age(made.clock.now) == 5
    assert made.board.storage(made.clock.now).state == "missing"
    assert made.latencies[-1] == (None, "missing")


def test_failing_wakes_once(made):
    made.tick()
    before = made.changes
    made.volume.problem = missing()
    for _ in range(5):
        made.tick(2.0)
    assert made.changes == before + 1


def test_a_write_that_fails_again_and_again_wakes_once(made):
    """Who is woken writes again at once: a volume that is away must not make that a loop."""
    made.tick()
    before = made.changes
    made.volume.problem = StorageError("read-only", "/volume")
    for _ in range(20):
        with pytest.raises(StorageError):
            made.board.write(1, record(1))
    assert made.changes == before + 1


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_write_is_on_the_volume_when_it_returns_and_in_the_view(made):
    made.tick()
    made.board.write(1, record(1))
    assert made.volume.slot(1) == record(1)
    assert made.board.slots()[1] == record(1)
    made.clock.now += 4
    assert made.board.publish(made.clock.now).last_written_age == 4


@pytest.mark.parametrize(("scale", "wall"), [(1.0, 5.0), (10.0, 1.0), (20.0, 1.0)])
def test_the_transfers_of_a_write_share_a_deadline_of_a_wall_second_at_the_least(made, monkeypatch, scale, wall):
    made.clock.scale = scale
    made.tick()
    made.board.write(1, record(1))
    deadlines = []

    def noted(transfer):
        def call(offset, what, deadline):
            deadlines.append(deadline / scale)
            made.clock.now += 0.3 * scale
            return transfer(offset, what, deadline)

        return call

    for name in ("read", "write"):
        monkeypatch.setattr(made.volume, name, noted(getattr(made.volume, name)))
    made.board.write(1, record(1, timestamp=101))
    assert deadlines == pytest.approx([wall, wall - 0.3, wall - 0.6])


def test_thirty_times_slot_1_0_1_back_to_back_loses_nothing(made):
    made.tick()
    for turn in range(30):
        flag = b"maintenance=%d" % (turn % 2)
        made.board.write(1, record(1, timestamp=2 * turn))
        made.board.write(0, flag)
        made.board.write(1, record(1, timestamp=2 * turn + 1))
        assert made.volume.slot(0).rstrip(b"\0") == flag
        assert made.volume.slot(1) == record(1, timestamp=2 * turn + 1)


def test_a_write_that_is_short_is_padded_and_neighbours_stay(made):
    made.volume.put(1, b"x" * 4096)
    made.volume.put(2, b"y" * 4096)
    made.board.write(1, b"short")
    assert made.volume.slot(1) == b"short".ljust(4096, b"\0")
    assert made.volume.slot(2) == b"y" * 4096


def test_a_write_that_is_too_long_is_refused(made):
    with pytest.raises(ValueError, match="4097"):
        made.board.write(1, bytes(4097))
    assert not made.volume.transfers


def test_a_volume_that_lies_is_found_out(made):
    made.tick()
    made.volume.lying = True
    with pytest.raises(StorageError) as caught:
        made.board.write(1, record(1))
    assert caught.value.code == "not-stored"
    facts = made.board.publish(made.clock.now)
    assert (facts.problem, facts.overwritten, facts.last_written_age) == ("not-stored", True, None)
    assert made.board.slots()[1] == bytes(4096)


def test_a_failed_write_is_not_served(made):
    made.tick()
    made.volume.problem = missing()
    with pytest.raises(StorageError):
        made.board.write(0, b"maintenance=1")
    assert made.board.slots()[0] == bytes(4096)
    assert made.board.publish(made.clock.now).problem == ""


def test_a_volume_that_cannot_be_written_is_a_named_state(made):
    made.tick()
    made.volume.problem = StorageError("read-only", "/volume")
    with pytest.raises(StorageError):
        made.board.write(0, b"maintenance=1")
    made.volume.problem = None
    made.tick(2.0)
    assert made.board.storage(made.clock.now).state == "read-only"
    made.board.write(0, b"maintenance=1")
    assert made.board.storage(made.clock.now).state == "ok"


def test_a_good_write_clears_the_problem(made):
    made.volume.problem = missing()
    with pytest.raises(StorageError):
        made.board.write(1, record(1))
    assert made.board.publish(made.clock.now).problem == "missing"
    made.volume.problem = None
    made.board.write(1, record(1))
    assert made.board.publish(made.clock.now).problem == ""


@pytest.mark.parametrize("seen_by", ["read", "write", "write that reads all"])
def test_a_foreign_write_into_our_slot_is_said(made, seen_by):
    made.volume.put(2, record(2, Vm.UP, Health.GOOD))
    made.tick()
    made.board.write(1, record(1))
    made.volume.put(1, b"somebody else")
    assert not made.board.publish(made.clock.now).overwritten
    if seen_by == "read":
        made.tick(11.0)
    else:
        made.clock.now += 10.1 if seen_by == "write that reads all" else 0.0
        made.board.write(1, record(1, timestamp=101))
    assert made.board.publish(made.clock.now).overwritten
    made.board.write(1, record(1, timestamp=102))
    made.clock.now += 61
    made.tick()
    assert not made.board.publish(made.clock.now).overwritten


def test_a_look_that_failed_before_a_write_is_made_up_for(made):
    made.volume.put(2, record(2, Vm.UP, Health.GOOD))
    made.tick()
    made.board.write(1, record(1))
    made.volume.put(1, b"somebody else")
    made.clock.now += 10.1
    failed = []

    def fail_once(_offset):
        if not failed:
            failed.append(1)
            raise StorageError("io", "/volume")

    made.volume.before_read = fail_once
    made.board.write(1, record(1, timestamp=101))
    assert failed
    assert made.board.publish(made.clock.now).overwritten


def cycles(made, count):
    """The agent publishes every 10.1 s and the broker looks every 2; the bytes moved in one cycle."""
    made.volume.transfers.clear()
    for number in range(count):
        made.clock.now += 10.1
        made.tick()  # whoever comes first: the write is never quite in time
        made.board.write(1, record(1, timestamp=1000 + number))
        made.volume.put(2, record(2, Vm.UP, Health.GOOD, timestamp=1000 + number))
        for _ in range(4):
            made.tick(2.0)
        made.clock.now -= 8.0
    return sum(length for _, _, length in made.volume.transfers) / count


def test_a_calm_cycle_moves_each_slot_once_and_our_own_twice_more(made):
    for host_id in (2, 3):
        made.volume.put(host_id, record(host_id, Vm.UP, Health.GOOD))
    made.tick()
    made.board.write(1, record(1))
    assert cycles(made, 1) <= 7 * 4096
    assert cycles(made, 6) == (4 + 1 + 1) * 4096  # all slots, the write, and its reading back


def test_a_write_that_reads_all_brings_news_of_others(made):
    made.volume.put(2, record(2, Vm.UP, Health.GOOD))
    made.tick()
    made.board.write(1, record(1))
    made.changes = 0
    made.volume.put(2, record(2, Vm.UP, Health.BAD, timestamp=101))
    made.clock.now += 10.1
    made.board.write(1, record(1, timestamp=101))
    assert made.board.slots()[2] == record(2, Vm.UP, Health.BAD, timestamp=101)
    assert made.board.slots_age(made.clock.now) == 0.0
    assert made.changes


@pytest.mark.parametrize("why", ["soon after a read", "engine not well", "scan due"])
def test_a_write_reads_its_own_slot_alone_when_the_others_are_not_due(made, why):
    made.volume.put(2, record(2, Vm.UP, Health.BAD if why == "engine not well" else Health.GOOD))
    made.tick()
    made.board.write(1, record(1))
    made.clock.now += {"soon after a read": 4.0, "engine not well": 10.1, "scan due": TIMERS.full_scan}[why]
    if why == "scan due":
        made.board.write(1, record(1, timestamp=101))
    made.read_slots()
    made.board.write(1, record(1, timestamp=102))
    assert made.read_slots() == {1}


def test_a_slot_that_cannot_be_read_keeps_no_other_from_being_written(made):
    made.volume.put(2, record(2, Vm.UP, Health.GOOD))
    made.tick()
    made.board.write(1, record(1))
    made.clock.now += 10.1
    broken = StorageError("io", "/volume", 5)

    def fail(offset):
        if offset == 0:
            raise broken

    made.volume.before_read = fail
    made.board.write(1, record(1, timestamp=101))
    assert made.volume.slot(1) == record(1, timestamp=101)
    assert made.board.storage(made.clock.now).state == "io"


def test_a_volume_that_hangs_is_waited_for_once_in_a_write(made):
    made.volume.put(2, record(2, Vm.UP, Health.GOOD))
    made.tick()
    made.board.write(1, record(1))
    made.clock.now += 10.1
    made.read_slots()
    reads = []

    def hang(offset):
        reads.append(offset)
        raise StorageOverdue("overdue", "/volume", detail="5 s")

    made.volume.before_read = hang
    with pytest.raises(StorageOverdue):
        made.board.write(1, record(1, timestamp=101))
    assert len(reads) == 1


def test_what_lay_in_our_slot_before_our_first_write_is_no_foreign_write(made):
    made.volume.put(1, record(1, timestamp=5))
    made.tick()
    made.board.write(1, record(1))
    made.tick(2.0)
    assert not made.board.publish(made.clock.now).overwritten


def test_a_write_during_a_scan_is_neither_hidden_nor_called_foreign(made):
    made.tick()
    made.board.write(1, record(1))
    made.clock.now += TIMERS.full_scan
    wrote = []

    def write_after_the_first_read(_seconds, _why):
        if not wrote:
            wrote.append(True)
            made.board.write(1, record(1, timestamp=999))
            made.board.write(0, b"maintenance=1")

    made.on_read = write_after_the_first_read
    made.tick()
    assert wrote
    assert made.board.slots()[1] == record(1, timestamp=999)
    assert made.board.slots()[0].startswith(b"maintenance=1")
    assert not made.board.publish(made.clock.now).overwritten


def test_a_write_that_was_given_up_and_arrives_late_is_not_foreign(made):
    made.tick()
    made.board.write(1, record(1))
    made.volume.problem = StorageError("overdue", "/volume")
    with pytest.raises(StorageError):
        made.board.write(1, record(1, timestamp=101))
    made.volume.problem = None
    made.volume.put(1, record(1, timestamp=101))
    made.tick(2.0)
    assert not made.board.publish(made.clock.now).overwritten


def test_close_lets_go_of_the_volume(made):
    made.tick()
    made.board.close(1.0)
    assert made.volume.closed


def test_d11_a_global_flag_that_a_write_in_the_kernel_may_still_undo_is_not_acknowledged(made):
    made.tick()
    made.volume.late = (0,)
    with pytest.raises(StorageOverdue) as error:
        made.board.write(0, b"maintenance=1")
    assert error.value.code == "late-write"
    made.board.write(1, record(1))
    made.volume.late = (4096,)
    made.board.write(0, b"maintenance=1")
    made.board.write(1, record(1, timestamp=101))
