"""An OVF_STORE that went back in time is noticed, over a restart too, and nothing is kept from anything by it."""

import json

import pytest

from ovirt_he_ha.storage.newest_store import NewestStore
from ovirt_he_ha.storage.ovf_store import Description, StoreVolume

NEW, OLD = (2026, 11, 20, 14, 30, 0), (2026, 11, 10, 9, 5, 0)


def stores(*dates):
    return [StoreVolume(f"/images/{number}", Description(date=date)) for number, date in enumerate(dates)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ovf-store.json"


@pytest.fixture
def seen(path):
    path.parent.mkdir()
    return NewestStore(path, "sd")


def test_newer_ones_and_the_same_are_in_order(seen):
    for dates in ((OLD,), (OLD, NEW), (NEW, OLD), (NEW,)):
        seen.note(stores(*dates))
        assert seen.problem() == ""


def test_what_went_back_is_told_until_something_newer_is_there(seen, path):
    seen.note(stores(OLD, NEW))
    seen.note(stores(OLD, (2026, 11, 9, 0, 0, 0)))
    for known in (seen, NewestStore(path, "sd"), NewestStore(path)):
        assert "2026-11-20 14:30" in known.problem() and "2026-11-10 09:05" in known.problem()
        assert "--accept-copy" in known.problem()
    seen.note(stores(OLD))
    assert seen.problem()
    seen.note(stores((2026, 11, 20, 14, 30, 1)))
    assert seen.problem() == ""


def test_on_purpose(seen):
    seen.note(stores(NEW))
    seen.note(stores(OLD))
    seen.forget()
    assert seen.problem() == ""
    seen.note(stores(OLD))
    assert seen.problem() == ""
    seen.forget()
    seen.forget()


def test_the_end_of_summer_time_is_no_step_back(seen):
    seen.note(stores((2026, 10, 25, 2, 59, 0)))
    seen.note(stores((2026, 10, 25, 2, 1, 0)))
    assert seen.problem() == ""


def test_another_domain_begins_anew(seen, path):
    seen.note(stores(NEW))
    other = NewestStore(path, "other")
    other.note(stores(OLD))
    assert other.problem() == ""


def test_nothing_is_written_while_nothing_changes(seen, path):
    seen.note(stores(NEW))
    before = path.stat().st_ino
    seen.note(stores(OLD, NEW))
    assert path.stat().st_ino == before


@pytest.mark.parametrize("date", [(), (2026, 13, 1, 0, 0, 0), (2026, 2, 30, 0, 0, 0), (99999, 1, 1, 0, 0, 0), (2026,)])
def test_dates_that_are_none(seen, path, date):
    seen.note(stores(date))
    assert seen.problem() == "" and not path.exists()
    seen.note(stores(NEW, date))
    assert seen.problem() == ""


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", json.dumps({"sd_uuid": "sd", "newest": 1, "now": "x"})])
def test_a_damaged_memory_is_none(seen, path, text):
    path.write_text(text)
    assert seen.problem() == ""
    seen.note(stores(OLD))
    assert seen.problem() == ""


def test_a_place_that_cannot_be_written(tmp_path):
    seen = NewestStore(tmp_path / "no" / "such" / "place", "sd")
    seen.note(stores(NEW))
    assert seen.problem() == ""
