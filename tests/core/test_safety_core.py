"""The safety rules as far as the policy keeps them; each test fails when its rule is taken out."""

from dataclasses import replace

import pytest

from ovirt_he_ha.core import notes
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.model import (
    ActionKind,
    EngineFacts,
    EngineStatus,
    Exit,
    Fence,
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
from tests.core.world import (
    DOWN,
    OTHER_LEASE,
    OWN_EXTRA,
    PAUSED,
    UNKNOWN,
    UP,
    Action,
    ActionReport,
    T,
    World,
    changed,
    codes,
    extra,
    kind,
    peer,
)

S = State
START = ActionKind.START


# --- S1: no start without the lease -------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [HostLease.LIVE, HostLease.FAIL, HostLease.UNKNOWN, None])
def test_s1_no_start_while_another_host_may_hold_the_lease(flag):
    world = World(peers=(2,))
    world.owner = Reading.of(LeaseOwner(3, 1))
    if flag is not None:
        world.flags[3] = flag
    world.add(peer(3), alive=False)
    decision = world.step()
    assert decision.action is None
    assert "lease-held" in codes(decision)


BACK = {"gen": "2", "state": "LocalMaintenance"}


@pytest.mark.parametrize(
    "changes, startable",
    [
        ({}, True),
        ({"engine": replace(DOWN, vm=Vm.DOWN_UNEXPECTED)}, True),
        ({"extra": changed(OWN_EXTRA, gen="1")}, False),
        ({"extra": changed(OWN_EXTRA, gen="x")}, False),
        ({"extra": OWN_EXTRA}, False),
        ({"extra_ok": False}, False),
        ({"engine": UNKNOWN}, False),
        ({"engine": None}, False),
        ({"engine": UP}, False),
    ],
)
def test_s1_an_owner_that_came_back_without_the_vm_is_not_waited_for(changes, startable):
    """Host 3 rebooted into maintenance; the record on disk is of its earlier life. Only its own word counts."""
    world = World()
    world.owner = Reading.of(LeaseOwner(3, 1))
    world.edit(3, maintenance=True, score=0, extra=changed(OWN_EXTRA, **BACK))
    world.edit(3, **changes)
    assert (kind(world.look()) is START) is startable
    world.add(world.slots[3], alive=False)
    assert world.step().action is None


def test_s1_a_start_follows_the_first_look_that_shows_the_owner_dead():
    world = World(peers=(2,))
    world.owner = Reading.of(LeaseOwner(3, 1))
    world.flags[3] = HostLease.FAIL
    world.add(peer(3), alive=False)
    world.step()
    world.flags[3] = HostLease.DEAD
    assert kind(world.step(1)) is START


def test_s1_no_lease_no_start():
    world = World()
    world.host = replace(world.host, lease=None)
    assert world.step().action is None


def test_s1_a_valid_lease_on_another_resource_protects_nothing():
    world = World()
    world.host = replace(world.host, lease=OTHER_LEASE)
    decision = world.step()
    assert decision.action is None
    assert "lease-mismatch" in codes(decision)
    assert "lease-mismatch" in extra(decision)["problem"]


def test_s1_a_refused_definition_is_never_started():
    world = World()
    world.host = replace(world.host, definition_problem="no-lease")
    assert world.step().action is None


# --- S2: a paused engine dies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("maintenance", [False, True, None])
@pytest.mark.parametrize("reason", ["user", "ioerror", "unknown", ""])
def test_s2_a_paused_engine_is_killed_in_every_state(state, maintenance, reason):
    world = World(state=state).runs(paused_for=0.0, pause_reason=reason).vm(PAUSED)
    world.global_maintenance = Reading.missing("error") if maintenance is None else Reading.of(maintenance)
    decision = world.step()
    assert decision.fence is not None
    assert 0 < decision.fence.deadline <= 5
    assert decision.action is None


def test_s2_also_while_the_agent_stops():
    world = World().runs(paused_for=3.0, pause_reason="user").vm(PAUSED)
    world.more = {"stopping": True}
    decision = world.step()
    assert decision.state is S.AGENT_STOPPED
    assert decision.fence.deadline == 2


TOLERATED = [
    # name, facts, own migration, seconds it is tolerated
    ("starting up", {"pause_reason": "starting-up"}, False, 10_000.0),
    ("incoming", {"pause_reason": "migration", "incoming": True}, False, 10_000.0),
    ("own migration", {"pause_reason": "migration", "outgoing": True}, True, 30.0),
    ("foreign migration", {"pause_reason": "user", "outgoing": True}, False, 5.0),
    ("migration just over", {"pause_reason": "migration"}, False, 5.0),
]


@pytest.mark.parametrize("name, facts, own, limit", TOLERATED, ids=[row[0] for row in TOLERATED])
def test_s2_exceptions_and_their_end(name, facts, own, limit):
    world = World(state=S.ENGINE_UP).runs(paused_for=limit, **facts).vm(PAUSED)
    if own:
        world.report = ActionReport(Action(ActionKind.MIGRATE, 2, "x", 100.0), world.now)
        world.carry(migration=world.report.action)
    decision = world.step()
    assert decision.fence is None
    assert decision.action is None
    assert "paused-tolerated" in codes(decision)
    if limit < 10_000:
        world.vm(PAUSED, paused_for=limit + 0.1)
        assert world.step(0.1).fence is not None


def test_s2_a_migration_of_ours_excuses_no_pause_that_it_does_not_make():
    """A disk error while it runs: the lease is gone, and whoever takes it must not wait for half a minute."""
    world = World(state=S.ENGINE_UP).runs(paused_for=6.0, pause_reason="ioerror", outgoing=True).vm(PAUSED)
    world.report = ActionReport(Action(ActionKind.MIGRATE, 2, "x", 100.0), world.now)
    world.carry(migration=world.report.action)
    assert world.step().fence is not None


def test_s2_a_migration_of_ours_that_is_long_over_excuses_nothing():
    world = World(state=S.ENGINE_UP).runs(paused_for=0.5, pause_reason="user").vm(PAUSED)
    world.carry(notes={notes.MOVED: world.now - 31})
    assert world.step().fence is not None
    world.carry(notes={notes.MOVED: world.now - 10})
    assert world.step().fence is None


def test_s2_the_agent_wakes_when_the_tolerance_ends():
    world = World(state=S.ENGINE_UP).runs(paused_for=3.0, pause_reason="migration", outgoing=True).vm(PAUSED)
    assert world.step().wake_at == world.now + 2


def test_s2_an_unknown_vm_is_not_killed():
    world = World(state=S.ENGINE_UP)
    world.engine = Reading.of(EngineFacts(PAUSED, paused_for=100.0), 30.0)
    assert world.step().fence is None


# --- S3: no start before every known host is established ----------------------------------------------------------


def fresh(*peers):
    """The agent has just started: it has seen nothing change."""
    world = World(peers)
    world.carry(seen={host_id: Seen("100:00000064", world.now) for host_id in peers})
    return world


def test_s3_a_fresh_agent_waits_for_every_known_host():
    world = fresh(2, 3)
    world.step()
    assert world.decision.action is None
    world.frozen.add(3)
    assert world.step(30).action is None  # host 2 has changed, host 3 is silent for 30 s
    assert codes(world.decision)[0] == "no-baseline"
    assert kind(world.step(30)) is START


def test_s3_sanlock_establishes_a_silent_host_at_once():
    world = fresh(2)
    world.flags[2] = HostLease.DEAD
    assert kind(world.step()) is START


def test_s3_slots_that_cannot_be_read_are_no_baseline():
    world = World()
    world.slots_age = None
    assert world.step().action is None
    world.slots_age = 30.0
    assert world.step(5).action is None


# --- S5: unknown never acts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize(
    "engine",
    [Reading.missing("not-yet"), Reading.missing("error", 3.0), Reading.of(EngineFacts(UNKNOWN))],
    ids=["not-yet", "error", "vm-unknown"],
)
def test_s5_an_unknown_vm_never_leads_to_an_action(state, engine):
    world = World(state=state, stop_asked_at=0.0, stop_purpose="hung", better_peer_since=0.0).local()
    world.engine = engine
    assert world.step().action is None


