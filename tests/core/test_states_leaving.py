"""The VM is gone from this host: crash, shutdown, migration, lost lease, or no word at all."""

import pytest

from ovirt_he_ha.core import notes
from ovirt_he_ha.core.model import ActionKind, Exit, Health, HostLease, LeaseOwner, Outcome, Reading, State, Vm
from tests.core.world import DOWN, GONE, MISSING, UP, T, World, codes, events, extra, kind, peer

S = State
START = ActionKind.START


def ran(peers=(2, 3), **carried):
    """The VM has run here, healthy, for a while."""
    world = World(peers, state=S.ENGINE_UP, **carried).runs()
    world.step(1)
    return world


def crash(world, after=1.0, exit_=Exit.CRASHED, status=GONE):
    world.gone(exit_, status=status)
    return world.step(after)


def come_up(world):
    """The start under way succeeds, and the VM is healthy."""
    if world.report is None:
        world.run(1000, every=1)
    assert kind(world.decision) is START
    world.runs()
    world.finish(Outcome.OK)
    return world.step(5)


# --- D4 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit_, status", [(Exit.CRASHED, GONE), (Exit.NONE, GONE), (Exit.NONE, MISSING)])
def test_d4_the_first_crash_restarts_here_at_once(exit_, status):
    world = ran()
    decision = crash(world, exit_=exit_, status=status)
    assert (decision.state, kind(decision)) == (S.ENGINE_START, START)
    assert {"crash", "crash-restart", "start"} <= set(codes(decision))


def test_d4_a_better_peer_does_not_outrank_the_restart():
    world = ran()
    world.edit(2, score=3500).edit(3, score=3500)
    assert kind(crash(world)) is START


def test_d4_the_second_after_ten_seconds():
    world = ran()
    crash(world)
    come_up(world)
    decision = crash(world)
    assert (decision.state, decision.action) == (S.ENGINE_DOWN, None)
    assert extra(decision)["phase"] == "restarting"
    assert events(decision)["restart"] == world.now + 10
    assert world.run(60, every=1) == 10


def test_d4_the_third_hands_over_at_score_0_for_a_minute():
    world = ran()
    for _ in range(2):
        crash(world)
        come_up(world)
    decision = crash(world)
    assert (decision.state, decision.action) == (S.ENGINE_UNEXPECTEDLY_DOWN, None)
    assert decision.score.score == 0
    assert decision.record.engine.vm is Vm.DOWN_UNEXPECTED
    assert "crash-hand-over" in codes(decision)
    assert decision.carried.budgets.handed_over_until == world.now + 60
    assert events(decision)["hand-over-end"] == world.now + 60
    assert world.run(200, every=5) == 60  # nobody took it
    assert world.decision.score.score == 3400


def test_d4_alone_the_waits_grow_and_never_end():
    world = ran(peers=())
    for _ in range(2):
        crash(world)
        come_up(world)
    waits = []
    for _ in range(6):
        decision = crash(world)
        assert decision.state is S.ENGINE_DOWN
        assert decision.score.score > 0
        assert "crash-backoff" in codes(decision)
        assert extra(decision)["phase"] == "crash-backoff"
        waits.append(world.run(1000, every=1))
        come_up(world)
    assert waits == [30, 60, 120, 300, 300, 300]


def test_d4_a_peer_that_appears_during_the_back_off_gets_the_vm():
    world = ran(peers=())
    for _ in range(2):
        crash(world)
        come_up(world)
    crash(world)
    world.add(peer(2))
    decision = world.step(5)
    assert decision.state is S.ENGINE_UNEXPECTEDLY_DOWN
    assert decision.score.score == 0


def test_d4_crashes_outside_the_window_do_not_count():
    world = ran()
    world.budget(crashes=(world.now - 700, world.now - 650))
    assert kind(crash(world)) is START
    assert len(world.carried.budgets.crashes) == 1


def test_d4_ten_healthy_minutes_reset_crashes_and_back_off():
    world = ran()
    world.budget(crashes=(world.now - 5,), backoff_step=3)
    world.step(598)
    assert world.carried.budgets.backoff_step == 3
    decision = world.step(5)
    assert decision.carried.budgets.crashes == ()
    assert decision.carried.budgets.backoff_step == 0


def test_bad_health_starts_the_healthy_time_again():
    world = ran()
    assert world.carried.budgets.healthy_since == world.now
    assert world.runs(Health.UNKNOWN).step(5).carried.budgets.healthy_since == world.now - 5
    assert world.runs(Health.BAD).step(5).carried.budgets.healthy_since is None


