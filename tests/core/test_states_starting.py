"""What stands against a start: each check alone, back-off, rank, last resort."""

from dataclasses import replace

import pytest

from ovirt_he_ha.core import notes
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    EngineStatus,
    Health,
    HostLease,
    Invalid,
    LeaseOwner,
    LockspaceState,
    Outcome,
    Reading,
    Seen,
    State,
    Vm,
)
from ovirt_he_ha.core.situation import look
from ovirt_he_ha.core.starting import objections
from tests.core.world import (
    BAD,
    DOWN,
    LEASE,
    OTHER_LEASE,
    OWN_EXTRA,
    UP,
    T,
    World,
    changed,
    codes,
    events,
    extra,
    kind,
    peer,
)

S = State
START = ActionKind.START
UNREAD = Reading.missing("error")


def owned(world, host_id, flag=None):
    world.owner = Reading.of(LeaseOwner(host_id, 1))
    if flag is not None:
        world.flags[host_id] = flag


def left(world, generation, seconds=0.0):
    """The host of the owner gave its id back, as sanlock says."""
    world.owner_left, world.owner_left_for = generation, seconds


def local_unknown(world):
    world.host = replace(world.host, local_maintenance=UNREAD)


def problem(world):
    world.host = replace(world.host, definition_problem="qcow2")


def no_lease(world):
    world.host = replace(world.host, lease=None)


def other_lease(world):
    world.edit(2, extra=changed(OWN_EXTRA, lease="sd:other:/p:0"))


def whiteboard_lost(world):
    world.whiteboard = Reading.of(LockspaceState.NOT_HELD)


AGAINST = [
    ("global-maintenance-unknown", lambda w: setattr(w, "global_maintenance", UNREAD)),
    ("local-maintenance-unknown", local_unknown),
    ("no-baseline", lambda w: w.carry(seen={})),
    ("engine-up-elsewhere", lambda w: w.edit(2, engine=UP)),
    ("engine-up-elsewhere", lambda w: w.edit(3, engine=BAD, extra=())),
    ("incoming-migration", lambda w: w.vm(DOWN, incoming=True)),
    ("too-new", lambda w: w.slots.update({3: Invalid("too-new")}) or w.dead(2)),
    ("lockspace", lambda w: setattr(w, "lockspace", Reading.of(LockspaceState.JOINING))),
    ("lockspace", lambda w: setattr(w, "lockspace", Reading.of(LockspaceState.HELD, 30.0))),
    ("lockspace", whiteboard_lost),
    ("definition", problem),
    ("lease-unset", no_lease),
    ("lease-mismatch", other_lease),
    ("unfenced", lambda w: setattr(w, "watchdog_armed", None)),
    ("reset-pending", lambda w: setattr(w, "reset_within", 90.0)),
    ("renewal-unknown", lambda w: setattr(w, "renewed_ago", None)),
    ("renewal-late", lambda w: setattr(w, "renewed_ago", 30.0)),
    ("lease-unknown", lambda w: setattr(w, "owner", UNREAD)),
    ("lease-unknown", lambda w: setattr(w, "owner", Reading.of(LeaseOwner(0), 30.0))),
    ("lease-held", lambda w: owned(w, 3, HostLease.LIVE)),
    ("lease-held", lambda w: owned(w, 3, HostLease.FAIL)),
    ("lease-held", lambda w: owned(w, 3, HostLease.UNKNOWN)),
    ("lease-held", lambda w: owned(w, 9)),
    ("lease-held", lambda w: owned(w, 9, HostLease.FREE)),
    ("lease-held", lambda w: owned(w, 9) or left(w, 0)),
    ("lease-held", lambda w: owned(w, 9) or left(w, 2)),
    ("lease-held", lambda w: owned(w, 3, HostLease.LIVE) or left(w, 2, 1000.0)),
    ("lease-own-process", lambda w: owned(w, 1) or w.vm(DOWN, pid=4711)),
    ("start-backoff", lambda w: w.budget(start_failures=1, next_start_at=w.now + 9)),
    ("lost-race", lambda w: w.carry(notes={notes.LOST_RACE: w.now + 9})),
    ("crash-restart", lambda w: w.carry(notes={notes.RESTART_AT: w.now + 9})),
    ("score-zero", lambda w: w.budget(handed_over_until=w.now + 9)),
    ("score-zero", lambda w: w.budget(start_failures=4, next_start_at=w.now - 1)),
    ("rank", lambda w: w.edit(3, score=3401)),
    ("peer-starting", lambda w: w.edit(2, extra=changed(OWN_EXTRA, state="EngineStart"))),
]


