import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker.monitors.engine import (
    BadTime,
    Engine,
    PageProbe,
    PageSample,
    StatusTable,
    aged,
    engine_changed,
    page_changed,
)
from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.health_page import PageResult
from ovirt_he_ha.broker.monitors.process_times import ProcessTimes
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Exit, GuestCounters, Health, Reading, Vm

GOOD, BAD = PageResult(Health.GOOD), PageResult(Health.BAD, "timed out")


def here(detail="Up", **how):
    return EngineFacts(EngineStatus(Vm.UP, Health.UNKNOWN, detail), **how)


def gone(last_exit=Exit.NONE, reason="", detail="Down", **how):
    return EngineFacts(EngineStatus(Vm.DOWN, Health.UNKNOWN, detail, reason), last_exit=last_exit, **how)


class World:
    """An engine monitor whose libvirt and health page the test plays."""

    def __init__(self, clock, proc):
        self.clock = clock
        self.told = Reading()
        self.page = Reading()
        self.wanted = None
        self.engine = Engine(self, lambda: self.page, self._ask, clock, ProcessTimes(proc))

    def start(self, on_change):
        raise AssertionError("the monitor set starts the watch")

    def stop(self, deadline):
        raise AssertionError("the monitor set stops the watch")

    def facts(self):
        return self.told

    def _ask(self, copy):
        self.wanted = copy
        if copy is None:
            self.page = Reading.missing("no-vm", 0.0)

    def sees(self, facts, seconds=5.0):
        """Another look, ``seconds`` after the last one; a lasting verdict of the page is measured anew."""
        self.clock.now += seconds
        self.told = facts if isinstance(facts, Reading) else Reading.of(facts)
        return self.engine.measure()

    def answers(self, result):
        """The page answers the copy it was last asked for."""
        now = self.clock.now
        self.page = Reading.of(PageSample(self.wanted, now, now, result))

    def up(self, result, facts=None):
        """A look at a running VM, the page's answer, and another look."""
        with contextlib.suppress(Unmeasured):
            self.sees(facts or here())
        self.answers(result)
        return self.sees(facts or here(), 0.0)


@pytest.fixture
def world(hand_clock, tmp_path):
    return World(hand_clock, tmp_path)


def words(facts):
    return facts.status.vm.value, facts.status.health.value, facts.status.detail


# --- the first look -----------------------------------------------------------------------------------------------


def test_nothing_is_said_before_libvirt_told_something(world):
    with pytest.raises(Unmeasured) as problem:
        world.sees(Reading())
    assert problem.value.why == "not-yet"


def test_a_vm_found_running_is_unknown_until_its_page_answered_once(world):
    with pytest.raises(Unmeasured) as problem:
        world.sees(here())
    assert problem.value.why == "not-yet"
    world.answers(GOOD)
    assert words(world.sees(here())) == ("up", "good", "Up")


def test_a_paused_vm_is_said_at_once(world):
    facts = world.sees(here("Paused", paused_for=3.0, pause_reason="ioerror"))
    assert words(facts) == ("up", "bad", "Paused")
    assert facts.paused_for == 3.0
    assert world.wanted is None


def test_a_page_that_cannot_be_measured_does_not_hide_a_running_vm_for_ever(world):
    with pytest.raises(Unmeasured):
        world.sees(here())
    world.page = Reading.missing("no-address", 0.0)
    facts = world.sees(here(), 100.0)
    assert words(facts) == ("up", "bad", "Up")  # peers accept good or bad only
    assert facts.bad_for == 0.0  # and we know better than to count it


# --- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detail", ["Paused", "WaitForLaunch", "Restoring state", "Powering up"])
def test_row_6(world, detail):
    world.up(GOOD)
    assert words(world.sees(here(detail))) == ("up", "bad", detail)


@pytest.mark.parametrize(
    "detail", ["Up", "Migration Source", "Powering down", "RebootInProgress", "Saving State", "unknown"]
)
def test_rows_7_and_8(world, detail):
    assert words(world.up(GOOD, here(detail))) == ("up", "good", detail)
    facts = world.up(BAD, here(detail))
    assert words(facts) == ("up", "bad", detail)
    assert facts.status.reason == "timed out"


def test_a_good_engine_has_no_reason(world):
    assert world.up(GOOD).status.reason == ""


def test_row_1_a_vm_that_vanished_without_a_word_is_missing(world):
    assert words(world.sees(gone())) == ("down", "bad", "unknown")
    world.up(GOOD)
    missing = dataclasses.replace(gone(Exit.CRASHED), status=EngineStatus(Vm.DOWN_MISSING, Health.BAD, "unknown"))
    assert words(world.sees(gone())) == ("down_missing", "bad", "unknown")
    assert words(world.sees(gone())) == ("down_missing", "bad", "unknown")
    world.up(GOOD)
    assert words(world.sees(missing)) == ("down_missing", "bad", "unknown")