@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("why", ["garbage", "overdue", "not-yet"])
def test_s5_an_unknown_global_maintenance_never_leads_to_an_action(here, why):
    world = World(state=S.ENGINE_UP if here else S.ENGINE_DOWN).local(here)
    if here:
        world.runs(Health.BAD, bad_for=1000.0, stalled_for=1000.0)
    world.global_maintenance = Reading.missing(why)
    decision = world.step()
    assert decision.action is None
    assert "global-maintenance-unknown" in codes(decision)
    assert "global-maintenance-unknown" in extra(decision)["problem"]


def test_s5_an_unknown_local_maintenance_does_not_start_and_is_named():
    world = World()
    world.host = replace(world.host, local_maintenance=Reading.missing("ha-conf"))
    decision = world.step()
    assert decision.action is None
    assert decision.score.score == 0
    assert decision.score.zero_reason == "local-maintenance-unknown"
    world.carry(state=S.LOCAL_MAINTENANCE)
    assert world.step(5).state is S.LOCAL_MAINTENANCE


def test_s5_an_unknown_local_maintenance_does_not_move_the_vm():
    world = World(state=S.ENGINE_UP).runs()
    world.host = replace(world.host, local_maintenance=Reading.missing("ha-conf"))
    assert world.run(300, every=10) == 300