@pytest.mark.parametrize("code, against", AGAINST, ids=[f"{n}-{row[0]}" for n, row in enumerate(AGAINST)])
def test_each_check_alone_forbids_the_start(code, against):
    world = World()
    assert kind(world.look()) is START
    world.carry(notes={notes.CLAIM + "2": world.now - 5})
    against(world)
    decision = world.step()
    assert decision.action is None
    assert code in codes(decision)
    assert decision.state is S.ENGINE_DOWN


@pytest.mark.parametrize(
    "owner, flag",
    [(0, None), (1, None), (1, HostLease.LIVE), (3, HostLease.DEAD), (9, HostLease.DEAD)],
)
def test_a_lease_that_can_be_had(owner, flag):
    world = World(peers=(2,))
    owned(world, owner, flag)
    assert kind(world.step()) is START


@pytest.mark.parametrize("flag", [None, HostLease.FREE])
def test_s1_an_owner_that_left_in_the_leases_own_generation_is_not_waited_for(flag):
    world = World(peers=(2,))
    owned(world, 9, flag)
    left(world, 1)
    assert kind(world.look()) is START
    world.owner = Reading.of(LeaseOwner(9, 2))  # it is back, and took the lease again: what is told is of before
    assert "lease-held" in codes(world.look())


def test_s1_a_later_life_that_left_counts_when_a_silent_host_would_be_dead():
    """A sanlock that was started again and left says nothing of the VM of the first one; its watchdog does."""
    world = World(peers=(2,))
    owned(world, 9)
    left(world, 2, 159.9)
    decision = world.look()
    assert "lease-held" in codes(decision)
    assert {c.event: c.at for c in decision.countdowns}["lease"] == pytest.approx(world.now + 0.1)
    left(world, 2, 160.0)
    assert kind(world.look()) is START
    left(world, 0, 1000.0)  # the lockspace was written anew: it knows nothing of that owner
    decision = world.look()
    assert "lease-held" in codes(decision)
    assert "lease" not in events(decision)


def test_s5_without_a_fresh_host_list_nobody_is_known_to_have_left():
    world = World(peers=(2,))
    owned(world, 9)
    left(world, 1)
    world.hosts_age = 30.0
    assert "lease-held" in codes(world.look())


def test_a_late_renewal_is_not_said_beside_a_lost_lockspace():
    world = World()
    world.lockspace, world.renewed_ago = Reading.of(LockspaceState.NOT_HELD), None
    said = codes(world.step())
    assert "lockspace" in said and "renewal-unknown" not in said


@pytest.mark.parametrize("io_timeout", [1, 2, 10, 30])
def test_s11_what_is_started_has_half_of_the_guards_time_left(io_timeout):
    """The guard kills 6 io_timeouts after the last renewal; sanlock renews every 2."""
    world = World()
    world.io_timeout = io_timeout
    world.renewed_ago = 3.0 * io_timeout - 0.1
    assert kind(world.look()) is START
    world.renewed_ago = 3.0 * io_timeout
    decision = world.look()
    assert decision.action is None
    assert "renewal-late" in codes(decision)


def test_an_old_host_list_says_nothing_of_the_owner():
    world = World(peers=(2,))
    owned(world, 3, HostLease.DEAD)
    world.hosts_age = 30.0
    decision = world.step()
    assert decision.action is None
    assert "lease-held" in codes(decision)


def test_every_reason_is_said_not_only_the_first():
    world = World()
    problem(world)
    owned(world, 3, HostLease.LIVE)
    world.watchdog_armed = False
    assert {"definition", "unfenced", "lease-held", "score-zero"} <= set(codes(world.step()))


