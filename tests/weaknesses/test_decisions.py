"""W-1 to W-13, and what else of the list is a matter of the policy. The number in a name is the weakness's."""

from dataclasses import replace

import pytest

from ovirt_he_ha.agent.collect import decode_slots
from ovirt_he_ha.agent.state_file import StateFile
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    EngineFacts,
    HostLease,
    LeaseOwner,
    LockspaceState,
    Outcome,
    Reading,
    State,
)
from ovirt_he_ha.core.score import BRIDGE
from tests.core.world import BAD, DOWN, UNKNOWN, UP, World, codes, events, extra, kind, peer


def fresh(**how):
    """An agent that has just been started: it has seen nobody yet."""
    world = World(state=State.START, **how)
    return world.carry(seen={})


# --- W-1: a start without knowing who lives --------------------------------------------------------------------------


@pytest.mark.parametrize("every", [9.9, 10.0, 10.1, 60.0 / 7])
def test_w01_a_fresh_agent_never_starts_beside_a_live_peer_that_runs_the_vm(every):
    world = fresh(peers=(2,)).edit(2, engine=UP)
    for _ in range(30):
        assert kind(world.step(every)) is None


def test_w01_before_a_silent_host_is_established_nothing_starts_and_the_reason_is_said():
    world = fresh(peers=(2,))
    world.frozen.add(2)
    begun = world.now
    while world.now < begun + 59:
        decision = world.step(1.0)
        assert kind(decision) is None
        assert decision.state is State.REINITIALIZE or "no-baseline" in codes(decision)
    assert world.run(30, every=1.0) < 30
    assert kind(world.decision) is ActionKind.START


# --- W-2: retries that never count -----------------------------------------------------------------------------------


def failing_starts(world, count):
    moments = []
    for _ in range(count):
        world.run(1200, every=1.0)
        assert kind(world.decision) is ActionKind.START
        moments.append(world.now)
        world.finish(Outcome.FAILED, "no memory", after=0.0)
    return moments


def test_w02_failed_starts_wait_longer_each_time_and_cost_points():
    world = World(peers=())
    first, second, third = failing_starts(world, 3)
    assert second - first >= 10
    assert third - second >= 20
    assert world.decision.score.score == 3400 - 3 * 50
    failing_starts(world, 1)
    assert (world.decision.score.score, world.decision.score.zero_reason) == (0, "retries")


def test_w02_the_count_survives_a_restart_of_the_agent(tmp_path):
    world = World(peers=())
    failing_starts(world, 3)
    StateFile(tmp_path / "state", "boot").save(world.carried.budgets)
    again = World(peers=())
    again.now = world.now
    again.carry(budgets=StateFile(tmp_path / "state", "boot").load(world.now))
    decision = again.step(1.0)
    assert kind(decision) is None
    assert "start-backoff" in codes(decision)


# --- W-3: the VM that was just started -------------------------------------------------------------------------------


def test_w03_a_vm_that_is_not_up_at_the_next_look_is_not_powered_off():
    world = World()
    assert kind(world.step()) is ActionKind.START
    decision = world.finish(Outcome.OK)
    for _ in range(6):
        assert (decision.state, decision.action, decision.fence) == (State.ENGINE_STARTING, None, None)
        decision = world.step(5.0)
    assert world.runs().step(1.0).state is State.ENGINE_UP


# --- W-5: a start at score 0 -----------------------------------------------------------------------------------------


def test_w05_at_score_0_among_hosts_at_score_0_it_starts_only_as_the_last_resort():
    world = World(peers=())
    for host_id in (2, 3):
        world.add(peer(host_id, score=0))
    world.carry(budgets=replace(world.carried.budgets, handed_over_until=world.now + 10_000))
    begun = world.now
    while world.now < begun + 119:
        decision = world.step(1.0)
        assert decision.score.score == 0
        assert kind(decision) is None
        assert "score-zero" in codes(decision)
    assert "last-resort" in events(decision)
    world.run(10, every=1.0)
    assert "last-resort" in codes(world.decision)


# --- W-6: a peer that stopped cleanly --------------------------------------------------------------------------------


def test_w06_a_cleanly_stopped_peer_whose_vm_runs_on_is_left_alone_and_named():
    world = World()
    world.edit(2, stopped=True, score=0, engine=UP)
    world.frozen.add(2)
    world.owner = Reading.of(LeaseOwner(2, 1))
    for _ in range(120):
        decision = world.step(10.0)
        assert kind(decision) is None
        assert "stopped-peer-runs" in codes(decision)


def test_w06_a_peer_in_maintenance_is_no_better_host():
    """Its score counts for nothing: of three with one score the third starts, and would wait 30 s for the others."""
    world = World(peers=(1, 2))
    world.host = replace(world.host, host_id=3)
    world.flags[3] = HostLease.LIVE
    assert codes(world.step()) == ["rank"]
    world.edit(1, maintenance=True).edit(2, maintenance=True)
    assert kind(world.step()) is ActionKind.START


# --- W-7: ties -------------------------------------------------------------------------------------------------------


def test_w07_of_hosts_with_one_score_the_lowest_id_starts_and_the_next_waits_its_turn():
    assert kind(World().step()) is ActionKind.START
    second = World(peers=(1, 3))
    second.host = replace(second.host, host_id=2)
    second.flags[2] = HostLease.LIVE
    decision = second.step()
    assert kind(decision) is None
    assert codes(decision) == ["rank"]
    assert events(decision)["rank"] == second.now + 15