def test_s5_unknown_monitors_do_not_move_the_vm():
    world = World(state=S.ENGINE_UP).runs()
    none = Reading.missing("overdue")
    world.watch(network=none, bridge=none, mem_free=none, cpu_load=none, storage_latency=none)
    assert world.run(300, every=10) == 300


# --- S6: one bad slot is one bad host -----------------------------------------------------------------------------


def test_s6_a_bad_slot_does_not_hinder_the_others():
    world = World()
    world.slots[3] = Invalid("crc")
    world.flags[3] = HostLease.DEAD
    decision = world.step()
    assert kind(decision) is START
    assert decision.alive == (2,)


def test_d13_a_newer_format_is_acted_on():
    world = World()
    world.slots[3] = Invalid("too-new", "2")
    world.flags[3] = HostLease.DEAD
    decision = world.step()
    assert decision.action is None
    assert decision.score.score == 0
    assert decision.score.zero_reason == "too-new"
    assert "too-new" in extra(decision)["problem"]
    world.runs()
    world.step(5)
    assert world.run(300, every=10) == 300  # and the VM that runs here stays


# --- S7: ids that are not proven ours -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [LockspaceState.MISMATCH, LockspaceState.ID_TAKEN])
@pytest.mark.parametrize("which", ["lockspace", "whiteboard"])
@pytest.mark.parametrize("here", [False, True])
def test_s7_a_mismatch_is_named_with_score_0_no_start_no_publish(state, which, here):
    world = World()
    if here:
        world.runs()
    setattr(world, which, Reading.of(state))
    decision = world.step()
    assert decision.action is None
    assert decision.score.score == 0
    assert decision.record is None
    assert {"lockspace", "no-publish"} <= set(codes(decision))


@pytest.mark.parametrize("state", [s for s in LockspaceState if s is not LockspaceState.HELD])
def test_s7_nothing_is_published_unless_the_whiteboard_id_is_held(state):
    world = World()
    world.whiteboard = Reading.of(state)
    decision = world.step()
    assert decision.record is None
    assert decision.action is None


@pytest.mark.parametrize("reading", [Reading.missing("error"), Reading.of(LockspaceState.HELD, 26.0)])
def test_s7_an_id_held_long_ago_is_not_proven(reading):
    world = World()
    world.whiteboard = reading
    assert world.step().record is None


@pytest.mark.parametrize("state", [LockspaceState.JOINING, LockspaceState.NOT_HELD, LockspaceState.NO_DAEMON])
def test_s7_without_the_storage_lockspace_no_start_but_the_state_is_published(state):
    world = World()
    world.lockspace = Reading.of(state)
    decision = world.step()
    assert decision.action is None
    assert decision.record.score == 0
    assert "lockspace" in extra(decision)["problem"]
    assert "mig" not in extra(decision)


