"""The VM's life on this host as a story of looks and events; ``now`` is written in each line."""

import pytest

from ovirt_he_ha.core.model import Exit, GuestCounters, Health, Vm
from ovirt_he_ha.hypervisor.engine_life import LAST_EVENT, POWERING_DOWN, WORD_WAIT, EngineLife, Look, Run
from ovirt_he_ha.hypervisor.process import EngineProcess

PROCESS = EngineProcess(100, 5000)
RUNNING = Look(Run.RUNNING, domain_id=1, lease_defined=True)


def running(now=0.0, look=RUNNING):
    life = EngineLife()
    life.seen(look, now)
    life.adopt(PROCESS, now)
    return life


def status(life, now):
    facts = life.facts(now)
    return facts.status.vm, facts.status.health, facts.status.detail


def test_nothing_here():
    life = EngineLife()
    life.absent(1)
    assert status(life, 1) == (Vm.DOWN, Health.BAD, "Down")
    assert life.facts(1).last_exit is Exit.NONE
    assert life.facts(1).exit_age is None
    assert not life.settle(100)


def test_adopted_vm_has_run_since_its_process_began():
    life = EngineLife()
    life.seen(RUNNING, 1000)
    life.adopt(PROCESS, 400)
    facts = life.facts(1010)
    assert status(life, 1010) == (Vm.UP, Health.UNKNOWN, "Up")
    assert (facts.uptime, facts.pid, facts.last_exit, facts.lease_defined) == (610, 100, Exit.NONE, True)


def test_adopted_vm_that_came_by_migration_counts_from_the_first_look():
    life = EngineLife()
    life.seen(RUNNING, 1000)
    life.adopt(EngineProcess(100, 5000, incoming=True), 400)
    assert life.facts(1010).uptime == 10


def test_start_as_libvirt_tells_it():
    life = EngineLife()
    life.resumed(10)
    life.started(10, incoming=False)
    assert status(life, 10) == (Vm.UP, Health.UNKNOWN, "Up")
    life.seen(RUNNING, 11)
    assert life.facts(15).uptime == 5


def test_start_that_waits_is_no_pause():
    life = EngineLife()
    life.seen(Look(Run.PAUSED, 1, "starting-up"), 10)
    assert status(life, 11) == (Vm.UP, Health.BAD, "WaitForLaunch")
    assert life.facts(20).paused_for is None
    life.stopped("failed", 21)
    assert life.facts(21).last_exit is Exit.FAILED
    assert status(life, 21)[0] is Vm.DOWN


def test_vm_started_paused_by_hand_is_paused():
    life = EngineLife()
    life.started(10, incoming=False)
    life.suspended(10, "user")
    assert life.facts(13).paused_for == 3


@pytest.mark.parametrize(
    ("word", "cause", "vm"),
    [
        ("failed", Exit.CRASHED, Vm.DOWN_UNEXPECTED),
        ("crashed", Exit.CRASHED, Vm.DOWN_UNEXPECTED),
        ("destroyed", Exit.REQUESTED, Vm.DOWN),
        ("saved", Exit.REQUESTED, Vm.DOWN),
        ("shutdown", Exit.REQUESTED, Vm.DOWN),
        ("migrated", Exit.MIGRATED, Vm.DOWN),
    ],
)
def test_last_word(word, cause, vm):
    life = running()
    life.stopped(word, 50)
    facts = life.facts(53)
    assert (facts.last_exit, facts.exit_age, facts.status.vm, facts.status.health) == (cause, 3, vm, Health.BAD)
    assert (facts.pid, facts.uptime, facts.paused_for) == (None, None, None)


def test_guests_own_power_off():
    life = running()
    life.powered_off(by_guest=True)
    assert status(life, 1)[2] == "Powering down"
    life.stopped("shutdown", 2)
    assert life.facts(2).last_exit is Exit.GUEST_SHUTDOWN
    assert status(life, 2)[0] is Vm.DOWN_UNEXPECTED


def test_power_off_that_was_asked_for():
    life = running()
    life.stop_requested(1)
    assert status(life, 2)[2] == "Powering down"
    life.powered_off(by_guest=True)
    life.stopped("shutdown", 20)
    assert life.facts(20).last_exit is Exit.REQUESTED


def test_ignored_request_does_not_explain_a_later_power_off():
    life = running()
    life.stop_requested(1)
    late = 2 + POWERING_DOWN
    assert status(life, late)[2] == "Up"
    life.powered_off(by_guest=True)
    life.stopped("shutdown", late)
    assert life.facts(late).last_exit is Exit.GUEST_SHUTDOWN


