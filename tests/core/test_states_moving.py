"""Moves: local maintenance, a better peer, a lost network; live, cold, or not at all. And the hung engine."""

from dataclasses import replace

import pytest

from ovirt_he_ha.core import notes
from ovirt_he_ha.core.model import (
    ActionKind,
    Exit,
    Health,
    HostLease,
    LeaseOwner,
    Outcome,
    Reading,
    Seen,
    State,
    Vm,
)
from tests.core.world import (
    DOWN,
    OWN_EXTRA,
    UP,
    Action,
    ActionReport,
    T,
    World,
    changed,
    codes,
    events,
    extra,
    kind,
)

S = State
MIGRATE, STOP = ActionKind.MIGRATE, ActionKind.STOP


def up(peers=(2, 3), state=S.ENGINE_UP, **carried):
    return World(peers, state=state, **carried).runs()


def no_mig(world, *ids):
    for host_id in ids:
        world.edit(host_id, extra=changed(OWN_EXTRA, mig=None))
    return world


# --- local maintenance --------------------------------------------------------------------------------------------


def test_d7_local_maintenance_migrates_to_the_best_host():
    world = up().local()
    world.edit(3, score=3401, extra=changed(OWN_EXTRA, mig_uri="192.0.2.3"))
    decision = world.step()
    assert decision.state is S.ENGINE_UP
    assert decision.action == Action(MIGRATE, 3, "192.0.2.3", 120 + 4096 / 32)
    assert extra(decision)["maintenance_state"] == "preparing"
    assert not decision.record.maintenance
    assert decision.score.score == 3400
    assert events(decision)["migration-deadline"] == world.now + 248


def test_d7_d8_the_flag_is_set_once_the_vm_has_left():
    world = up().local()
    world.step()
    world.vm(replace(UP, detail="Migration Source"), outgoing=True)
    decision = world.step(2)
    assert (decision.state, decision.action) == (S.ENGINE_UP, None)
    assert decision.record.engine.detail == "Migration Source"
    assert extra(decision)["maintenance_state"] == "preparing"
    assert not decision.record.maintenance
    world.gone(Exit.MIGRATED, status=DOWN)
    world.owner = Reading.of(LeaseOwner(2))
    decision = world.finish(Outcome.OK)
    assert decision.state is S.ENGINE_MAYBE_AWAY
    assert decision.record.engine.detail == "Migration Source"
    assert not decision.record.maintenance
    world.edit(2, engine=UP)
    decision = world.step(1)
    assert decision.state is S.LOCAL_MAINTENANCE
    assert decision.record.maintenance
    assert decision.record.engine.vm is Vm.DOWN
    assert extra(decision)["maintenance_state"] == "in-maintenance"
    # D8: publishing goes on
    assert world.step(10).record is not None


@pytest.mark.parametrize("state", [S.ENGINE_STARTING, S.ENGINE_UP_BAD_HEALTH])
def test_maintenance_moves_in_every_running_state(state):
    assert kind(up(state=state).runs(Health.BAD).local().step()) is MIGRATE


def test_every_step_on_the_way_is_named():
    """A peer must not send the VM to a host that is leaving, whatever state that is in."""
    world = no_mig(up(), 2, 3).local()
    decision = world.step()
    assert kind(decision) is STOP
    world.finish(Outcome.OK)
    for _ in range(2):
        decision = world.step(2)
        assert decision.state is S.ENGINE_STOP
        assert extra(decision)["maintenance_state"] == "preparing"
        assert extra(decision)["maintenance_why"] == "Stopping the VM: maintenance"
    world.gone(Exit.REQUESTED, status=DOWN)
    assert extra(world.step(2))["maintenance_state"] == "in-maintenance"


def test_why_a_host_cannot_get_into_maintenance_stands_in_its_slot():
    world = up(peers=()).local()
    world.host = replace(world.host, maintenance_reason="new disks", end_reason="earlier")
    decision = world.step()
    told = extra(decision)
    assert decision.action is None
    assert (told["maintenance_state"], told["maintenance_why"]) == ("error-in-preparing", "No host can take the VM")
    assert told["maintenance_reason"] == "new disks" and "maintenance_ended" not in told
    world.local(False)
    told = extra(world.step())
    assert told["maintenance_ended"] == "earlier" and "maintenance_state" not in told