def test_the_phase_is_the_first_reason():
    world = World()
    owned(world, 3, HostLease.LIVE)
    assert extra(world.step())["phase"] == "lease-held"


def test_an_owner_that_died_is_counted_down_by_what_sanlock_saw_of_it():
    world = World()
    owned(world, 3, HostLease.LIVE)
    world.owner_silent = 47.0
    # 8 * 10 + 60 s of silence, 47 of them gone
    assert events(world.step())["lease"] == world.now + 93


def test_an_owner_that_renews_is_not_counted_down():
    """Whatever its slot does: its agent may be gone, and the VM goes on."""
    world = World()
    owned(world, 3, HostLease.LIVE)
    world.add(peer(3), alive=False)
    world.carry(seen={**world.carried.seen, 3: Seen("100:00000064", 0.0, world.now - 70.0)})
    assert "lease" not in events(world.step())


@pytest.mark.parametrize("so_far, left", [(5.0, 16.0), (30.0, 110.0)])
def test_a_join_is_counted_down(so_far, left):
    """21 s are usual; then the id is watched for 140."""
    world = World()
    world.lockspace = Reading.of(LockspaceState.JOINING)
    world.joining_for = so_far
    decision = world.step()
    assert events(decision)["join"] == world.now + left
    assert decision.reasons[0].values == {"name": "storage", "state": "joining"}


def test_an_order_that_has_not_returned_is_named_and_counted_down():
    world = World()
    world.report = ActionReport(Action(ActionKind.STOP, deadline=15.0), world.now - 4.0)
    decision = world.step()
    assert codes(decision) == ["action-running"]
    assert decision.reasons[0].values == {"action": "stop", "seconds": "4"}
    assert events(decision) == {"action-deadline": world.now + 11.0}


def test_failed_starts_are_counted_down_until_they_are_forgotten():
    world = World()
    world.budget(start_failures=4, next_start_at=world.now + 80.0)
    assert events(world.step())["retries-forgotten"] == world.now + 680.0


def test_the_baseline_is_counted_down():
    world = World()
    world.carry(seen={2: Seen("100:00000064", world.now - 20), 3: Seen("x", 0.0, world.now)})
    decision = world.step()
    assert events(decision)["baseline"] == world.now + 40


# --- whose turn it is (D6) ----------------------------------------------------------------------------------------


def test_d6_rank_waits_fifteen_seconds_for_each_better_host():
    world = World()
    world.edit(2, score=3401).edit(3, score=3402)
    decision = world.step()
    assert codes(decision) == ["rank"]
    assert decision.reasons[0].values == {
        "count": "2",
        "host": "3",
        "hostname": "host3",
        "score": "3402",
        "wait": "30",
    }
    assert events(decision)["rank"] == world.now + 30
    assert world.run(60) == 30
    assert kind(world.decision) is START


def test_d6_ties_go_to_the_lower_id():
    world = World()
    world.host = replace(world.host, host_id=4)
    world.flags = {2: HostLease.LIVE, 3: HostLease.LIVE, 4: HostLease.LIVE}
    decision = world.step()
    assert codes(decision) == ["rank"]
    assert events(decision)["rank"] == world.now + 30


def test_d6_maintenance_score_0_and_silence_do_not_count():
    world = World(peers=(2, 3, 4))
    world.edit(2, score=3500, maintenance=True).edit(3, score=0).dead(4)
    assert kind(world.step()) is START


def test_d6_the_wait_begins_when_the_lease_became_startable():
    world = World()
    world.edit(2, score=3401)
    owned(world, 3, HostLease.LIVE)
    world.step()
    assert world.step(100).carried.startable_since is None
    owned(world, 0)
    assert world.step(5).carried.startable_since == world.now
    assert world.run(60) == 15


def test_an_unreadable_owner_does_not_restart_the_wait():
    world = World()
    world.edit(2, score=3401)
    world.step()
    since = world.carried.startable_since
    world.owner = UNREAD
    assert world.step(5).carried.startable_since == since
    world.owner = Reading.of(LeaseOwner(0))
    assert kind(world.step(10)) is START


