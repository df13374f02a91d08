"""Every state and every transition of the policy, one row each."""

from dataclasses import replace

import pytest

from ovirt_he_ha.core import notes
from ovirt_he_ha.core.model import (
    ActionKind,
    EngineFacts,
    Exit,
    Health,
    LeaseOwner,
    Outcome,
    Reading,
    State,
)
from tests.core.world import (
    BAD,
    DOWN,
    GONE,
    MISSING,
    PAUSED,
    UNKNOWN,
    UP,
    Action,
    ActionReport,
    T,
    World,
    codes,
    events,
    extra,
    kind,
    peer,
)

S = State
ALL = [state for state in State if state not in (S.START, S.AGENT_STOPPED)]
ON = Reading.of(True)
UNREAD = Reading.missing("error")


def noted(**values):
    return {name.replace("_", "-"): value for name, value in values.items()}


# --- guards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ALL)
@pytest.mark.parametrize("here", [False, True])
def test_global_maintenance_takes_every_state(state, here):
    world = World(state=state)
    if here:
        world.runs()
    world.global_maintenance = ON
    decision = world.step()
    assert decision.state is S.GLOBAL_MAINTENANCE
    assert decision.action is None
    assert codes(decision)[0] == "global-maintenance"


@pytest.mark.parametrize("state", [s for s in ALL if s not in (S.LOCAL_MAINTENANCE,)])
def test_unknown_vm_takes_every_state(state):
    world = World(state=state)
    world.engine = UNREAD
    decision = world.step()
    expected = S.GLOBAL_MAINTENANCE if state is S.GLOBAL_MAINTENANCE else S.UNKNOWN_LOCAL_VM
    if state is S.GLOBAL_MAINTENANCE:
        # The flag is cleared, so the state is left, and the guard of the next state takes over.
        expected = S.UNKNOWN_LOCAL_VM
    assert decision.state is expected
    assert decision.action is None


def test_unknown_vm_leaves_local_maintenance_alone():
    world = World(state=S.LOCAL_MAINTENANCE).local()
    world.engine = UNREAD
    assert world.step().state is S.LOCAL_MAINTENANCE


@pytest.mark.parametrize("state", ALL)
def test_local_maintenance_takes_every_state_without_the_vm(state):
    world = World(state=state).local()
    decision = world.step()
    assert decision.state is S.LOCAL_MAINTENANCE
    assert decision.record.maintenance
    assert decision.score.score == 0
    assert extra(decision)["maintenance_state"] == "in-maintenance"


@pytest.mark.parametrize("reading", ["unreachable", "vm-unknown", "stale"])
def test_what_counts_as_unknown(reading):
    world = World()
    world.engine = {
        "unreachable": UNREAD,
        "vm-unknown": Reading.of(EngineFacts(UNKNOWN)),
        "stale": Reading.of(EngineFacts(DOWN), 26.0),
    }[reading]
    decision = world.step()
    assert decision.state is S.UNKNOWN_LOCAL_VM
    assert decision.record.engine == UNKNOWN
    assert codes(decision) == ["engine-unknown"]


# --- the table ------------------------------------------------------------------------------------------------------


def plain(world):
    return world