@pytest.mark.parametrize("here, state", [(True, "preparing"), (False, "in-maintenance")])
def test_local_maintenance_beside_the_clusters(here, state):
    world = up().local() if here else World().local()
    world.global_maintenance = Reading.of(True)
    decision = world.step()
    assert (decision.state, decision.action) == (S.GLOBAL_MAINTENANCE, None)
    assert extra(decision)["maintenance_state"] == state and not decision.record.maintenance
    assert ("maintenance_why" in extra(decision)) == here


# --- the host goes down -------------------------------------------------------------------------------------------


def going_down(world, seconds=600.0):
    world.local()
    world.host = replace(world.host, leave_by=world.now + seconds)
    return world


def test_a_host_that_goes_down_moves_the_vm_first():
    world = going_down(up())
    decision = world.step()
    assert decision.action == Action(MIGRATE, 2, "192.0.2.2", 120 + 4096 / 32)
    assert events(decision)["host-shutdown"] == world.host.leave_by
    assert extra(decision)["maintenance_state"] == "preparing"


def test_a_move_ends_in_time_for_a_stop():
    world = going_down(up(), 200.0)
    decision = world.step()
    assert decision.action.deadline == 200.0 - 60.0 - 30.0
    assert world.step(110.0).abort_migration


def test_after_one_failed_move_the_guest_is_asked_to_end():
    world = going_down(up())
    world.step()
    decision = world.finish(Outcome.FAILED)
    assert decision.action == Action(STOP, deadline=60.0)
    assert decision.state is S.ENGINE_STOP


@pytest.mark.parametrize("seconds, limit", [(600.0, 60.0), (80.0, 50.0), (20.0, 15.0)])
def test_with_nobody_to_take_it_the_guest_is_asked_to_end_and_then_powered_off(seconds, limit):
    world = going_down(up(peers=()), seconds)
    decision = world.step()
    assert decision.action == Action(STOP, deadline=limit)
    world.finish(Outcome.OK)
    assert kind(world.step(limit)) is ActionKind.POWER_OFF
    world.gone(Exit.REQUESTED, status=DOWN)
    decision = world.finish(Outcome.OK)
    assert decision.state is S.LOCAL_MAINTENANCE and decision.record.maintenance


def test_a_shutdown_that_was_called_off_leaves_the_vm_where_it_is():
    world = going_down(up(peers=()))
    world.step()
    world.finish(Outcome.OK)
    world.local(False)
    world.host = replace(world.host, leave_by=None)
    assert kind(world.step(61.0)) is None
    assert world.decision.state is S.ENGINE_UP


def test_s9_global_maintenance_keeps_hands_off_while_the_host_goes_down():
    world = going_down(up())
    world.global_maintenance = Reading.of(True)
    for _ in range(5):
        assert kind(world.step(30)) is None


TARGETS = [
    ("not ours", {"extra": ()}),
    ("free text torn", {"extra_ok": False}),
    ("no mig", {"extra": changed(OWN_EXTRA, mig=None)}),
    ("no address", {"extra": changed(OWN_EXTRA, mig_uri=None)}),
    ("other cpu", {"extra": changed(OWN_EXTRA, cpu="other")}),
    ("too little memory", {"extra": changed(OWN_EXTRA, mem="4095")}),
    ("maintenance", {"maintenance": True}),
    ("score 0", {"score": 0}),
    ("stopped", {"stopped": True}),
    ("other lease", {"extra": changed(OWN_EXTRA, lease="sd:other:/p:0")}),
]


@pytest.mark.parametrize("name, changes", TARGETS, ids=[row[0] for row in TARGETS])
def test_d7_a_host_that_cannot_take_it_is_passed_over(name, changes):
    world = up().local()
    world.edit(2, score=3500)
    world.edit(2, **changes)
    decision = world.step()
    assert kind(decision) is MIGRATE
    assert decision.action.target_id == 3


@pytest.mark.parametrize("flag", [HostLease.FREE, HostLease.FAIL, HostLease.DEAD, HostLease.UNKNOWN, None])
def test_d7_a_target_must_have_joined_the_lockspace(flag):
    world = up().local()
    if flag is None:
        del world.flags[2]
    else:
        world.flags[2] = flag
    assert world.step().action.target_id == 3


def test_memory_that_is_not_published_is_no_obstacle():
    world = up((2,)).local()
    world.edit(2, extra=changed(OWN_EXTRA, mem="lots"))
    assert kind(world.step()) is MIGRATE