def test_the_wait_needs_a_baseline():
    world = World()
    world.edit(2, score=3401)
    world.carry(seen={})
    assert world.step().carried.startable_since is None


def test_d6_a_cleanly_stopped_peer_with_a_live_lease_suppresses():
    world = World(peers=(2,))
    world.edit(2, stopped=True)
    owned(world, 2, HostLease.LIVE)
    decision = world.step()
    assert "stopped-peer-runs" in codes(decision)
    assert decision.action is None


def test_d6_a_cleanly_stopped_peer_that_is_gone_does_not():
    world = World(peers=(2,))
    world.edit(2, stopped=True)
    owned(world, 2, HostLease.DEAD)
    assert kind(world.step()) is START


@pytest.mark.parametrize("flag", [HostLease.FREE, HostLease.UNKNOWN, HostLease.LIVE])
def test_d6_nor_does_one_that_left_the_lockspace_and_whose_broker_joined_it_again(flag):
    """Somebody removed the lockspace of a host whose agent was stopped: sanlock ended the VM there."""
    world = World(peers=(2,))
    world.edit(2, stopped=True)
    owned(world, 2, flag)
    left(world, 1)
    assert kind(world.look()) is START
    left(world, 2, 1000.0)
    decision = world.look()
    assert ("lease-held" in codes(decision)) == (flag is not HostLease.FREE)
    assert ("stopped-peer-runs" in codes(decision)) == (flag is HostLease.LIVE)


# --- a peer that is starting --------------------------------------------------------------------------------------


def starting_peer(state="EngineStarting", phase=None, score=3400, host_id=2):
    world = World()
    return world.edit(host_id, score=score, extra=changed(OWN_EXTRA, state=state, phase=phase))


@pytest.mark.parametrize(
    "world",
    [starting_peer("EngineStart"), starting_peer("EngineStarting"), starting_peer("EngineDown", "restarting")],
    ids=["start", "starting", "restarting"],
)
def test_a_claim_is_waited_for_and_not_for_ever(world):
    assert kind(world.look()) is START  # it has just appeared, and its host comes after us
    world.carry(notes={notes.CLAIM + "2": world.now - 1})
    decision = world.step()
    assert codes(decision)[0] == "peer-starting"
    assert events(decision)["peer-starting"] == world.now + 59
    assert world.run(100) == 60


def test_a_claim_of_a_host_that_comes_before_us_counts_at_once():
    decision = starting_peer(score=3401).step()
    assert "peer-starting" in codes(decision)


def test_a_claim_ends_with_its_state():
    world = starting_peer()
    world.carry(notes={notes.CLAIM + "2": world.now - 1})
    world.step()
    world.edit(2, extra=OWN_EXTRA)
    assert kind(world.step(5)) is START
    assert notes.CLAIM + "2" not in world.carried.notes


def test_a_silent_host_claims_nothing():
    world = starting_peer()
    world.carry(notes={notes.CLAIM + "2": world.now - 1})
    world.dead(2)
    assert kind(world.step()) is START


def test_two_hosts_that_decide_together_do_not_stop_each_other():
    """Each sees the other's claim for the first time: the one that comes first goes on."""
    first = starting_peer("EngineStart")
    assert kind(first.look()) is START
    second = World(peers=(1, 3))
    second.host = replace(second.host, host_id=2)
    second.edit(1, extra=changed(OWN_EXTRA, state="EngineStart"))
    second.carry(startable_since=second.now - 15)
    assert "peer-starting" in codes(second.look())


# --- outcomes -----------------------------------------------------------------------------------------------------


def test_d3_a_lost_race_costs_nothing_and_is_looked_at_again_in_ten_seconds():
    world = World()
    world.step()
    begun = world.now
    decision = world.finish(Outcome.LOST_RACE)
    assert decision.state is S.ENGINE_DOWN
    assert decision.action is None
    assert "lost-race" in codes(decision)
    assert decision.carried.budgets == World().carried.budgets
    assert decision.score.score == 3400
    world.run(30, every=1)
    assert world.now - begun == 11
    assert kind(world.decision) is START