def test_request_is_read_again_by_a_new_watch():
    life = running(look=Look(Run.RUNNING, 1, stop_requested=True))
    life.powered_off(by_guest=True)
    life.stopped("shutdown", 20)
    assert life.facts(20).last_exit is Exit.REQUESTED


def test_kill_is_known_before_it_is_explained():
    life = running()
    life.process_gone(PROCESS, 10)
    assert status(life, 10) == (Vm.UNKNOWN, Health.UNKNOWN, "Down")
    assert life.facts(10).last_exit is Exit.NONE
    assert not life.settle(10.1)
    life.seen(RUNNING, 10.1)  # libvirt has not noticed
    assert status(life, 10.1)[0] is Vm.UNKNOWN
    life.stopped("failed", 10.3)
    assert status(life, 10.3)[0] is Vm.DOWN_UNEXPECTED
    life.seen(RUNNING, 10.4)  # nor has this look, which began before
    assert status(life, 10.4)[0] is Vm.DOWN_UNEXPECTED


def test_end_of_another_process_means_nothing():
    life = running()
    life.process_gone(EngineProcess(100, 4999), 10)
    assert status(life, 10)[0] is Vm.UP


def test_word_that_never_comes():
    life = running()
    life.process_gone(PROCESS, 10)
    assert life.settle(10 + WORD_WAIT)
    facts = life.facts(14)
    assert (facts.last_exit, facts.exit_age, facts.status.vm) == (Exit.CRASHED, 1, Vm.DOWN_UNEXPECTED)


def test_vanished_while_nobody_looked():
    life = running()
    life.absent(50)
    assert status(life, 50)[0] is Vm.UNKNOWN
    assert life.settle(50 + LAST_EVENT)
    assert life.facts(51).last_exit is Exit.CRASHED
    assert status(life, 51) == (Vm.DOWN_MISSING, Health.BAD, "unknown")


def test_word_that_comes_after_the_look():
    life = running()
    life.absent(50)
    life.stopped("destroyed", 50.1)
    assert not life.settle(60)
    assert life.facts(60).last_exit is Exit.REQUESTED


def test_late_word_corrects_a_guess():
    life = running()
    life.absent(50)
    life.settle(50 + LAST_EVENT)
    life.stopped("migrated", 51)
    facts = life.facts(51)
    assert (facts.last_exit, facts.status.vm) == (Exit.MIGRATED, Vm.DOWN)


def test_lost_guard_is_no_crash():
    for end in (
        lambda life: life.stopped("destroyed", 50),
        lambda life: life.stopped("failed", 50),
        lambda life: (life.process_gone(PROCESS, 50), life.settle(60)),
    ):
        life = running()
        life.guard_lost = True
        end(life)
        assert life.facts(60).last_exit is Exit.LEASE_LOST


def test_signal_from_outside_without_a_word():
    life = running()
    life.powered_off(by_guest=False)
    life.process_gone(PROCESS, 10)
    life.settle(20)
    assert life.facts(20).last_exit is Exit.REQUESTED


def test_pause_lasts_through_later_looks():
    life = running()
    life.suspended(10, "ioerror")
    life.seen(Look(Run.PAUSED, 1, "ioerror"), 14)
    facts = life.facts(15)
    assert (facts.paused_for, facts.pause_reason, facts.status.detail) == (5, "ioerror", "Paused")
    life.resumed(16)
    assert (life.facts(17).paused_for, life.facts(17).uptime) == (None, 17)


def test_reboot_gives_the_boot_its_time_again():
    life = running()
    life.rebooted(500)
    assert life.facts(510).uptime == 10


def test_migration_out():
    life = running()
    life.migrating_out()
    assert status(life, 1) == (Vm.UP, Health.UNKNOWN, "Migration Source")
    life.suspended(2, "migration")
    facts = life.facts(3)
    assert (facts.outgoing, facts.paused_for, facts.status.detail) == (True, 1, "Migration Source")
    life.stopped("migrated", 4)
    assert life.facts(4).last_exit is Exit.MIGRATED


def test_migration_out_that_fails():
    life = running()
    life.migrating_out()
    life.suspended(2, "migration")
    life.resumed(3)
    facts = life.facts(3)
    assert (facts.outgoing, facts.status.detail, facts.uptime) == (False, "Up", 3)


def test_end_in_the_middle_of_the_hand_over():
    """The source's libvirt is gone, its qemu ended while it was paused for the switch: the destination runs it."""
    life = running()
    life.suspended(2, "migration")
    life.process_gone(PROCESS, 3)
    life.settle(10)
    assert life.facts(10).last_exit is Exit.MIGRATED