TABLE = [
    # name, state, what is different, expected state, expected action
    ("start to reinitialize", S.START, plain, S.REINITIALIZE, None),
    ("start adopts a healthy VM", S.START, lambda w: w.runs(), S.ENGINE_UP, None),
    ("start adopts a VM that boots", S.START, lambda w: w.runs(Health.BAD), S.ENGINE_STARTING, None),
    ("a record of the last agent is no state", S.AGENT_STOPPED, plain, S.REINITIALIZE, None),
    ("reinitialize to down and start", S.REINITIALIZE, plain, S.ENGINE_START, ActionKind.START),
    ("reinitialize adopts", S.REINITIALIZE, lambda w: w.runs(), S.ENGINE_UP, None),
    ("global maintenance cleared", S.GLOBAL_MAINTENANCE, plain, S.REINITIALIZE, None),
    ("global maintenance cleared, VM here", S.GLOBAL_MAINTENANCE, lambda w: w.runs(), S.ENGINE_UP, None),
    (
        "global maintenance cleared, local set",
        S.GLOBAL_MAINTENANCE,
        lambda w: w.local(),
        S.LOCAL_MAINTENANCE,
        None,
    ),
    ("local maintenance cleared", S.LOCAL_MAINTENANCE, plain, S.REINITIALIZE, None),
    ("local maintenance cleared, VM here", S.LOCAL_MAINTENANCE, lambda w: w.runs(), S.ENGINE_UP, None),
    ("known again", S.UNKNOWN_LOCAL_VM, lambda w: w.add(peer(2, engine=UP)), S.ENGINE_DOWN, None),
    ("known again, VM here", S.UNKNOWN_LOCAL_VM, lambda w: w.runs(), S.ENGINE_UP, None),
    ("down, up elsewhere", S.ENGINE_DOWN, lambda w: w.add(peer(2, engine=UP)), S.ENGINE_DOWN, None),
    ("down, up here", S.ENGINE_DOWN, lambda w: w.runs(), S.ENGINE_UP, None),
    ("down to start", S.ENGINE_DOWN, plain, S.ENGINE_START, ActionKind.START),
    ("start without a report", S.ENGINE_START, plain, S.ENGINE_START, ActionKind.START),
    ("start, VM here", S.ENGINE_START, lambda w: w.runs(Health.BAD), S.ENGINE_STARTING, None),
    ("starting to up", S.ENGINE_STARTING, lambda w: w.runs(), S.ENGINE_UP, None),
    ("starting goes on", S.ENGINE_STARTING, lambda w: w.runs(Health.BAD), S.ENGINE_STARTING, None),
    ("starting, health unknown", S.ENGINE_STARTING, lambda w: w.runs(Health.UNKNOWN), S.ENGINE_STARTING, None),
    ("starting, not ours, gone", S.ENGINE_STARTING, lambda w: w.add(peer(2, engine=UP)), S.ENGINE_DOWN, None),
    ("up stays", S.ENGINE_UP, lambda w: w.runs(), S.ENGINE_UP, None),
    ("up to bad health", S.ENGINE_UP, lambda w: w.runs(Health.BAD), S.ENGINE_UP_BAD_HEALTH, None),
    ("up, health unknown", S.ENGINE_UP, lambda w: w.runs(Health.UNKNOWN), S.ENGINE_UP, None),
    ("bad health to up", S.ENGINE_UP_BAD_HEALTH, lambda w: w.runs(), S.ENGINE_UP, None),
    ("bad health, unknown", S.ENGINE_UP_BAD_HEALTH, lambda w: w.runs(Health.UNKNOWN), S.ENGINE_UP_BAD_HEALTH, None),
    ("up, migrated", S.ENGINE_UP, lambda w: w.gone(Exit.MIGRATED, status=DOWN), S.ENGINE_DOWN, None),
    ("maybe away, back", S.ENGINE_MAYBE_AWAY, lambda w: w.runs(), S.ENGINE_UP, None),
    (
        "maybe away, up elsewhere",
        S.ENGINE_MAYBE_AWAY,
        lambda w: w.add(peer(2, engine=UP)),
        S.ENGINE_DOWN,
        None,
    ),
    ("maybe away waits", S.ENGINE_MAYBE_AWAY, plain, S.ENGINE_MAYBE_AWAY, None),
    (
        "unexpectedly down waits",
        S.ENGINE_UNEXPECTEDLY_DOWN,
        lambda w: w.budget(handed_over_until=w.now + 5),
        S.ENGINE_UNEXPECTEDLY_DOWN,
        None,
    ),
    ("unexpectedly down ends", S.ENGINE_UNEXPECTEDLY_DOWN, plain, S.ENGINE_START, ActionKind.START),
    ("unexpectedly down, up here", S.ENGINE_UNEXPECTEDLY_DOWN, lambda w: w.runs(), S.ENGINE_UP, None),
    ("stop without a request", S.ENGINE_STOP, lambda w: w.runs(), S.ENGINE_UP, None),
    ("force stop without a request", S.ENGINE_FORCE_STOP, lambda w: w.runs(), S.ENGINE_UP, None),
    (
        "force stop powers off",
        S.ENGINE_FORCE_STOP,
        lambda w: w.runs().carry(stop_asked_at=w.now - 15, stop_purpose="hung"),
        S.ENGINE_FORCE_STOP,
        ActionKind.POWER_OFF,
    ),
]


@pytest.mark.parametrize("name, state, different, expected, action", TABLE, ids=[row[0] for row in TABLE])
def test_table(name, state, different, expected, action):
    world = World(state=state)
    different(world)
    if name == "up, migrated":
        world.add(peer(2, engine=UP))
    decision = world.step()
    assert (decision.state, kind(decision)) == (expected, action)
    assert decision.carried.state is expected