def test_d4_down_is_held_five_seconds_so_that_upstream_peers_do_not_race():
    world = ran()
    decision = crash(world)
    assert decision.record.engine.vm is Vm.UP
    assert decision.record.engine.health is Health.BAD
    assert world.step(4.9).record.engine.vm is Vm.UP
    assert world.step(0.1).record.engine.vm is Vm.DOWN_UNEXPECTED


def test_d4_a_handed_over_vm_is_published_down_at_once():
    world = ran()
    world.budget(crashes=(world.now - 2, world.now - 1))
    assert crash(world).record.engine.vm is Vm.DOWN_UNEXPECTED


def test_a_restart_that_could_not_happen_for_a_minute_is_given_up():
    world = ran()
    world.gone(Exit.CRASHED)
    world.owner = Reading.missing("error")
    decision = world.step(1)
    assert extra(decision)["phase"] == "restarting"
    decision = world.step(T.liveness_limit + 1)
    assert notes.RESTART_AT not in decision.carried.notes
    assert extra(decision)["phase"] == "lease-unknown"


def test_a_crash_while_the_vm_was_unknown_counts_when_it_is_known():
    world = ran()
    world.engine = Reading.missing("unreachable")
    world.step(5)
    world.engine = None
    decision = crash(world)
    assert decision.carried.budgets.crashes == (world.now,)
    assert kind(decision) is START


def test_an_exit_of_an_earlier_copy_explains_nothing():
    world = ran()
    world.gone(Exit.MIGRATED, age=500.0)
    decision = world.step(1)
    assert "crash" in codes(decision)


# --- other ends ---------------------------------------------------------------------------------------------------


def test_d4_a_guest_that_was_shut_down_inside_is_restarted_and_not_counted():
    world = ran()
    decision = crash(world, exit_=Exit.GUEST_SHUTDOWN, status=DOWN)
    assert kind(decision) is START
    assert "guest-shutdown" in codes(decision)
    assert decision.carried.budgets.crashes == ()
    come_up(world)
    decision = crash(world, exit_=Exit.GUEST_SHUTDOWN, status=DOWN)
    assert decision.action is None
    assert events(decision)["restart"] == world.now + 30


def test_the_guest_shutdown_is_forgotten_after_a_healthy_time():
    world = ran()
    world.carry(notes={**world.carried.notes, notes.GUEST_OFF: world.now})
    world.step(601)
    assert notes.GUEST_OFF not in world.carried.notes


def test_a_stop_on_request_is_no_crash_and_ranks_decide():
    world = ran()
    world.edit(2, score=3500)
    decision = crash(world, exit_=Exit.REQUESTED, status=DOWN)
    assert decision.state is S.ENGINE_DOWN
    assert codes(decision) == ["requested-stop", "rank"]
    assert decision.carried.budgets.crashes == ()
    assert decision.record.engine.vm is Vm.DOWN


def test_a_lost_lease_restarts_here_only_once_the_lockspace_is_held():
    world = ran(peers=())
    world.lockspace = Reading.missing("error")
    decision = crash(world, exit_=Exit.LEASE_LOST)
    assert decision.state is S.ENGINE_DOWN
    assert decision.action is None
    assert {"lease-lost", "lockspace"} <= set(codes(decision))
    world.lockspace = World().lockspace
    assert kind(world.step(5)) is START


def test_a_failed_copy_is_a_failed_start():
    world = ran()
    decision = crash(world, exit_=Exit.FAILED)
    assert decision.carried.budgets.start_failures == 1
    assert decision.action is None


def test_a_migrated_vm_stays_published_until_the_destination_says_up():
    world = ran()
    world.gone(Exit.MIGRATED, status=DOWN)
    world.owner = Reading.of(LeaseOwner(2))
    decision = world.step(1)
    assert decision.state is S.ENGINE_MAYBE_AWAY
    assert (decision.record.engine.vm, decision.record.engine.detail) == (Vm.UP, "Migration Source")
    assert decision.record.engine.health is Health.BAD
    assert events(decision)["destination-ack"] == world.now + 20
    world.edit(2, engine=UP)
    decision = world.step(5)
    assert decision.state is S.ENGINE_DOWN
    assert decision.record.engine.vm is Vm.DOWN
    assert "engine-up-elsewhere" in codes(decision)


def test_a_migrated_vm_is_published_for_twenty_seconds_at_most():
    world = ran()
    world.gone(Exit.MIGRATED, status=DOWN)
    world.owner = Reading.of(LeaseOwner(2))
    world.step(1)
    assert world.step(19).record.engine.vm is Vm.UP
    decision = world.step(1)
    assert decision.state is S.ENGINE_DOWN
    assert decision.record.engine.vm is Vm.DOWN
    assert "lease-held" in codes(decision)