def test_s7_the_host_that_runs_the_vm_keeps_its_score_while_sanlock_cannot_be_asked():
    world = World(state=S.ENGINE_UP).runs()
    world.lockspace = Reading.of(LockspaceState.ERROR)
    assert world.step().score.score == 3400


# --- S8: an agent that starts adopts ------------------------------------------------------------------------------


@pytest.mark.parametrize("health", list(Health))
def test_s8_an_agent_that_starts_adopts_what_runs_without_any_action(health):
    world = World(state=S.START).runs(health)
    decision = world.step()
    assert decision.state is (S.ENGINE_UP if health is Health.GOOD else S.ENGINE_STARTING)
    assert decision.action is None
    assert "adopted" in codes(decision)
    assert decision.record.engine.vm is Vm.UP
    assert decision.record.score == 3400
    assert world.run(60) == 60


def test_s8_an_agent_that_stops_leaves_the_vm_alone():
    world = World(state=S.ENGINE_UP).runs(Health.BAD, bad_for=1000.0, stalled_for=1000.0).local()
    world.more = {"stopping": True}
    assert world.step().action is None


# --- S9: global maintenance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("here", [False, True])
def test_s9_global_maintenance_means_hands_off(state, here):
    world = World(state=state, stop_asked_at=0.0, stop_purpose="hung", better_peer_since=0.0).local()
    if here:
        world.runs(Health.BAD, bad_for=1000.0, stalled_for=1000.0)
    world.global_maintenance = Reading.of(True)
    for _ in range(5):
        decision = world.step(100)
        assert decision.action is None
        assert not decision.abort_migration
    assert decision.state is S.GLOBAL_MAINTENANCE


def test_s9_fencing_is_not_an_action_and_stays_on():
    world = World().runs(paused_for=1.0, pause_reason="ioerror").vm(PAUSED)
    world.global_maintenance = Reading.of(True)
    decision = world.step()
    assert decision.state is S.GLOBAL_MAINTENANCE
    assert decision.fence is not None


# --- S10 (D17): a remote slot never stops the VM here -------------------------------------------------------------


@pytest.mark.parametrize("status", [UP, EngineStatus(Vm.UP, Health.BAD, "Paused")])
@pytest.mark.parametrize("health", [Health.GOOD, Health.BAD])
def test_s10_d17_an_up_slot_elsewhere_never_stops_the_vm_here(status, health):
    world = World(state=S.ENGINE_UP).runs(health)
    world.edit(2, engine=status, score=3400)
    decision = world.step()
    assert decision.action is None
    assert "up-elsewhere-too" in codes(decision)
    assert world.run(600, every=10) == 600


def test_s10_a_stale_up_slot_elsewhere_does_not_keep_the_vm_from_starting():
    world = World()
    world.edit(2, engine=UP).dead(2)
    assert kind(world.step()) is START


# --- D6: suppression is never for ever ----------------------------------------------------------------------------


def test_d6_a_stopped_peer_that_lost_power_is_no_deadlock():
    world = World(peers=(2,))
    world.edit(2, stopped=True, engine=UP, extra=changed(OWN_EXTRA, state="AgentStopped"))
    world.owner = Reading.of(LeaseOwner(2))
    assert world.step().action is None
    world.flags[2] = HostLease.FAIL
    assert world.step(80).action is None
    world.flags[2] = HostLease.DEAD
    assert kind(world.step(60)) is START


def test_only_one_action_at_a_time():
    world = World(state=S.ENGINE_UP).runs().local()
    world.step()
    for _ in range(20):
        assert world.step(10).action is None
    assert world.report.outcome is None
    assert T.cycle == 10


def test_d3_nothing_is_destroyed_after_a_lost_race():
    world = World()
    world.step()
    world.owner = Reading.of(LeaseOwner(2))
    world.edit(2, engine=UP)
    world.gone(Exit.FAILED, status=DOWN)
    world.owner = Reading.of(LeaseOwner(2))
    decision = world.finish(Outcome.LOST_RACE)
    assert decision.action is None
    assert decision.fence is None
    assert decision.carried.budgets.start_failures == 0