def test_same_snapshot_same_decision():
    world = World()
    assert world.look() == world.look()


def test_entered_at_moves_only_with_the_state():
    world = World().runs()
    entered = world.step().carried.entered_at
    assert world.step(10).carried.entered_at == entered
    assert world.runs(Health.BAD).step(10).carried.entered_at == world.now


# --- starting up ----------------------------------------------------------------------------------------------------


def test_reinitialize_publishes_score_0_for_one_cycle():
    world = World(state=S.START)
    decision = world.step()
    assert (decision.state, decision.score.score) == (S.REINITIALIZE, 0)
    assert decision.score.zero_reason == "reinitializing"
    assert decision.wake_at == world.now + T.cycle
    assert world.step(10).state is S.ENGINE_START


def test_an_agent_that_starts_in_maintenance_publishes_it():
    world = World(state=S.START).local()
    decision = world.step()
    assert decision.state is S.LOCAL_MAINTENANCE
    assert decision.record.maintenance


def test_stopping_publishes_agent_stopped_and_does_nothing():
    world = World().runs()
    world.more = {"stopping": True}
    decision = world.step()
    assert decision.state is S.AGENT_STOPPED
    assert decision.record.stopped
    assert decision.score.score == 0
    assert decision.action is None
    assert decision.record.engine.vm.value == "up"


# --- EngineStarting: the grace after our own start (D3) -----------------------------------------------------------


def test_d3_a_started_vm_that_is_not_seen_yet_is_not_killed():
    world = World()
    world.step()
    decision = world.finish(Outcome.OK)
    for _ in range(3):
        assert decision.state is S.ENGINE_STARTING
        assert decision.action is None
        decision = world.step(10)
    assert "grace" in events(decision)
    world.runs(Health.BAD)
    assert world.step(2).state is S.ENGINE_STARTING
    world.runs()
    assert world.step(2).state is S.ENGINE_UP
    assert world.carried.own_start_at is None


def test_d3_the_report_may_come_after_the_vm():
    world = World()
    world.step()
    world.runs(Health.BAD)
    assert world.step(1).state is S.ENGINE_STARTING
    assert world.finish(Outcome.OK).state is S.ENGINE_STARTING
    assert world.runs().step(5).state is S.ENGINE_UP
    assert notes.STARTED not in world.carried.notes


def test_d3_a_start_that_reports_failure_while_the_vm_is_here_is_none():
    world = World()
    world.step()
    world.runs(Health.BAD)
    assert world.finish(Outcome.OVERDUE).carried.budgets.start_failures == 0


def test_while_the_start_runs_nothing_else_is_ordered():
    world = World()
    world.step()
    for _ in range(5):
        decision = world.step(10)
        assert (decision.state, decision.action) == (S.ENGINE_START, None)
        assert codes(decision) == ["start-running"]


def test_a_vm_that_never_appears_is_a_failed_start():
    world = World()
    world.step()
    world.finish(Outcome.OK)
    decision = world.step(T.away_limit + 1)
    assert decision.state is S.ENGINE_DOWN
    assert decision.carried.budgets.start_failures == 1
    assert "never-came-up" in codes(decision)
    assert decision.carried.own_start_at is None


def test_a_start_survives_a_moment_in_which_the_vm_is_unknown():
    world = World()
    world.step()
    world.engine = UNREAD
    assert world.finish(Outcome.OK).state is S.UNKNOWN_LOCAL_VM
    world.engine = None
    decision = world.step(5)
    assert (decision.state, decision.action) == (S.ENGINE_STARTING, None)


def test_a_copy_that_died_before_it_was_seen_is_a_crash():
    world = World()
    world.step()
    world.finish(Outcome.OK)
    decision = world.gone(Exit.CRASHED).step(3)
    assert decision.carried.budgets.crashes == (world.now,)
    assert decision.state is S.ENGINE_START


def test_a_copy_that_failed_to_come_up_is_a_failed_start():
    world = World()
    world.step()
    world.finish(Outcome.OK)
    decision = world.gone(Exit.FAILED).step(3)
    assert decision.state is S.ENGINE_DOWN
    assert decision.carried.budgets.start_failures == 1