def test_without_a_word_and_with_the_lease_elsewhere_it_may_be_away():
    world = ran()
    world.gone(Exit.NONE, status=DOWN)
    world.owner = Reading.of(LeaseOwner(2))
    decision = world.step(1)
    assert decision.state is S.ENGINE_MAYBE_AWAY
    assert decision.record.engine.vm is Vm.DOWN
    assert decision.carried.budgets.crashes == ()
    assert events(decision)["away"] == world.now + 40
    decision = world.step(40)
    assert decision.state is S.ENGINE_UNEXPECTEDLY_DOWN
    assert "away-lost" in codes(decision)
    assert decision.score.score == 0


def test_maybe_away_with_an_unreadable_lease_names_nobody():
    world = World(state=S.ENGINE_MAYBE_AWAY)
    world.owner = Reading.missing("error")
    decision = world.step()
    assert decision.reasons[0].values["host"] == "?"


@pytest.mark.parametrize("flag", [HostLease.DEAD, HostLease.FAIL])
def test_without_a_word_and_with_the_lease_of_a_dead_host_it_crashed(flag):
    world = ran()
    world.gone(Exit.NONE)
    world.owner = Reading.of(LeaseOwner(2))
    world.flags[2] = flag
    assert "crash" in codes(world.step(1))


def test_maintenance_forgets_what_ran_here():
    world = ran()
    world.global_maintenance = Reading.of(True)
    world.step(5)
    world.gone(Exit.REQUESTED)
    decision = world.step(5)
    assert decision.state is S.GLOBAL_MAINTENANCE
    assert decision.record.engine.vm is Vm.DOWN_UNEXPECTED
    assert not decision.carried.notes
    world.global_maintenance = Reading.of(False)
    assert world.step(5).state is S.REINITIALIZE
    assert world.carried.budgets.crashes == ()


def test_an_up_state_without_a_vm_and_without_a_memory_of_it():
    decision = World(state=S.ENGINE_UP).gone(Exit.CRASHED).step()
    assert decision.carried.budgets.crashes != ()


def test_a_crash_in_local_maintenance_rests():
    world = ran(peers=()).local()
    decision = crash(world)
    assert decision.state is S.LOCAL_MAINTENANCE
    assert notes.RESTART_AT not in decision.carried.notes
    assert decision.record.engine.vm is Vm.DOWN_UNEXPECTED


# --- what the end of a copy is taken for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "purpose, state, failures",
    [("hung", S.ENGINE_START, 0), ("never-healthy", S.ENGINE_DOWN, 1), ("hand-over", S.ENGINE_UNEXPECTEDLY_DOWN, 0)],
)
@pytest.mark.parametrize("exit_", [Exit.REQUESTED, Exit.CRASHED])
def test_an_end_that_we_asked_for_is_ours_also_when_nothing_was_known_for_a_moment(purpose, state, failures, exit_):
    """The process is seen to end some tenths of a second before libvirt says how."""
    world = World(state=S.ENGINE_UP).runs(Health.BAD)
    world.step(1)
    world.carry(state=S.ENGINE_STOP, stop_asked_at=world.now, stop_purpose=purpose, stop_limit=15.0)
    world.step(1)
    world.engine = Reading.missing("hypervisor", 0.0)
    assert world.step(1).state is S.UNKNOWN_LOCAL_VM
    world.engine = None
    decision = world.gone(exit_).step(0.5)
    assert decision.state is state
    assert decision.carried.budgets.start_failures == failures
    assert not {"crash", "requested-stop"} & set(codes(decision))
    assert (decision.carried.stop_asked_at, decision.carried.stop_purpose) == (None, "")


def test_a_copy_that_our_migration_took_away_did_not_crash_whatever_is_guessed():
    """The VM may be on its way back before libvirt has said how the old copy ended."""
    world = ran().carry(notes={notes.SEEN_HERE: 10_001.0, notes.MOVED: 10_001.0})
    decision = crash(world)
    assert decision.state is S.ENGINE_MAYBE_AWAY
    assert decision.carried.budgets.crashes == ()


def test_a_migration_of_long_ago_explains_no_crash():
    world = ran()
    world.carry(notes={notes.SEEN_HERE: world.now + 60, notes.MOVED: world.now})
    world.step(60)
    assert "crash" in codes(crash(world))


def test_d4_the_held_up_ends_when_it_is_over_not_a_cycle_later():
    world = ran()
    crash(world)
    come_up(world)
    decision = crash(world)  # the second: ten seconds to the restart
    assert decision.record.engine.vm is Vm.UP
    assert decision.wake_at == world.now + T.down_hold
    assert world.step(T.down_hold).record.engine.vm is not Vm.UP


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOST_RACE])
def test_d4_a_restart_that_did_not_happen_holds_nothing_back(outcome):
    world = ran()
    assert crash(world).record.engine.vm is Vm.UP
    assert world.finish(outcome).record.engine.vm is not Vm.UP