def test_w07_who_loses_the_race_destroys_nothing():
    world = World()
    world.step()
    decision = world.finish(Outcome.LOST_RACE)
    assert (decision.action, decision.fence, decision.state) == (None, None, State.ENGINE_DOWN)
    assert world.carried.budgets.start_failures == 0


# --- W-8: a newer format ---------------------------------------------------------------------------------------------


def test_w08_metadata_of_a_newer_format_forbids_the_start_and_takes_the_score():
    world = World(peers=(3,))
    data = slot.encode(peer(2, extra=()), 0.0).replace(b"1|1|", b"2|1|", 1)
    world.slots.update(decode_slots({2: data}))
    decision = world.step(70.0)
    assert (kind(decision), decision.score.score, decision.score.zero_reason) == (None, 0, "too-new")
    assert "too-new" in extra(decision)["problem"]


# --- W-9: two snapshots in one comparison ----------------------------------------------------------------------------


def test_w09_the_own_score_is_of_this_very_cycle():
    world = World()
    world.slots[1] = peer(1, score=3400)  # what was published a cycle ago
    world.watch(network=Reading.of(0.0))
    decision = world.step(1.0)
    assert decision.score.score == 1800
    assert (kind(decision), codes(decision)) == (None, ["rank"])
    assert decision.record.score == 1800


# --- W-10 to W-12: values that are not there -------------------------------------------------------------------------


def test_w10_storage_that_cannot_be_read_forbids_the_start_and_is_named():
    world = World()
    world.slots_age = 26.0
    world.more = {"storage_problem": "stale"}
    decision = world.step(10.0)
    assert kind(decision) is None
    assert {"no-baseline", "storage"} <= set(codes(decision))


def test_w11_an_unknown_bridge_is_shown_as_unknown_and_a_known_one_counts():
    unknown = World().watch(bridge=Reading.missing("unreadable")).step().score
    down = World().watch(bridge=Reading.of(False)).step().score
    shown = {penalty.code: penalty for penalty in unknown.penalties}
    assert shown[BRIDGE].value == "unknown:unreadable"
    assert down.score == unknown.score - 600
    up = World().step().score
    assert BRIDGE not in {penalty.code for penalty in up.penalties}


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("why", ["not-yet", "overdue"])
def test_w12_without_a_value_of_the_engine_every_state_goes_on(state, why):
    world = World(state=state)
    world.engine = Reading.missing(why)
    for _ in range(3):
        decision = world.step(10.0)
        assert (decision.action, decision.fence) == (None, None)
    if state is not State.LOCAL_MAINTENANCE:  # where nothing is done with the VM, known or not
        assert decision.state is State.UNKNOWN_LOCAL_VM
    assert decision.record.engine == (None if why == "not-yet" else UNKNOWN)
    assert slot.decode(1, slot.encode(decision.record, 0.0)) is not None


# --- W-13: stopping what is gone -------------------------------------------------------------------------------------


def test_w13_a_vm_that_is_gone_when_it_is_to_be_stopped_is_stopped():
    world = World(state=State.ENGINE_STOP).vm(DOWN)
    world.carry(stop_asked_at=world.now - 5, stop_purpose="maintenance", stop_limit=300.0)
    world.report = ActionReport(Action(ActionKind.STOP), world.now - 5, Outcome.OK, world.now - 4, "not here")
    world.local()
    decision = world.step(1.0)
    assert decision.state is State.LOCAL_MAINTENANCE
    assert "power-off-failed" not in codes(decision)
    assert world.carried.budgets.start_failures == 0


# --- of the further sections -----------------------------------------------------------------------------------------


def test_w23_without_the_host_id_nothing_is_published_and_the_host_says_why():
    world = World()
    world.whiteboard = Reading.of(LockspaceState.NOT_HELD)
    decision = world.step(1.0)
    assert (decision.record, decision.action) == (None, None)
    assert {"no-publish", "lockspace"} <= set(codes(decision))
    assert decision.score.zero_reason == "lockspace"


def test_w47_a_host_in_local_maintenance_goes_on_publishing():
    world = World(state=State.ENGINE_DOWN).local()
    stamps = []
    for _ in range(5):
        record = world.step(10.0).record
        stamps.append(record.timestamp)
    assert (world.decision.state, record.maintenance, record.score) == (State.LOCAL_MAINTENANCE, True, 0)
    assert len(set(stamps)) == 5


@pytest.mark.parametrize("lost", ["engine", "network", "bridge", "mem_free", "cpu_load", "storage_latency"])
def test_w51_whatever_check_fails_the_slot_is_published(lost):
    world = World()
    if lost == "engine":
        world.engine = Reading.missing("unreachable", 10.0)
    else:
        world.watch(**{lost: Reading.missing("error", 10.0)})
    first, second = world.step(10.0).record, world.step(10.0).record
    assert second.timestamp > first.timestamp


def test_w52_the_next_cycle_is_counted_from_the_beginning_of_this_one():
    world = World(state=State.ENGINE_UP).runs()
    decision = world.step()
    assert decision.wake_at == world.now + 10


def test_w59_the_countdown_in_the_slot_is_a_date_of_today():
    world = World(state=State.ENGINE_UP_BAD_HEALTH).runs()
    world.facts = EngineFacts(BAD, uptime=1000.0, pid=1, lease_defined=True, bad_for=100.0)
    record = world.step().record
    text = slot.encode(record, 1_700_000_000.0 - world.now)[512:].decode("ascii")
    line = next(line for line in text.splitlines() if line.startswith("timeout="))
    assert line.startswith("timeout=Tue Nov 14") and line.endswith("2023")
