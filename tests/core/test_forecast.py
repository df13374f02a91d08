"""What a host does next, read from its slot; and the catalogue of what its reasons mean."""

import string
from dataclasses import replace

import pytest

from ovirt_he_ha.core import advice, slot
from ovirt_he_ha.core.advice import ADVICE, EVENT, FAULT, SAYS, TIME
from ovirt_he_ha.core.forecast import ABORT, KILL, MOVE, POWER_OFF, REACTIONS, START, STOP, forecast
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    EngineStatus,
    GuardReport,
    Health,
    HostLease,
    LeaseOwner,
    LockspaceState,
    Reading,
    Record,
    State,
    Vm,
)
from ovirt_he_ha.core.reasons import COUNTDOWNS, REASONS, reason
from tests.core.world import World, peer

S = State


def published(world):
    """As another host reads it."""
    record = world.step().record
    decoded = slot.decode(record.host_id, slot.encode(record, 0.0))
    assert isinstance(decoded, Record)
    return decoded


def said(world):
    return forecast(published(world))


def times(found):
    return {step.action: step.at for step in found.steps}


def codes(step):
    return [wait.why.code for wait in step.waits]


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_every_reason_has_advice_and_there_is_no_other():
    assert set(ADVICE) == set(REASONS)


@pytest.mark.parametrize("code", sorted(REASONS))
def test_advice_is_made_of_what_the_reason_has(code):
    word = ADVICE[code]
    fields = {name for text in (word.until, word.do) for _, name, _, _ in string.Formatter().parse(text) if name}
    known = {name for _, name, _, _ in string.Formatter().parse(REASONS[code]) if name}
    assert fields - known <= {"wait"}, "rank tells its wait only here"
    assert set(word.timers) <= set(COUNTDOWNS)
    assert word.kind in (SAYS, TIME, EVENT, FAULT)
    # What holds something up says what ends it.
    assert bool(word.until) == (word.kind in (TIME, EVENT))
    assert bool(word.timers) or word.kind != TIME


def test_a_code_of_a_newer_host_is_no_advice():
    assert advice.word("moon-phase").kind == SAYS
    assert advice.until(reason("rank", wait=15)) == "it is this host's turn, 15 s after the better ones"
    assert advice.to_do(reason("lease-held", host=3)) == "Is host 3 off, or reset? Else start its daemons"


# --- a start ----------------------------------------------------------------------------------------------------------


def owned(world, silent=None):
    world.owner = Reading.of(LeaseOwner(3, 1))
    world.flags[3] = HostLease.LIVE
    world.owner_silent = silent
    return world


def test_a_start_that_only_clocks_hold_up_has_a_time():
    world = World(peers=())
    world.budget(start_failures=2, next_start_at=world.now + 20.0)
    assert times(said(world)) == {START: 20.0}


def test_a_silence_that_is_over_ends_now_until_sanlock_looks_again():
    """Untold, another host's later moment was taken for it, and made up to a minute longer."""
    (step,) = said(owned(World(), silent=150.0)).steps
    assert step.action == START and step.at is not None and step.at <= 1.0


def test_a_start_that_waits_for_an_event_names_it_and_has_no_time():
    (step,) = said(owned(World())).steps
    assert (step.action, step.at) == (START, None)
    assert [why.code for why in step.events] == ["lease-held"]
    assert advice.until(step.events[0]) == "sanlock shows the lease of host 3 free or dead"


def test_a_rank_comes_on_top_of_the_lease():
    world = owned(World(), silent=100.0).edit(2, score=3401)
    (step,) = said(world).steps
    assert codes(step) == ["lease-held", "rank"]
    assert (step.earliest, step.at) == (0.0, 40.0 + 15.0)


def test_a_join_has_a_time():
    world = World(peers=())
    world.lockspace = Reading.of(LockspaceState.JOINING)
    world.joining_for = 11.0
    assert times(said(world)) == {START: 10.0}