def test_the_earlier_end_is_not_taken_for_the_new_copys():
    """Crash, restart at once; the broker reports the same crash again, seemingly a second younger."""
    world = World(state=S.ENGINE_UP).runs()
    world.step()
    assert kind(world.gone(Exit.CRASHED, age=0.2).step(1)) is ActionKind.START
    world.report = None
    world.carry(state=S.ENGINE_STARTING)
    world.vm(GONE, last_exit=Exit.CRASHED, exit_age=0.0)
    decision = world.step(1.5)
    assert decision.state is S.ENGINE_STARTING
    assert len(decision.carried.budgets.crashes) == 1


def test_never_healthy_is_stopped_after_ten_minutes():
    world = World(state=S.ENGINE_STARTING).runs(Health.BAD)
    seconds = world.run(700, every=10)
    assert seconds == T.starting_limit
    assert world.decision.state is S.ENGINE_STOP
    assert world.decision.action == Action(ActionKind.STOP, deadline=T.stop_limit_vm)
    world.gone(Exit.REQUESTED)
    decision = world.finish(Outcome.OK)
    assert decision.state is S.ENGINE_DOWN
    assert decision.carried.budgets.start_failures == 1
    assert "never-healthy" in codes(decision)


def test_never_healthy_needs_known_bad_health():
    world = World(state=S.ENGINE_STARTING).runs(Health.UNKNOWN)
    assert world.run(1000, every=10) == 1000


# --- EngineStop, EngineForceStop ----------------------------------------------------------------------------------


def stopping(purpose="hung", limit=T.acpi_stop):
    world = World(state=S.ENGINE_STOP).runs(Health.BAD)
    return world.carry(stop_asked_at=world.now, stop_purpose=purpose, stop_limit=limit)


def test_stop_asks_once_and_powers_off_at_the_limit():
    world = stopping()
    decision = world.step(5)
    assert (decision.state, decision.action) == (S.ENGINE_STOP, None)
    assert events(decision)["power-off"] == world.now + 10
    decision = world.step(10)
    assert decision.state is S.ENGINE_FORCE_STOP
    assert decision.action == Action(ActionKind.POWER_OFF, deadline=T.power_off_deadline)
    assert world.step(5).action is None  # it runs
    world.gone(Exit.REQUESTED)
    decision = world.finish(Outcome.OK)
    assert decision.state is S.ENGINE_START  # a hung VM starts again here


def test_stop_waits_for_its_own_report():
    world = stopping()
    world.report = ActionReport(Action(ActionKind.STOP, deadline=15.0), world.now)
    decision = world.step(20)
    assert (decision.state, decision.action) == (S.ENGINE_STOP, None)
    assert world.finish(Outcome.OVERDUE).state is S.ENGINE_FORCE_STOP


def test_a_failed_request_still_ends_in_the_power_off():
    world = stopping()
    world.report = ActionReport(Action(ActionKind.STOP, deadline=15.0), world.now)
    assert world.finish(Outcome.FAILED).state is S.ENGINE_STOP
    assert kind(world.step(15)) is ActionKind.POWER_OFF


def test_a_failed_power_off_looks_at_everything_anew():
    world = stopping()
    world.step(15)
    decision = world.finish(Outcome.FAILED, "busy")
    assert decision.state is S.ENGINE_STARTING
    assert "power-off-failed" in codes(decision)
    assert decision.carried.stop_purpose == ""


def test_a_failed_power_off_of_another_state_is_only_said():
    world = World(state=S.ENGINE_UP).runs()
    world.report = ActionReport(Action(ActionKind.POWER_OFF), world.now)
    decision = world.finish(Outcome.FAILED, "busy")
    assert decision.state is S.ENGINE_UP
    assert "power-off-failed" in codes(decision)


def test_a_vm_that_survives_a_power_off_is_looked_at_anew():
    world = stopping()
    world.step(15)
    assert world.finish(Outcome.OK).state is S.ENGINE_FORCE_STOP
    assert world.step(T.away_limit).state is S.ENGINE_STARTING


def test_a_power_off_that_may_not_be_ordered_is_not_noted():
    world = stopping()
    world.global_maintenance = UNREAD
    decision = world.step(20)
    assert (decision.state, decision.action) == (S.ENGINE_STOP, None)
    world.carry(state=S.ENGINE_FORCE_STOP)
    decision = world.step(5)
    assert (decision.state, decision.action) == (S.ENGINE_FORCE_STOP, None)
    assert notes.POWERED_OFF not in decision.carried.notes