# --- the last resort lifts the score, and nothing else ---------------------------------------------------------------


def refused(world):
    world.host = replace(world.host, definition_problem="qcow2")


def without_lease(world):
    world.host = replace(world.host, lease=None)


def unread_conf(world):
    world.host = replace(world.host, local_maintenance=Reading.missing("ha-conf"))


def newer_peer(world):
    world.slots[2] = Invalid("too-new", "2")
    world.flags[2] = HostLease.DEAD


def unfenced(world):
    world.watchdog_armed = None


def joining(world):
    world.lockspace = Reading.of(LockspaceState.JOINING)


@pytest.mark.parametrize("why", [refused, without_lease, unread_conf, newer_peer, unfenced, joining])
def test_s1_s3_s5_s7_d13_the_last_resort_lifts_nothing_but_the_score(why):
    world = World(peers=())
    world.carry(no_peer_since=world.now - 1000)
    world.budget(handed_over_until=world.now + 10)
    assert kind(world.look()) is START
    why(world)
    decision = world.step()
    assert decision.action is None
    assert decision.score.score == 0


@pytest.mark.parametrize("busy", list(ActionKind))
def test_no_second_action_beside_any_other(busy):
    def with_busy(world):
        world.report = ActionReport(Action(busy, deadline=1000.0), world.now)
        return world.look()

    assert with_busy(World()).action is None
    hung = World(state=S.ENGINE_UP_BAD_HEALTH).runs(Health.BAD, bad_for=1000.0)
    assert with_busy(hung).action is None
    leaving = World(state=S.ENGINE_UP).runs().local()
    assert with_busy(leaving).action is None
    lone = World(state=S.ENGINE_FORCE_STOP).runs().carry(stop_asked_at=0.0, stop_purpose="hung")
    assert with_busy(lone).action is None


# --- the one door that every action goes through ---------------------------------------------------------------------


def in_global_maintenance(world, d):
    world.global_maintenance = Reading.of(True)


def in_unknown_maintenance(world, d):
    world.global_maintenance = Reading.missing("overdue")


def with_an_unknown_vm(world, d):
    world.engine = Reading.missing("hypervisor")


def with_a_kill_under_way(world, d):
    world.more = {"fencing": "killing"}


def with_a_stuck_kill(world, d):
    world.more = {"fencing": "stuck"}


def while_stopping(world, d):
    world.more = {"stopping": True}


def with_an_action_under_way(world, d):
    world.report = ActionReport(Action(ActionKind.STOP), world.now)


FORBIDDING = (
    in_global_maintenance,
    in_unknown_maintenance,
    with_an_unknown_vm,
    with_a_kill_under_way,
    with_a_stuck_kill,
    while_stopping,
    with_an_action_under_way,
)


@pytest.mark.parametrize("ordered", list(ActionKind))
@pytest.mark.parametrize("fact", FORBIDDING)
def test_s2_s5_s8_s9_each_fact_alone_shuts_the_door_for_every_action(fact, ordered):
    world = World()
    assert Draft(look(world.snapshot(), T)).act(Action(ordered))
    fact(world, None)
    assert not Draft(look(world.snapshot(), T)).act(Action(ordered))


@pytest.mark.parametrize("ordered", list(ActionKind))
def test_s2_a_decided_kill_and_a_decided_action_shut_the_door_too(ordered):
    draft = Draft(look(World().snapshot(), T))
    draft.fence = Fence("paused", 5.0)
    assert not draft.act(Action(ordered))
    draft.fence = None
    assert draft.act(Action(ordered))
    assert not draft.act(Action(ordered))


def test_s2_a_pause_that_is_tolerated_is_neither_moved_nor_stopped():
    world = World(state=S.ENGINE_UP).runs(Health.BAD, bad_for=1000.0, paused_for=1.0, pause_reason="migration")
    world.vm(PAUSED).local()
    decision = world.look()
    assert (decision.fence, decision.action) == (None, None)