def test_an_own_cpu_model_that_is_unknown_fits_nobody():
    world = up((2,)).local()
    world.host = replace(world.host, cpu_model="")
    world.edit(2, extra=changed(OWN_EXTRA, cpu=""))
    assert kind(world.step()) is STOP


def test_d7_three_attempts_then_an_error_with_the_vm_still_here():
    world = up().local()
    world.step()
    waits = []
    for _ in range(2):
        decision = world.finish(Outcome.FAILED, "refused")
        assert "migration-failed" in codes(decision)
        waits.append(world.run(200, every=1))
    assert waits == [30, 60]
    decision = world.finish(Outcome.FAILED, "refused")
    assert (decision.state, decision.action) == (S.ENGINE_UP, None)
    assert extra(decision)["maintenance_state"] == "error-in-preparing"
    assert "migration-error" in extra(decision)["problem"]
    assert world.run(600) == 600
    world.local(False)
    assert world.step(5).carried.migration_tries == 0


def test_d7_a_migration_past_its_deadline_is_aborted():
    world = up().local()
    world.step()
    limit = T.migration_deadline(4096)
    assert not world.step(limit - 1).abort_migration
    decision = world.step(1)
    assert decision.abort_migration
    assert "migration-overdue" in codes(decision)
    decision = world.finish(Outcome.OVERDUE)
    assert decision.carried.migration_error == "overdue"
    assert decision.carried.migration is None


def test_s9_a_migration_under_way_is_left_alone_in_global_maintenance():
    world = up().local()
    world.step()
    world.global_maintenance = Reading.of(True)
    decision = world.step(1000)
    assert not decision.abort_migration
    assert decision.action is None


def test_a_migration_is_overseen_while_the_vm_is_unknown():
    world = up().local()
    world.step()
    world.engine = Reading.missing("overdue")
    decision = world.step(1000)
    assert decision.state is S.UNKNOWN_LOCAL_VM
    assert decision.abort_migration


def test_a_migration_whose_report_is_lost_is_ordered_again():
    world = up().local()
    world.step()
    world.report = None
    assert kind(world.step(5)) is MIGRATE
    assert world.carried.migration_tries == 0


def test_a_report_of_a_migration_that_is_not_ours_changes_nothing():
    world = up()
    world.report = ActionReport(Action(MIGRATE, 2), world.now)
    decision = world.finish(Outcome.FAILED)
    assert decision.carried.migration_tries == 0


def test_after_a_good_migration_the_vm_may_still_be_seen_for_a_moment():
    world = up().local()
    world.step()
    decision = world.finish(Outcome.OK)
    assert (decision.state, decision.action) == (S.ENGINE_UP, None)
    assert "migrated-away" in codes(decision)
    assert kind(world.step(T.destination_ack)) is MIGRATE


def test_a_migrated_vm_without_a_word_of_libvirt_has_migrated():
    world = up().local()
    world.step()
    world.finish(Outcome.OK)
    decision = world.gone(Exit.NONE).step(1)
    assert decision.state is S.ENGINE_MAYBE_AWAY
    assert decision.carried.budgets.crashes == ()


def test_somebody_elses_migration_is_waited_for():
    world = up().local()
    world.vm(UP, outgoing=True)
    decision = world.step()
    assert decision.action is None
    assert "migration-foreign" in codes(decision)


# --- cold ---------------------------------------------------------------------------------------------------------


def test_d7_without_a_live_target_maintenance_hands_over_cold():
    world = no_mig(up(), 2, 3).local()
    decision = world.step()
    assert decision.state is S.ENGINE_STOP
    assert decision.action == Action(STOP, deadline=15.0)
    assert decision.carried.budgets.moves == ()
    world.gone(Exit.REQUESTED, status=DOWN)
    decision = world.finish(Outcome.OK)
    assert decision.state is S.LOCAL_MAINTENANCE


def test_d7_without_any_target_maintenance_is_an_error_and_the_vm_runs_on():
    world = up(()).local()
    decision = world.step()
    assert (decision.state, decision.action) == (S.ENGINE_UP, None)
    assert "no-target" in codes(decision)
    assert extra(decision)["maintenance_state"] == "error-in-preparing"


def silent(world, host_id, seconds):
    """Alive still, and without a publish for so long."""
    world.frozen.add(host_id)
    slot = world.slots[host_id]
    seen = {**world.carried.seen, host_id: Seen(f"{slot.timestamp}:{slot.crc32}", 0.0, world.now - seconds)}
    return world.carry(seen=seen)


