"""Which sanlock held the lockspace, and what its death means for this host."""

from pathlib import Path

import pytest

from ovirt_he_ha.lease.reset_watch import MARGIN, ResetWatch

FIRES = 140.0


class ManualClock:
    scale = 1.0

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 0.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_the_first_one_and_the_same_one_are_no_news(clock: ManualClock) -> None:
    watch = ResetWatch(clock)
    for _ in range(3):
        watch.held_by("1:10", True, FIRES)
        assert watch.within() is None


def test_another_one_means_a_reset_until_it_would_have_come(clock: ManualClock) -> None:
    watch = ResetWatch(clock)
    watch.held_by("1:10", True, FIRES)
    watch.held_by("2:90", True, FIRES)
    assert watch.within() == FIRES + MARGIN
    clock.now += 100
    watch.held_by("2:90", True, FIRES)
    assert watch.within() == FIRES + MARGIN - 100
    clock.now += 50
    assert watch.within() is None


def test_without_a_watchdog_nothing_is_reset(clock: ManualClock) -> None:
    watch = ResetWatch(clock)
    watch.held_by("1:10", False, FIRES)
    watch.held_by("2:90", True, FIRES)
    assert watch.within() is None


def test_a_sanlock_that_had_given_back_its_lockspaces_leaves_nothing_behind(clock: ManualClock) -> None:
    watch = ResetWatch(clock)
    watch.held_by("1:10", True, FIRES)
    watch.left()
    watch.held_by("2:90", True, FIRES)
    assert watch.within() is None


def test_a_death_is_not_forgotten_by_a_later_orderly_end(clock: ManualClock) -> None:
    watch = ResetWatch(clock)
    watch.held_by("1:10", True, FIRES)
    watch.held_by("2:90", True, FIRES)
    watch.left()
    watch.held_by("3:95", True, FIRES)
    assert watch.within() == FIRES + MARGIN


def test_it_outlives_the_process_but_not_the_boot(clock: ManualClock, tmp_path: Path) -> None:
    path = tmp_path / "held.json"
    ResetWatch(clock, path, "boot-1").held_by("1:10", True, FIRES)
    heir = ResetWatch(clock, path, "boot-1")
    heir.held_by("2:90", True, FIRES)
    assert ResetWatch(clock, path, "boot-1").within() == FIRES + MARGIN
    assert ResetWatch(clock, path, "boot-2").within() is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"boot_id": "b"}', '{"boot_id": "b", "daemon": 1, "reset_by": "x"}']
)
def test_a_damaged_file_is_as_good_as_none(clock: ManualClock, tmp_path: Path, content: str) -> None:
    path = tmp_path / "held.json"
    path.write_text(content)
    watch = ResetWatch(clock, path, "b")
    assert watch.within() is None
    watch.held_by("1:10", True, FIRES)
    assert ResetWatch(clock, path, "b").within() is None


def test_a_directory_that_takes_no_file_costs_only_the_memory_of_the_next_process(clock: ManualClock) -> None:
    watch = ResetWatch(clock, Path("/nonexistent/held.json"), "b")
    watch.held_by("1:10", True, FIRES)
    watch.held_by("2:90", True, FIRES)
    assert watch.within() == FIRES + MARGIN