def test_the_longest_wait_counts():
    world = owned(World(peers=(2,)), silent=60.0)
    world.edit(2, score=0)
    world.budget(start_failures=1, next_start_at=world.now + 5.0)
    (step,) = said(world).steps
    assert (step.earliest, step.at) == (5.0, 80.0)


def test_a_restart_that_is_due_has_no_wait_left():
    world = World(state=S.ENGINE_UP, notes={"seen-here": 9_995.0})
    world.owner = Reading.missing("error")
    world.vm(EngineStatus(Vm.DOWN_UNEXPECTED, Health.BAD, "Down"))
    (step,) = said(world).steps
    assert "lease-unknown" in codes(step) and step.at is None


def test_an_order_under_way_is_waited_for():
    world = World()
    world.report = ActionReport(Action(ActionKind.STOP, deadline=15.0), world.now - 4.0)
    (step,) = said(world).steps
    assert (codes(step), step.earliest, step.at) == (["action-running"], 0.0, 11.0)


# --- while it runs ----------------------------------------------------------------------------------------------------


def test_nothing_is_ahead_of_a_healthy_vm():
    found = said(World(state=S.ENGINE_UP).runs())
    assert found.steps == ()
    assert ("vm-crash", START) in found.reactions and ("local-maintenance", MOVE) in found.reactions
    assert {event for event, _ in found.reactions} <= set(REACTIONS)


def test_a_hang_is_restarted_between_two_moments():
    world = World(state=S.ENGINE_UP_BAD_HEALTH).runs(Health.BAD, bad_for=20.0)
    (step,) = said(world).steps
    assert (step.action, step.earliest, step.at) == (STOP, 40.0, 240.0)
    world = World(state=S.ENGINE_UP_BAD_HEALTH).runs(Health.BAD, bad_for=20.0, guest_agent=False)
    (step,) = said(world).steps
    assert (step.action, step.earliest, step.at) == (STOP, 40.0, 40.0)


def test_a_better_host_and_a_failed_migration_are_moves_with_a_time():
    world = World(state=S.ENGINE_UP).runs()
    world.watch(network=Reading.of(0.4))
    assert times(said(world)) == {MOVE: 60.0}


def test_a_move_that_nobody_can_take_names_what_it_waits_for():
    world = World(state=S.ENGINE_UP, peers=()).runs()
    world.host = replace(world.host, local_maintenance=Reading.of(True))
    (step,) = said(world).steps
    assert (step.action, step.at) == (MOVE, None)
    assert [why.code for why in step.events] == ["no-target"]


def test_a_lost_guard_is_a_kill_with_a_time():
    world = World(state=S.ENGINE_UP).runs()
    world.more = {"guard": GuardReport("threatened", reason("guard-gone"), world.now + 4.0)}
    assert times(said(world)) == {KILL: 4.0}


def test_a_migration_is_aborted_at_its_deadline():
    world = World(state=S.ENGINE_UP, migration=Action(ActionKind.MIGRATE, 2, "x", 200.0)).runs()
    world.report = ActionReport(Action(ActionKind.MIGRATE, 2, "x", 200.0), world.now - 50.0)
    found = said(world)
    assert times(found) == {ABORT: 150.0}
    assert ("migration-fails", MOVE) in found.reactions


def test_a_stop_is_followed_by_the_power_off_and_by_a_start():
    world = World(state=S.ENGINE_STOP, stop_asked_at=9_995.0, stop_purpose="hung", stop_limit=15.0).runs()
    found = said(world)
    assert times(found) == {POWER_OFF: 10.0, START: None}
    assert [why.code for why in found.steps[1].events] == ["stopping"]


# --- who says nothing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["AgentStopped", "", "EngineStart"])
def test_states_without_a_step(state):
    record = peer(2, extra=(("state", state),))
    assert forecast(record).steps == () or state == "EngineStart"


def test_an_upstream_host_has_no_steps():
    assert forecast(peer(2, extra=(("state", "EngineDown"),), extra_ok=False)).steps == ()
