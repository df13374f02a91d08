"""A volume that shows the past, or another cluster's data, or answers late: named, and nothing of it believed."""

import pytest

from ovirt_he_ha.broker.own_slot import BLANK, OWN_RECORDS, OwnSlot
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue
from tests.broker.test_whiteboard import TIMERS, Board, record


@pytest.fixture
def made():
    board = Board()
    board.opened = 0
    real = board.volume.open

    def count():
        board.opened += 1
        return real()

    board.board._open_volume = count
    return board


def state(made):
    return made.board.storage(made.clock.now).state


def test_old_data_is_named_and_the_view_grows_old(made):
    made.volume.put(2, record(2, timestamp=50))
    made.tick()
    for timestamp in (100, 110, 120):
        made.board.write(1, record(1, timestamp=timestamp))
        made.tick(10.0)
    seen = made.board.slots()
    made.volume.put(1, record(1, timestamp=100))  # the whole volume went back to an earlier moment
    made.volume.put(2, record(2, timestamp=40))
    made.volume.put(0, b"maintenance=0")
    made.tick(10.0)
    assert state(made) == "old-data"
    assert made.board.slots() == seen
    assert made.board.slots_age(made.clock.now) == 10.0
    assert not made.board.publish(made.clock.now).overwritten
    made.tick(60.0)
    assert made.board.slots_age(made.clock.now) == 70.0


def test_old_data_is_believed_again_once_our_own_record_is_back(made):
    made.tick()
    for timestamp in (100, 110):
        made.board.write(1, record(1, timestamp=timestamp))
    made.volume.put(1, record(1, timestamp=100))
    made.tick(10.0)
    assert state(made) == "old-data"
    made.board.write(1, record(1, timestamp=120))
    made.tick(10.0)
    assert state(made) == "ok"
    assert made.board.slots_age(made.clock.now) == 0.0


def test_a_write_that_reads_back_as_an_older_one_is_not_acknowledged(made):
    made.tick()
    for timestamp in (100, 110):
        made.board.write(1, record(1, timestamp=timestamp))
    made.volume.put(1, record(1, timestamp=100))
    made.volume.lying = True
    with pytest.raises(StorageError) as caught:
        made.board.write(1, record(1, timestamp=120))
    assert caught.value.code == "old-data"
    facts = made.board.publish(made.clock.now)
    assert (facts.problem, facts.overwritten) == ("old-data", False)


def test_a_blank_slot_is_not_our_past_but_somebodys_cleaning(made):
    made.tick()
    made.board.write(1, record(1, timestamp=100))
    made.board.write(1, b"")
    made.board.write(1, record(1, timestamp=110))
    made.volume.put(1, b"")
    made.tick(10.0)
    assert state(made) == "ok"
    assert made.board.publish(made.clock.now).overwritten


def test_another_hosts_record_that_comes_twice_is_not_our_past(made):
    made.tick()
    for timestamp in (100, 110):
        made.board.write(1, record(1, timestamp=timestamp))
        made.volume.put(1, b"somebody else")
        made.tick(10.0)
        assert state(made) == "ok"
        assert made.board.publish(made.clock.now).overwritten


def test_the_past_that_is_remembered_is_bounded():
    own = OwnSlot()
    for number in range(OWN_RECORDS + 100):
        own.put(b"%d" % number)
    own.put(BLANK)
    assert len(own.older) == OWN_RECORDS
    assert own.is_old(b"%d" % (OWN_RECORDS + 99))
    assert not own.is_old(b"0")


@pytest.mark.parametrize("code", ["missing", "stale", "not-a-volume", "too-small", "no-access"])
def test_what_was_away_is_looked_at_again_before_it_is_used(made, code):
    """The same path may hold another cluster's volume when it comes back: nothing may be written there."""
    made.tick()
    assert made.opened == 1
    made.volume.problem = StorageError(code, "/volume")
    made.tick(10.0)
    made.volume.problem = None
    refused = StorageError("metadata", "/domain")
    made.board._open_volume = lambda: (_ for _ in ()).throw(refused)
    before = bytes(made.volume.data)
    made.tick(10.0)
    with pytest.raises(StorageError) as caught:
        made.board.write(1, record(1))
    assert caught.value is refused
    assert state(made) == "metadata"
    assert bytes(made.volume.data) == before


def test_an_overdue_answer_alone_asks_nothing_more_of_the_storage(made):
    made.tick()
    made.volume.problem = StorageOverdue("overdue", "/volume")
    made.tick(10.0)
    made.volume.problem = None
    made.tick(10.0)
    assert (made.opened, state(made)) == (1, "ok")


def test_the_domain_is_looked_at_with_every_full_scan(made):
    made.tick()
    made.tick(10.0)
    assert made.opened == 1
    made.tick(TIMERS.full_scan)
    assert made.opened == 2


def test_what_a_slow_read_showed_is_as_old_as_its_beginning(made):
    """A peer that wrote while the read went on must not look silent for as long as the read took."""

    def slow(_offset):
        made.clock.now += 4.0

    made.volume.before_read = slow
    made.tick()
    chunks = len({offset for kind, offset, _ in made.volume.transfers if kind == "read"})
    assert made.board.slots_age(made.clock.now) == 4.0 * chunks