@pytest.mark.parametrize("seconds, moved", [(24.0, True), (26.0, False)])
@pytest.mark.parametrize("live", [True, False])
def test_d7_a_peer_that_missed_two_publishes_is_no_place_for_the_vm(seconds, moved, live):
    world = silent(up(peers=(2,)).local(), 2, seconds)
    if not live:
        no_mig(world, 2)
    decision = world.look()
    assert kind(decision) is ((MIGRATE if live else STOP) if moved else None)
    assert ("no-target" in codes(decision)) is not moved


def test_no_cold_hand_over_on_old_slots():
    world = no_mig(up(), 2, 3).local()
    world.slots_age = 30.0
    decision = world.step()
    assert decision.action is None
    assert "no-target" in codes(decision)


def test_a_vm_started_by_hand_in_local_maintenance_is_moved_away():
    world = World(state=S.LOCAL_MAINTENANCE).local().runs()
    decision = world.step()
    assert decision.state is S.ENGINE_UP
    assert kind(decision) is MIGRATE


# --- a better peer ------------------------------------------------------------------------------------------------


def poor(world, load=0.9):
    """This host at 2400 points: 1000 less than its peers."""
    world.carry(loads=())
    world.watch(network=Reading.of(0.375))
    return world


def test_d7_a_peer_that_is_better_for_a_minute_gets_it():
    world = poor(up())
    decision = world.step()
    assert decision.score.score == 2400
    assert decision.action is None
    assert events(decision)["better-peer"] == world.now + 60
    assert world.run(100, every=10) == 60
    assert kind(world.decision) is MIGRATE
    assert world.carried.budgets.moves == (world.now,)


def test_d7_a_gap_below_800_is_not_worth_a_move():
    world = up()
    world.watch(network=Reading.of(0.51))
    assert world.step().score.score == 2616
    assert world.run(600, every=20) == 600
    assert world.carried.better_peer_since is None


def test_d7_the_minute_starts_again_when_the_gap_closes():
    world = poor(up())
    world.step()
    world.step(50)
    world.watch(network=Reading.of(1.0))
    world.step(5)
    poor(world)
    assert world.run(100, every=5) == 65


def test_d7_two_moves_an_hour():
    world = poor(up())
    world.budget(moves=(world.now - 3000, world.now - 1000))
    world.carry(better_peer_since=world.now - 61)
    decision = world.step()
    assert decision.action is None
    assert "moves-exhausted" in codes(decision)
    assert events(decision)["move-budget"] == world.now + 600
    assert kind(world.step(600)) is MIGRATE
    assert len(world.carried.budgets.moves) == 2


def test_no_moves_at_all_if_the_table_says_so():
    from ovirt_he_ha.core.states import decide

    world = poor(up())
    world.carry(better_peer_since=world.now - 61)
    decision = decide(world.snapshot(), replace(T, moves_per_hour=0))
    assert decision.action is None
    assert "moves-exhausted" in codes(decision)


def test_d7_failed_attempts_of_one_move_count_once():
    world = poor(up())
    world.carry(better_peer_since=world.now - 61)
    world.step()
    world.finish(Outcome.FAILED)
    world.run(60, every=5)
    assert kind(world.decision) is MIGRATE
    assert len(world.carried.budgets.moves) == 1


def test_d7_the_live_target_must_be_better_by_the_gap_too():
    """Host 2 is better and cannot take it live; host 3 could, but is no better: hand over cold to host 2."""
    world = poor(no_mig(up(), 2))
    world.edit(3, score=2500)
    world.carry(better_peer_since=world.now - 61)
    decision = world.step()
    assert (decision.state, kind(decision)) == (S.ENGINE_STOP, STOP)
    assert decision.carried.stop_purpose == "hand-over"
    assert len(decision.carried.budgets.moves) == 1


def test_no_move_for_a_score_while_the_vm_boots_or_slots_are_old():
    world = poor(up(state=S.ENGINE_STARTING)).runs(Health.BAD)
    world.carry(better_peer_since=world.now - 61)
    assert world.step().action is None
    world = poor(up())
    world.carry(better_peer_since=world.now - 61)
    world.slots_age = 30.0
    assert world.step().action is None


def test_no_move_for_a_score_to_nobody():
    """The target vanishes between two cycles."""
    world = poor(no_mig(up((2,)), 2))
    world.carry(better_peer_since=world.now - 61)
    world.dead(2)
    decision = world.step()
    assert decision.action is None
    assert decision.carried.better_peer_since is None