def test_aborted_job_is_seen_by_the_next_look():
    life = running()
    life.migrating_out()
    life.seen(Look(Run.RUNNING, 1, outgoing=False, incoming=False), 5)
    assert not life.facts(5).outgoing


def test_job_that_ends_while_running():
    life = running()
    life.migrating_out()
    life.migration_done()
    assert not life.facts(5).outgoing


def test_migration_in():
    life = EngineLife()
    life.started(10, incoming=True)
    life.seen(Look(Run.PAUSED, 4, "migration", incoming=True), 11)
    facts = life.facts(20)
    assert status(life, 20) == (Vm.DOWN, Health.BAD, "Migration Destination")
    assert (facts.incoming, facts.paused_for) == (True, None)
    life.resumed(21)
    assert status(life, 21) == (Vm.UP, Health.UNKNOWN, "Up")
    assert life.facts(25).uptime == 4


def test_migration_in_that_fails():
    life = EngineLife()
    life.started(10, incoming=True)
    life.stopped("failed", 12)
    assert (life.facts(12).last_exit, status(life, 12)[0]) == (Exit.FAILED, Vm.DOWN)


def test_post_copy_is_still_arriving():
    life = EngineLife()
    life.seen(Look(Run.RUNNING, 4, post_copy=True), 1)
    assert status(life, 1)[2] == "Migration Destination"


def test_guest_agent_counts_only_after_it_was_seen():
    life = running(look=Look(Run.RUNNING, 1, agent_connected=False))
    assert life.facts(1).guest_agent is None
    life.agent(True)
    assert life.facts(2).guest_agent is True
    life.agent(False)
    assert life.facts(3).guest_agent is False


def test_new_copy_forgets_the_old_one_but_not_its_end():
    life = running()
    life.counted(GuestCounters(1, 2.0, 3))
    life.process_gone(PROCESS, 10)
    life.seen(Look(Run.RUNNING, 2), 20)
    facts = life.facts(25)
    assert (facts.uptime, facts.pid, facts.counters, facts.last_exit) == (5, None, None, Exit.CRASHED)


@pytest.mark.parametrize("explained", [True, False])
def test_restarted_libvirtd_numbers_its_domains_anew(explained):
    life = running()
    life.process_gone(PROCESS, 10)
    if explained:
        life.stopped("failed", 11)
    assert life.believed_over(RUNNING.domain_id)
    life.reborn(PROCESS, 12)  # a zombie, or a look that is late
    life.seen(RUNNING, 12)
    assert status(life, 12)[0] is not Vm.UP
    life.reborn(EngineProcess(200, 9000), 13)
    life.seen(RUNNING, 13)
    life.adopt(EngineProcess(200, 9000), 13)
    facts = life.facts(15)
    assert (facts.status.vm, facts.uptime, facts.pid, facts.last_exit) == (Vm.UP, 2, 200, Exit.CRASHED)
    assert not life.believed_over(RUNNING.domain_id)


def test_new_copy_told_by_events_only():
    life = running()
    life.process_gone(PROCESS, 10)
    life.resumed(20)
    assert status(life, 20)[0] is Vm.UP
    assert life.facts(20).last_exit is Exit.CRASHED


def test_off_is_absent():
    life = running()
    life.seen(Look(Run.OFF), 10)
    assert life.settle(11)
    assert life.facts(11).last_exit is Exit.CRASHED


def test_waits_are_wall_seconds():
    life = EngineLife(scale=10)
    life.seen(RUNNING, 0)
    life.adopt(PROCESS, 0)
    life.process_gone(PROCESS, 10)
    assert not life.settle(10 + 9 * WORD_WAIT)
    assert life.settle(10 + 10 * WORD_WAIT)


def test_essence_stands_still_while_nothing_happens():
    life = running()
    assert life.essence(1) == life.essence(100)
    life.counted(GuestCounters(100, 5.0))
    assert life.essence(1) == life.essence(100)
    before = life.essence(100)
    life.suspended(100, "user")
    assert life.essence(100) != before


def test_events_without_a_vm_are_harmless():
    life = EngineLife()
    for event in (
        lambda: life.rebooted(1),
        lambda: life.migrating_out(),
        lambda: life.migration_done(),
        lambda: life.stop_requested(1),
        lambda: life.powered_off(True),
        lambda: life.process_gone(PROCESS, 1),
        lambda: life.stopped("shutdown", 1),
        lambda: life.agent(True),
        lambda: life.counted(GuestCounters(1)),
        lambda: life.adopt(PROCESS, 1),
    ):
        event()
    assert status(life, 1)[0] is Vm.DOWN
    assert life.facts(1).last_exit is Exit.NONE