def test_row_2_libvirt_lost_is_unknown_and_forgets_nothing(world):
    world.up(GOOD)
    with pytest.raises(Unmeasured) as problem:
        world.sees(Reading.missing("no-libvirt", 3.0))
    assert problem.value.why == "no-libvirt"
    assert world.sees(gone()).status.vm is Vm.DOWN_MISSING


def test_row_3_a_start_that_failed_lost_nothing(world):
    """Another host holds the lock: the copy was seen for a moment, waiting, and never ran."""
    assert words(world.sees(here("WaitForLaunch"))) == ("up", "bad", "WaitForLaunch")
    assert words(world.sees(gone(Exit.FAILED))) == ("down", "bad", "Down")


def test_between_the_end_and_its_reason_nothing_is_guessed(world):
    world.up(GOOD)
    ended = EngineFacts(EngineStatus(Vm.UNKNOWN, Health.UNKNOWN, "Down", "it has ended here"))
    facts = world.sees(ended)
    assert words(facts) == ("unknown", "unknown", "unknown")
    assert (facts.bad_for, facts.stalled_for, world.wanted) == (None, None, None)
    assert world.sees(gone(Exit.CRASHED)).status.vm is Vm.DOWN_UNEXPECTED
    world.up(GOOD)
    world.sees(ended)
    assert world.sees(gone(Exit.MIGRATED)).status.vm is Vm.DOWN


def test_row_4_migrated_away_is_an_orderly_down(world):
    world.up(GOOD)
    assert words(world.sees(gone(Exit.MIGRATED))) == ("down", "bad", "Down")


@pytest.mark.parametrize("last_exit", [Exit.CRASHED, Exit.REQUESTED, Exit.GUEST_SHUTDOWN, Exit.LEASE_LOST])
def test_row_5_down_after_up_is_unexpected_until_seen_up_or_held_elsewhere(world, last_exit):
    assert words(world.sees(gone(last_exit))) == ("down", "bad", "Down")  # an exit before our time
    world.up(GOOD)
    for _ in range(3):
        assert words(world.sees(gone(last_exit))) == ("down_unexpected", "bad", "Down")
    assert world.sees(gone()).status.vm is Vm.DOWN_UNEXPECTED
    assert world.sees(gone(Exit.MIGRATED)).status.vm is Vm.DOWN
    assert world.up(GOOD).status.vm is Vm.UP


def test_row_5_the_receiving_end_of_a_migration(world):
    arriving = dataclasses.replace(gone(detail="Migration Destination"), incoming=True)
    assert words(world.sees(arriving)) == ("down", "bad", "Migration Destination")
    assert words(world.up(GOOD)) == ("up", "good", "Up")


def test_a_paused_domain_that_receives_is_not_up(world):
    facts = EngineFacts(EngineStatus(Vm.UP, Health.UNKNOWN, "Migration Destination"))
    assert words(world.sees(facts)) == ("down", "bad", "Migration Destination")


@given(st.lists(st.tuples(st.sampled_from([*Exit, None]), st.booleans()), max_size=30))
def test_peers_can_always_read_the_words(story):
    table = StatusTable()
    for last_exit, good in story:
        present = last_exit is None
        status = table.present(here(), GOOD if good else BAD) if present else table.absent(gone(last_exit))
        assert status.health in (Health.GOOD, Health.BAD)
        assert (status.vm is Vm.UP) == present
        assert status.detail


# --- copies -------------------------------------------------------------------------------------------------------


def test_an_answer_of_the_last_copy_says_nothing_of_the_next(world):
    world.up(GOOD, here(pid=1))
    facts = world.sees(here(pid=2))
    assert facts.status.health is Health.BAD
    assert facts.bad_for == 0.0
    world.answers(GOOD)
    assert world.sees(here(pid=2)).status.health is Health.GOOD


def test_a_vm_that_starts_while_we_look_is_bad_until_it_answers(world):
    world.sees(gone())
    facts = world.sees(here())
    assert words(facts) == ("up", "bad", "Up")
    assert facts.status.reason
    world.answers(GOOD)
    assert words(world.sees(here())) == ("up", "good", "Up")


def test_the_page_is_asked_only_while_a_vm_is_here(world):
    world.sees(gone())
    assert world.wanted is None
    world.sees(here())
    assert world.wanted is not None
    world.sees(gone())
    assert world.wanted is None


# --- bad_for ------------------------------------------------------------------------------------------------------


def test_bad_for_counts_from_the_last_good_answer(world):
    assert world.up(GOOD).bad_for == 0.0
    assert world.up(BAD).bad_for == 0.0
    for expected in (5.0, 10.0, 15.0):
        assert world.up(BAD).bad_for == expected
    assert world.up(GOOD).bad_for == 0.0


def test_time_in_which_the_page_could_not_be_measured_does_not_count(world):
    world.up(GOOD)
    world.up(BAD)
    assert world.up(BAD).bad_for == 5.0
    world.page = Reading.missing("overdue", 8.0)
    assert world.sees(here(), 100.0).bad_for == 5.0
    assert world.sees(here(), 100.0).status.health is Health.BAD
    assert world.up(BAD).bad_for == 5.0
    assert world.up(BAD).bad_for == 10.0