@pytest.mark.parametrize(
    "outcome, code",
    [(Outcome.FAILED, "start-failed"), (Outcome.REFUSED, "start-refused"), (Outcome.OVERDUE, "start-overdue")],
)
def test_d2_a_failed_start_backs_off_and_says_so(outcome, code):
    world = World()
    world.step()
    decision = world.finish(outcome, "the reason")
    assert decision.state is S.ENGINE_DOWN
    assert {"start-backoff", code} <= set(codes(decision))
    assert events(decision)["start-backoff"] == world.now + 10
    assert decision.carried.budgets.start_failures == 1
    assert [p.points for p in decision.score.penalties] == [50]


def test_d2_the_back_off_doubles_up_to_ten_minutes():
    world = World(peers=())
    world.carry(no_peer_since=0.0)
    waits = []
    world.step()
    for _ in range(9):
        world.finish(Outcome.FAILED)
        waits.append(world.run(2000, every=1))
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_d2_success_forgets_failures():
    world = World(state=S.ENGINE_STARTING, start_problem="start-failed").runs()
    world.budget(start_failures=3, next_start_at=world.now + 40)
    decision = world.step()
    assert decision.carried.budgets.start_failures == 0
    assert decision.carried.budgets.next_start_at == 0
    assert decision.carried.start_problem == ""


def test_d2_old_failures_are_forgotten_so_that_the_host_counts_again():
    world = World()
    world.edit(2, engine=UP)
    world.budget(start_failures=5, next_start_at=world.now)
    assert world.step(599).score.zero_reason == "retries"
    assert world.step(1).score.score == 3400


def test_a_failure_counts_also_when_maintenance_came_meanwhile():
    world = World()
    world.step()
    world.global_maintenance = Reading.of(True)
    decision = world.finish(Outcome.FAILED)
    assert decision.state is S.GLOBAL_MAINTENANCE
    assert decision.carried.budgets.start_failures == 1


def test_local_maintenance_waits_for_the_start_that_runs():
    world = World()
    world.step()
    world.local()
    assert world.step(5).state is S.ENGINE_START
    world.runs(Health.BAD)
    decision = world.finish(Outcome.OK)
    assert decision.state is S.ENGINE_STARTING
    assert kind(decision) is ActionKind.MIGRATE


def test_local_maintenance_after_a_start_that_failed():
    world = World()
    world.step()
    world.local()
    assert world.finish(Outcome.LOST_RACE).state is S.LOCAL_MAINTENANCE


# --- last resort (S3) ---------------------------------------------------------------------------------------------


def poor(world):
    world.host = replace(world.host, score=replace(world.host.score, base_score=100))
    world.watch(network=Reading.of(0.0))
    return world


def test_s3_at_score_0_only_as_the_last_resort():
    world = poor(World())
    decision = world.step()
    assert codes(decision) == ["score-zero"]
    assert decision.score.score == 0
    world.dead(2).dead(3)
    world.step(5)
    begun = world.now
    assert "last-resort" in events(world.decision)
    world.run(200)
    assert world.now - begun == T.last_resort
    assert {"start", "last-resort"} <= set(codes(world.decision))


def test_s3_last_resort_starts_by_rank():
    world = poor(World())
    world.edit(2, score=0).edit(3, score=0)
    world.host = replace(world.host, host_id=4)
    world.flags = {2: HostLease.LIVE, 3: HostLease.LIVE, 4: HostLease.LIVE}
    world.carry(no_peer_since=world.now - 200)
    assert codes(world.step()) == ["rank"]
    assert world.run(60) == 30


def test_s3_the_last_resort_clock_stops_when_somebody_can():
    world = poor(World(peers=(2,)))
    world.carry(no_peer_since=world.now - 119)
    assert world.step(5).carried.no_peer_since is None


