"""A change of the archive that was cut off anywhere: the old archive or the new one, never a mixture."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.storage import archive
from ovirt_he_ha.storage.archive import (
    AREA,
    MEMBERS,
    SIZE,
    ArchiveError,
    build_archive,
    parse_archive,
    read_archive,
    restore_previous,
    write_archive,
)
from ovirt_he_ha.storage.archive_journal import HEAD, JOURNAL, SECTOR, entry, previous_copy, whole
from ovirt_he_ha.storage.io_process import IoFailure

OLD = {name: f"old {name} ".encode() * 60 for name in MEMBERS}
NEW = {**OLD, "hosted-engine.conf": b"new hosted-engine.conf " * 60, "broker.conf": b"short"}
THIRD = {**OLD, "broker.conf": b"theirs" * 200}


class PowerLoss(Exception):
    pass


class Volume:
    """In memory; the host loses its power after so many sectors were written."""

    def __init__(self, size=1 << 16, sectors=1 << 20):
        self.path = "/volume"
        self.data = bytearray(size)
        self.sectors = sectors
        self.written = []

    def read(self, length):
        if length > len(self.data):
            raise IoFailure("too-small")
        return bytes(self.data[:length])

    def write(self, data, offset):
        assert offset % 4096 == len(data) % 4096 == 0
        self.written.append((offset, len(data)))
        for at in range(0, len(data), SECTOR):
            if self.sectors == 0:
                raise PowerLoss
            self.sectors -= 1
            self.data[offset + at : offset + at + SECTOR] = data[at : at + SECTOR]


def volume(members=OLD, **more):
    made = Volume(**more)
    made.data[:SIZE] = build_archive(members)
    return made


def test_the_copy_before_the_last_change_is_kept():
    made = volume()
    write_archive(made, NEW)
    assert made.written == [(JOURNAL, HEAD + SIZE), (0, SIZE)]
    assert parse_archive(previous_copy(made.read(AREA))) == OLD
    assert read_archive(made) == NEW
    assert restore_previous(made) == (NEW, OLD)
    assert read_archive(made) == OLD
    assert restore_previous(made) == (OLD, NEW)


def test_nothing_is_kept_of_an_empty_volume_or_beside_a_small_one():
    made = Volume()
    write_archive(made, NEW)
    assert made.written == [(0, SIZE)]
    small = volume(size=SIZE)
    write_archive(small, NEW)
    assert read_archive(small) == NEW
    for each in (made, small):
        with pytest.raises(ArchiveError) as error:
            restore_previous(each)
        assert error.value.code == "no-copy"


def test_a_change_that_kept_no_copy_is_not_lost_unasked():
    made = volume()
    write_archive(made, NEW)
    made.data[:SIZE] = build_archive(THIRD)  # a writer that knows no journal
    before = bytes(made.data)
    with pytest.raises(ArchiveError) as error:
        restore_previous(made)
    assert (error.value.code, bytes(made.data)) == ("superseded", before)
    assert restore_previous(made, force=True) == (THIRD, OLD)
    assert restore_previous(made) == (OLD, THIRD)  # nor is it lost then


@pytest.mark.parametrize("damage", [bytes(SIZE), b"\xff" * SIZE, build_archive(NEW)[:4096].ljust(SIZE, b"x")])
def test_a_destroyed_archive_is_put_back_without_force(damage):
    made = volume()
    write_archive(made, NEW)
    made.data[:SIZE] = damage
    assert restore_previous(made) == ({}, OLD)
    assert read_archive(made) == OLD


def test_a_change_that_was_cut_off_is_undone_for_good():
    made = volume(sectors=(HEAD + SIZE) // SECTOR + 4)
    with contextlib.suppress(PowerLoss):
        write_archive(made, NEW)
    made.sectors = 1 << 20
    assert read_archive(made) == OLD
    assert restore_previous(made) == (OLD, OLD)
    assert parse_archive(bytes(made.data[:SIZE])) == OLD


@pytest.mark.parametrize("sectors", range((HEAD + 2 * SIZE) // SECTOR + 1))
def test_a_power_loss_at_any_moment_leaves_the_old_or_the_new(sectors):
    made = volume(sectors=sectors)
    with contextlib.suppress(PowerLoss):
        write_archive(made, NEW)
    found = read_archive(made)
    assert found in (OLD, NEW)
    if sectors <= (HEAD + SIZE) // SECTOR:
        assert found == OLD
    # The next change goes on from what was read, and a power loss in it hurts as little.
    for more in range(0, (2 * HEAD + 3 * SIZE) // SECTOR, 7):
        again = Volume(sectors=more)
        again.data[:] = made.data
        with contextlib.suppress(PowerLoss):
            write_archive(again, THIRD, previous=found)
        assert read_archive(again) in (found, THIRD)


@given(st.sets(st.integers(0, SIZE // SECTOR - 1)))
def test_sectors_that_arrive_in_any_order(arrived):
    made = volume()
    old, new = build_archive(OLD), build_archive(NEW)
    made.write(entry(old, new), JOURNAL)
    for number in arrived:
        made.data[number * SECTOR : (number + 1) * SECTOR] = new[number * SECTOR : (number + 1) * SECTOR]
    assert read_archive(made) in (OLD, NEW)


def test_what_a_writer_without_a_journal_wrote_counts():
    made = volume()
    write_archive(made, NEW)
    made.data[:SIZE] = build_archive(THIRD)
    assert read_archive(made) == THIRD
    made.data[:SIZE] = build_archive(OLD)
    assert read_archive(made) == OLD


def test_the_lock_is_looked_at_before_anything_is_written():
    made = volume()

    def lost():
        raise ArchiveError("lock-lost", "lost", "/volume")

    with pytest.raises(ArchiveError):
        write_archive(made, NEW, still=lost)
    assert made.written == []


@given(st.binary(min_size=0, max_size=200), st.integers(0, AREA))
def test_any_bytes_are_no_journal_or_a_good_one(put, at):
    made = volume()
    made.write(entry(build_archive(OLD), build_archive(NEW)), JOURNAL)
    made.data[at : at + len(put)] = put
    data = bytes(made.data[:AREA])
    assert previous_copy(data) in (None, build_archive(OLD))
    assert len(whole(data)) == SIZE


def test_without_the_journal_a_torn_archive_would_be_believed(monkeypatch):
    """What the rule is for."""
    monkeypatch.setattr(archive, "_keep", lambda *_: None)
    believed = []
    for sectors in range(SIZE // SECTOR):
        made = volume(sectors=sectors)
        with pytest.raises(PowerLoss):
            write_archive(made, {**OLD, "vm.conf": b"NEW vm.conf " * 60, "version": b"new version " * 50})
        try:
            believed.append(read_archive(made))
        except ArchiveError:
            continue
    assert any(each not in (OLD,) for each in believed)