def test_a_slow_answer_counts_from_when_it_was_asked():
    bad = BadTime()
    bad.observe(PageSample(1, 10.0, 15.0, BAD))
    assert bad.seconds(15.0) == 5.0
    bad.observe(PageSample(1, 10.0, 15.0, BAD))  # the same sample twice
    assert bad.seconds(16.0) == 6.0


def test_no_bad_time_without_a_vm(world):
    world.up(BAD)
    facts = world.sees(gone(Exit.CRASHED))
    assert (facts.bad_for, facts.stalled_for) == (None, None)


SAMPLE = st.sampled_from([GOOD, BAD, None])


@given(st.lists(st.tuples(SAMPLE, st.floats(0.1, 20.0)), max_size=30))
def test_bad_time_never_exceeds_the_time_since_the_last_good_answer(story):
    bad, now, last_good = BadTime(), 0.0, 0.0
    for result, seconds in story:
        began, now = now, now + seconds
        bad.observe(None if result is None else PageSample(1, began, now, result))
        last_good = now if result is GOOD else last_good
        assert 0.0 <= bad.seconds(now) <= now - last_good + 1e-6


# --- progress -----------------------------------------------------------------------------------------------------


def test_stalled_for_by_libvirts_counters_in_product_seconds(world):
    world.clock.scale = 2.0
    for expected in (None, 10.0, 20.0, 30.0):
        at = world.clock.now + 10.0
        assert world.sees(here("Paused", counters=GuestCounters(at, 100.0, 7)), 10.0).stalled_for == expected
    at = world.clock.now + 10.0
    assert world.sees(here("Paused", counters=GuestCounters(at, 100.0, 8)), 10.0).stalled_for == 0.0


def test_without_counters_the_watchs_own_figure_stands(world):
    assert world.sees(here("Paused", stalled_for=12.0)).stalled_for == 12.0


# --- what wakes others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [here("Paused"), gone(), here(outgoing=True), here(pid=3), here(last_exit=Exit.CRASHED), here(guest_agent=False)],
)
def test_a_change_of_the_status_matters(other):
    assert engine_changed(Reading.of(here()), Reading.of(other))


def test_clocks_do_not_matter():
    later = here(uptime=9.0, bad_for=1.0, stalled_for=2.0, exit_age=3.0, counters=GuestCounters(1.0))
    assert not engine_changed(Reading.of(here()), Reading.of(later))


def test_knowing_and_not_knowing_matters():
    assert engine_changed(Reading(), Reading.of(here()))
    assert engine_changed(Reading.of(here()), Reading.missing("no-libvirt"))
    assert engine_changed(Reading.missing("not-yet"), Reading.missing("no-libvirt"))
    assert not engine_changed(Reading.missing("no-libvirt", 1.0), Reading.missing("no-libvirt", 2.0))


def test_a_new_verdict_matters_the_same_again_does_not():
    good, again, bad = (PageSample(1, 0.0, at, result) for at, result in ((1.0, GOOD), (2.0, GOOD), (3.0, BAD)))
    assert page_changed(Reading.of(good), Reading.of(bad))
    assert page_changed(Reading.of(good), Reading.of(dataclasses.replace(again, copy=2)))
    assert page_changed(Reading.missing("no-vm"), Reading.of(good))
    assert not page_changed(Reading.of(good), Reading.of(again))


def test_the_probe_asks_for_nobody_unless_told(hand_clock):
    probe = PageProbe(lambda: GOOD, hand_clock)
    with pytest.raises(Unmeasured) as problem:
        probe.measure()
    assert problem.value.why == "no-vm"
    assert probe.want(3)
    assert not probe.want(3)
    assert probe.measure() == PageSample(3, hand_clock.now, hand_clock.now, GOOD)


# --- for a reader of now ------------------------------------------------------------------------------------------


def test_the_moment_of_an_exit_is_the_same_in_every_reading():
    facts = gone(Exit.CRASHED, exit_age=2.0)
    for age in (0.0, 3.0):
        reading = aged(Reading.of(facts, age), 1.0)
        assert (reading.value.exit_age, reading.age) == (2.0 + age, age + 1.0)


def test_clocks_run_on_and_evidence_does_not():
    reading = aged(Reading.of(here(uptime=10.0, paused_for=1.0, bad_for=5.0, stalled_for=6.0), 4.0), 0.0)
    facts = reading.value
    assert (facts.uptime, facts.paused_for, facts.bad_for, facts.stalled_for, facts.exit_age) == (
        14.0,
        5.0,
        5.0,
        6.0,
        None,
    )
    assert aged(Reading.missing("overdue", 3.0), 9.0) == Reading.missing("overdue", 3.0)


def test_the_age_of_what_libvirt_told_is_kept(world):
    world.sees(Reading.of(gone(), 4.0))
    assert world.engine.lag() == 4.0