@pytest.mark.parametrize("why", ["penalties", "retries"])
def test_s3_while_the_record_is_of_this_life_of_this_host_there_is_nobody_to_leave_it_to(why):
    """Host 2 and 3 are better, and sanlock refuses them the lease as long as host 1 lives."""
    world = poor(World()) if why == "penalties" else World()
    if why == "retries":
        world.budget(start_failures=4, next_start_at=world.now - 1.0)
    owned(world, 1)
    decision = world.step()
    assert codes(decision)[:2] == ["score-zero", "last-resort-wait"]
    assert events(decision)["last-resort"] == world.now + T.last_resort
    assert "retries-forgotten" not in events(decision)  # it starts before: that is what is told
    assert world.run(300) == T.last_resort
    assert kind(world.decision) is START
    assert {"start", "last-resort"} <= set(codes(world.decision))


@pytest.mark.parametrize(
    "change",
    [
        lambda w: owned(w, 0),  # any host can have it
        lambda w: owned(w, 3, HostLease.DEAD),
        lambda w: setattr(w, "generation", 2),  # the record is of an earlier life: any host can have it
        lambda w: setattr(w, "generation", None),
        lambda w: setattr(w, "owner", UNREAD),
        lambda w: setattr(w, "owner", Reading.of(LeaseOwner(1, 1), 60.0)),
        lambda w: w.vm(DOWN, pid=4711),
    ],
)
def test_s3_at_score_0_nobody_else_is_able_only_while_the_record_is_surely_ours(change):
    world = poor(World())
    owned(world, 1)
    world.run(T.last_resort - 5.0)
    change(world)
    assert world.run(500) == 500
    assert world.decision.carried.no_peer_since is None
    owned(world, 1)
    world.generation = 1
    world.vm(DOWN, pid=None)
    assert world.run(300) >= T.last_resort


def test_starts_from_left_leases_say_so():
    world = World(peers=(2,))
    owned(world, 3, HostLease.DEAD)
    decision = world.step()
    assert decision.reasons[0].values == {"lease": "left by host 3"}


# --- leases that disagree -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, conflict",
    [
        ({"extra_ok": False}, False),
        ({"extra": ()}, False),
        ({"extra": OWN_EXTRA}, False),
        ({}, True),
    ],
)
def test_a_peers_lease_counts_only_with_a_right_crc(change, conflict):
    world = World(peers=(2,))
    other_lease(world)
    world.edit(2, **change)
    assert ("lease-mismatch" in codes(world.step())) is conflict


def test_a_silent_peers_lease_counts_while_sanlock_calls_it_live():
    world = World(peers=(2,))
    other_lease(world)
    world.add(world.slots[2], alive=False)
    assert "lease-mismatch" in codes(world.look())
    world.flags[2] = HostLease.DEAD
    assert "lease-mismatch" not in codes(world.look())


def test_our_own_lease_decides_what_is_another():
    world = World(peers=(2,))
    world.host = replace(world.host, lease=OTHER_LEASE)
    assert "lease-mismatch" in codes(world.step())
    assert world.host.lease != LEASE


def test_a_host_that_is_about_to_be_reset_is_no_place_for_the_vm():
    """Not even as the last resort: it would lose it again within minutes."""
    world = World(peers=())
    world.reset_within = 90.0
    decision = world.step()
    assert world.look().score.zero_reason == "reset-pending"
    assert {c.event: c.at for c in decision.countdowns}["reset-pending"] == world.now + 90.0
    world.carry(no_peer_since=world.now - 1000.0)
    assert world.look().action is None
    world.reset_within = None
    assert kind(world.step()) is START


def test_unfenced_with_the_exception():
    world = World()
    world.watchdog_armed = False
    assert world.look().score.zero_reason == "unfenced"
    world.host = replace(world.host, allow_unfenced=True)
    assert kind(world.step()) is START


def test_an_upstream_peer_without_a_reading_is_no_obstacle():
    world = World(peers=(2,))
    world.edit(2, engine=None, extra=(("state", "EngineDown"),), extra_ok=False)
    assert kind(world.step()) is START


def test_a_peer_that_starts_and_shows_the_vm_is_named_as_running_it():
    world = World(peers=(2,))
    world.edit(2, engine=EngineStatus(Vm.UP, Health.BAD, "Powering up"), extra=(("state", "EngineStarting"),))
    assert "engine-up-elsewhere" in codes(world.step())