def test_a_stop_for_a_hand_over_ends_at_score_0():
    world = stopping("hand-over")
    decision = world.gone(Exit.REQUESTED).step(5)
    assert decision.state is S.ENGINE_UNEXPECTEDLY_DOWN
    assert decision.score.score == 0
    assert decision.action is None


@pytest.mark.parametrize("exit_", [Exit.REQUESTED, Exit.CRASHED, Exit.NONE])
@pytest.mark.parametrize(
    "purpose, state, failures",
    [("hand-over", S.ENGINE_UNEXPECTEDLY_DOWN, 0), ("never-healthy", S.ENGINE_DOWN, 1), ("hung", S.ENGINE_START, 0)],
)
def test_a_stop_whose_end_is_unknown_for_a_moment_has_the_same_consequence(purpose, state, failures, exit_):
    world = stopping(purpose)
    world.carry(notes=noted(seen_here=world.now))
    world.engine = UNREAD
    assert world.step(5).state is S.UNKNOWN_LOCAL_VM
    world.engine = None
    decision = world.gone(exit_).step(1)
    assert decision.state is state
    assert decision.carried.budgets.start_failures == failures
    assert decision.carried.budgets.crashes == ()


def test_a_crash_that_is_unknown_for_a_moment_is_a_crash():
    world = World(state=S.ENGINE_UP).runs()
    world.step()
    world.engine = UNREAD
    assert world.step(5).state is S.UNKNOWN_LOCAL_VM
    world.engine = None
    assert len(world.gone().step(1).carried.budgets.crashes) == 1


def test_a_stop_for_maintenance_ends_in_maintenance():
    world = stopping("maintenance").local()
    decision = world.gone(Exit.GUEST_SHUTDOWN).step(5)
    assert decision.state is S.LOCAL_MAINTENANCE
    assert decision.carried.budgets.crashes == ()


@pytest.mark.parametrize("purpose", ["hand-over", "maintenance"])
def test_a_cold_move_without_a_target_any_more_is_cancelled(purpose):
    world = stopping(purpose).local(purpose == "maintenance")
    world.dead(2).dead(3)
    decision = world.step(15)
    assert decision.action is None
    assert decision.state is S.ENGINE_STARTING
    assert "stop-cancelled" in codes(decision)


def test_a_cold_move_for_a_maintenance_that_was_cancelled():
    decision = stopping("maintenance").step(15)
    assert decision.action is None
    assert "stop-cancelled" in codes(decision)


# --- reasons and publishing of what the host suffers from ---------------------------------------------------------


@pytest.mark.parametrize(
    "more, code",
    [
        ({"storage_problem": "read-only"}, "storage"),
        ({"overwritten": True}, "overwritten"),
        ({"state_problem": "full"}, "state-file"),
        ({"publish_failed_for": 31.0}, "publish-failed"),
        ({"fencing": "stuck"}, "fence-stuck"),
    ],
)
def test_troubles_of_this_host_are_named(more, code):
    world = World()
    world.more = more
    decision = world.step()
    assert code in codes(decision)
    assert code in extra(decision)["problem"]


def test_nothing_starts_while_a_kill_is_under_way():
    world = World()
    world.more = {"fencing": "killing"}
    decision = world.step()
    assert (decision.state, decision.action) == (S.ENGINE_DOWN, None)
    assert codes(decision) == ["fencing"]


def test_running_and_being_killed_is_left_to_the_kill():
    world = World(state=S.ENGINE_UP).runs().local()
    world.more = {"fencing": "killing"}
    decision = world.step()
    assert (decision.state, decision.action) == (S.ENGINE_UP, None)


def test_wake_up_is_the_next_cycle_or_the_next_countdown():
    world = World()
    world.carry(notes={notes.LOST_RACE: world.now + 4.0})
    decision = world.step()
    assert decision.wake_at == world.now + 4.0
    decision = world.step(3.9)
    assert decision.wake_at == pytest.approx(world.now + 0.5)


def test_missing_reads_as_the_status_it_has():
    world = World(peers=())
    world.owner = Reading.of(LeaseOwner(2))
    decision = world.vm(MISSING).step()
    assert decision.record.engine == MISSING


def test_paused_status_counts_without_its_age():
    world = World(state=S.ENGINE_UP).runs()
    decision = world.vm(replace(PAUSED)).step()
    assert decision.fence is not None


def test_bad_status_of_a_booting_vm_is_published_as_it_is():
    assert World(state=S.ENGINE_STARTING).runs(Health.BAD).step().record.engine == BAD