def test_what_only_forbids_a_start_here_is_no_ground_to_move():
    world = up()
    world.budget(handed_over_until=world.now + 1000)
    world.carry(better_peer_since=world.now - 61)
    decision = world.step()
    assert decision.score.score == 0
    assert decision.action is None
    assert decision.carried.better_peer_since is None


# --- the management network of this host --------------------------------------------------------------------------


def cut(world):
    world.watch(network=Reading.of(0.0))
    return world


def test_a_lost_network_moves_after_one_more_round():
    world = cut(up())
    assert world.step().action is None
    assert world.run(60, every=5) == 10
    assert kind(world.decision) is MIGRATE


def test_a_lost_network_hands_over_cold_after_one_failed_attempt():
    world = cut(up())
    world.run(60, every=5)
    decision = world.finish(Outcome.FAILED, "no route")
    assert (decision.state, kind(decision)) == (S.ENGINE_STOP, STOP)
    assert len(decision.carried.budgets.moves) == 1
    world.gone(Exit.GUEST_SHUTDOWN, status=DOWN)
    decision = world.finish(Outcome.OK)
    assert decision.state is S.ENGINE_UNEXPECTEDLY_DOWN
    assert decision.score.score == 0


def test_if_everybody_lost_the_network_nobody_moves():
    world = cut(up())
    world.edit(2, score=1800).edit(3, score=1800)
    assert world.run(600, every=20) == 600


LOST = (*OWN_EXTRA, ("score.network", "-1600 0"))


def test_if_most_lost_the_same_target_nobody_moves_to_the_one_that_still_has_it():
    world = cut(up(peers=(2, 3, 4)))
    world.edit(2, score=1800, extra=LOST).edit(3, score=1800, extra=LOST)
    assert world.run(600, every=20) == 600
    assert "network-lost-by-most" in codes(world.decision)
    world.edit(3, score=3400, extra=OWN_EXTRA)  # one of three: it is those two hosts' own network
    assert world.run(60, every=5) == 15


def test_points_that_the_network_does_not_explain_move_the_vm_all_the_same():
    world = cut(up(peers=(2, 3, 4)))
    world.edit(2, score=1800, extra=LOST).edit(3, score=1800, extra=LOST)
    world.watch(cpu_load=Reading.of(0.9), bridge=Reading.of(False))
    assert 60 < world.run(120, every=5) < 80  # with the patience of a better score
    assert kind(world.decision) is MIGRATE


def test_a_host_that_does_not_say_why_counts_as_one_that_has_the_target():
    world = cut(up(peers=(2, 3, 4)))
    world.edit(2, score=1800, extra=LOST).edit(3, score=1800, extra=OWN_EXTRA)
    assert world.run(60, every=5) == 15


def test_an_old_or_unknown_network_reading_is_not_a_lost_network():
    world = up()
    world.watch(network=Reading.of(0.0, 30.0))
    world.step()
    assert events(world.decision)["better-peer"] == world.now + 60
    world.watch(network=Reading.missing("overdue"))
    assert world.step(5).carried.better_peer_since is None


# --- a hung engine (D5) -------------------------------------------------------------------------------------------


def hung(bad_for, uptime=1000.0, **facts):
    return up(state=S.ENGINE_UP_BAD_HEALTH).runs(Health.BAD, bad_for=bad_for, uptime=uptime, **facts)


HUNG = [
    ("page alone, in time", {"bad_for": 259.0}, False),
    ("page alone", {"bad_for": 260.0}, True),
    ("no progress", {"bad_for": 60.0, "stalled_for": 30.0}, True),
    ("no progress for a moment", {"bad_for": 60.0, "stalled_for": 29.0}, False),
    ("no progress, bad for less", {"bad_for": 59.0, "stalled_for": 60.0}, False),
    ("agent dead", {"bad_for": 60.0, "guest_agent": False}, True),
    ("agent alive", {"bad_for": 259.0, "guest_agent": True}, False),
    ("young", {"bad_for": 299.0, "uptime": 299.0, "stalled_for": 299.0}, False),
    ("age unknown", {"bad_for": 400.0, "uptime": None, "stalled_for": 400.0}, False),
    ("never good", {"bad_for": None, "stalled_for": 400.0}, False),
    ("migrating", {"bad_for": 400.0, "outgoing": True}, False),
]