def test_the_list_of_objections_stands_alone():
    """Whatever state asks: maintenance and an unknown VM are in the list itself, not only in the guards before it."""
    world = World().local()
    world.global_maintenance = Reading.of(True)
    world.engine = UNREAD
    sit = look(world.snapshot(), T)
    found = [why.code for why in objections(sit, Draft(sit))]
    assert found[:3] == ["global-maintenance", "local-maintenance", "engine-unknown"]


def test_a_migration_into_a_host_in_maintenance_is_let_in():
    world = World().local()
    decision = world.vm(DOWN, incoming=True).step()
    assert decision.state is S.ENGINE_DOWN
    assert {"local-maintenance", "incoming-migration"} <= set(codes(decision))
    assert decision.score.score == 0


# --- an upstream host that was reset ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, zero",
    [
        (lambda w: None, "lease-held"),
        (lambda w: w.edit(2, extra_ok=True), ""),  # one of ours: its generation tells
        (lambda w: w.edit(2, engine=UP), ""),
        (lambda w: w.edit(2, engine=None), ""),
        (lambda w: w.edit(2, engine=EngineStatus(Vm.UNKNOWN, Health.UNKNOWN)), ""),
        (lambda w: w.dead(2), ""),
        (lambda w: w.flags.update({2: HostLease.FAIL}), ""),
        (lambda w: left(w, 1), ""),
        (lambda w: owned(w, 3), ""),
        (lambda w: setattr(w, "owner", UNREAD), ""),
        (lambda w: setattr(w, "owner", Reading.of(LeaseOwner(2, 1), 60.0)), ""),
        (lambda w: w.vm(UP), ""),
    ],
)
def test_ours_yields_to_an_upstream_host_that_holds_the_lease_and_lost_the_vm(change, zero):
    world = World()
    owned(world, 2)
    world.edit(2, extra=(("state", "EngineDown"),), extra_ok=False)
    change(world)
    decision = world.step()
    assert decision.score.zero_reason == zero
    if zero:
        assert decision.action is None and "lease-held" in codes(decision)


@pytest.mark.parametrize(
    "owner, generation, start", [((1, 1), 1, True), ((1, 1), 2, False), ((1, 1), None, False), ((0, 0), 1, False)]
)
def test_d6_nobody_goes_first_while_the_record_is_of_this_life_of_this_host(owner, generation, start):
    world = World(peers=tuple(range(2, 9)))  # seven better ones: 105 s by rank
    for rival in range(2, 9):
        world.edit(rival, score=3401)
    world.generation = generation
    world.owner = Reading.of(LeaseOwner(*owner))
    world.carry(startable_since=world.now - 59.0)
    decision = world.step()
    # The record may be older than the orderly end of the copy that it names: the better host comes first.
    assert kind(decision) is None
    assert "rank" in codes(decision)
    world.carry(startable_since=world.now - 60.0)
    decision = world.step()
    assert (kind(decision) is START) is start
    assert ("rank" in codes(decision)) is not start


# --- short timeouts ---------------------------------------------------------------------------------------------------


def test_a_slot_of_a_host_that_sanlock_calls_dead_is_of_a_life_that_has_ended():
    """With short timeouts a host is dead before its slot has been silent for a minute."""
    world = World((2, 3)).edit(2, engine=UP)
    assert "engine-up-elsewhere" in codes(world.look())
    world.flags[2] = HostLease.DEAD
    assert kind(world.look()) is ActionKind.START


def test_of_a_host_that_does_not_say_which_lease_it_has_only_silence_counts():
    world = World((2, 3)).edit(2, engine=UP, extra=(), extra_ok=False)
    world.flags[2] = HostLease.DEAD
    decision = world.look()
    assert decision.action is None
    assert "engine-up-elsewhere" in codes(decision)


def test_who_waits_for_the_last_resort_says_so():
    world = World(()).budget(handed_over_until=1e9)
    decision = world.step(1)
    assert {"score-zero", "last-resort-wait"} <= set(codes(decision))