@pytest.mark.parametrize("name, facts, restarted", HUNG, ids=[row[0] for row in HUNG])
def test_d5_hung(name, facts, restarted):
    world = hung(**facts)
    decision = world.step()
    if restarted:
        assert (decision.state, decision.action) == (S.ENGINE_STOP, Action(STOP, deadline=15.0))
        assert decision.carried.budgets.hung_restarts == (world.now,)
        assert "hung" in codes(decision)
    else:
        assert (decision.state, decision.action) == (S.ENGINE_UP_BAD_HEALTH, None)


def test_d5_the_moment_is_counted_down():
    world = hung(20.0, stalled_for=40.0, uptime=290.0)
    assert events(world.step())["hung"] == world.now + 40


def test_d5_unknown_or_good_health_is_not_hung():
    world = hung(400.0, stalled_for=400.0)
    world.vm(replace(world.facts.status, health=Health.UNKNOWN))
    assert world.step().action is None


def test_d5_a_booting_vm_needs_the_second_signal():
    world = hung(400.0)
    world.carry(state=S.ENGINE_STARTING)
    assert world.look().action is None
    world.vm(world.facts.status, stalled_for=60.0)
    assert kind(world.look()) is STOP


@pytest.mark.parametrize("monitors", [{"network": Reading.of(0.0)}, {"bridge": Reading.of(False)}])
def test_d5_no_false_restart_while_this_hosts_own_network_is_down(monitors):
    world = hung(400.0)
    world.edit(2, score=0).edit(3, score=0)
    world.watch(**monitors)
    decision = world.step()
    assert decision.action is None
    assert "hung-doubt" in codes(decision)
    world.vm(world.facts.status, stalled_for=60.0)
    assert kind(world.look()) is STOP


def test_d5_three_restarts_an_hour():
    world = hung(400.0)
    world.budget(hung_restarts=(world.now - 3500, world.now - 600, world.now - 300))
    decision = world.step()
    assert decision.action is None
    assert "hung-budget" in extra(decision)["problem"]
    assert events(decision)["hung-budget"] == world.now + 100
    assert kind(world.step(101)) is STOP


def test_d5_no_restart_at_all_if_the_table_says_so():
    from ovirt_he_ha.core.states import decide

    decision = decide(hung(400.0).snapshot(), replace(T, hung_per_hour=0))
    assert decision.action is None
    assert "hung-budget" in codes(decision)


def test_d5_the_restart_ends_on_this_host():
    world = hung(400.0)
    world.edit(2, score=3500)
    world.step()
    world.finish(Outcome.OK)
    assert kind(world.step(15)) is ActionKind.POWER_OFF
    world.gone(Exit.REQUESTED)
    decision = world.finish(Outcome.OK)
    assert (decision.state, kind(decision)) == (S.ENGINE_START, ActionKind.START)
    assert decision.carried.budgets.crashes == ()


def test_a_stop_that_may_not_be_ordered_is_not_counted():
    world = hung(400.0)
    world.global_maintenance = Reading.missing("garbage")
    decision = world.step()
    assert (decision.state, decision.action) == (S.ENGINE_UP_BAD_HEALTH, None)
    assert decision.carried.budgets.hung_restarts == ()
    assert decision.carried.stop_asked_at is None


def test_a_migration_that_may_not_be_ordered_is_not_counted():
    world = up().local()
    world.global_maintenance = Reading.missing("garbage")
    decision = world.step()
    assert decision.carried.migration is None
    assert notes.MOVED not in decision.carried.notes


# --- two hosts in maintenance -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["preparing", "error-in-preparing"])
def test_d7_a_host_on_its_way_into_maintenance_is_sent_nothing(word):
    """It still has no flag, and its score is whole: without this two such hosts hand the VM to each other for ever."""
    world = up(peers=(2,)).local()
    world.edit(2, extra=(*world.slots[2].extra, ("maintenance_state", word)))
    decision = world.step()
    assert decision.action is None
    assert "no-target" in codes(decision)


def test_d7_that_word_counts_only_with_a_right_checksum():
    world = up(peers=(2, 3)).local()
    world.edit(2, extra=(*world.slots[2].extra, ("maintenance_state", "preparing")), extra_ok=False)
    assert world.step().action.target_id == 3  # unreadable text: no live target either
    world = up(peers=(2,)).local()
    world.edit(2, extra=(*world.slots[2].extra, ("maintenance_state", "preparing")), extra_ok=False)
    assert kind(world.step()) is STOP  # a host of oVirt's own, for all that is known
