"""Upstream's state machine, row by row: guards, bodies, timers, scores, and what it publishes of itself."""

from dataclasses import replace

import pytest

from ovirt_he_ha.sim.upstream_score import Weights
from ovirt_he_ha.sim.upstream_slots import AgentDies, Peer
from ovirt_he_ha.sim.upstream_states import (
    FORCE_STOP,
    GUARDS,
    LIMITS,
    START,
    STOP,
    Collected,
    Facts,
    Machine,
    Step,
    enter,
    refresh,
    state_score,
    step,
)

UP = {"vm": "up", "health": "good", "detail": "Up"}
BAD = {"vm": "up", "health": "bad", "detail": "Up"}
PAUSED = {"vm": "up", "health": "bad", "detail": "Paused"}
DOWN = {"vm": "down", "health": "bad", "detail": "unknown"}
UNEXPECTED = {"vm": "down_unexpected", "health": "bad", "detail": "Down"}
MISSING = {"vm": "down_missing", "health": "bad", "detail": "unknown"}
UNKNOWN = {"vm": "unknown", "health": "unknown", "detail": "unknown"}

PEER_UP = Peer(2, 500, 3400, UP)
PEER = Peer(2, 500, 3400, DOWN)
EMPTY = Peer(2)


def facts(engine=DOWN, peers=(), age=100, now=1000, own=1, silent=(), **changes):
    """Two collections ``age`` seconds apart; ``silent`` peers had the same timestamp then."""
    peers = {peer.host_id: peer for peer in peers}
    old = {
        host_id: peer if host_id in silent else replace(peer, timestamp=(peer.timestamp or 0) - age)
        for host_id, peer in peers.items()
    }
    base = Collected(now, now, peers, engine=engine, load=0.1, mem_free=9999.0, mem_needed=4096)
    current = replace(base, **changes)
    return Facts(own, current, (current, replace(base, start=now - age, finish=now - age, peers=old)))


def machine(state, timer=None, score=3400):
    return Machine(state, timer, score=score)


# --- liveness and what is derived -----------------------------------------------------------------------------------


def test_a_peer_lives_when_its_timestamp_changed_since_more_than_60_s_ago():
    assert facts(peers=[PEER]).alive() == (2,)
    assert facts(peers=[PEER], silent=[2]).alive() == ()


def test_nobody_lives_while_no_collection_is_older_than_60_s():
    assert facts(peers=[PEER], age=60).alive() == ()
    assert facts(peers=[PEER], age=61).alive() == (2,)


def test_a_new_peer_lives_at_once_and_a_malformed_one_never():
    found = facts(peers=[PEER])
    fresh = replace(found, now=replace(found.now, peers={2: PEER, 3: Peer(3, 1, 0, DOWN), 4: Peer(4)}))
    assert fresh.alive() == (2, 3)


def test_history_ends_after_900_s():
    found = facts(age=100)
    later = found.add(replace(found.now, start=1800, finish=1800))
    assert [each.start for each in later.history] == [1800, 1000]


@pytest.mark.parametrize(
    ("own", "peers", "whose"),
    [
        (DOWN, [], 1),
        (DOWN, [PEER], 1),
        (DOWN, [PEER_UP], 2),
        (UP, [PEER_UP], 1),
        (BAD, [PEER_UP], 2),
        (PAUSED, [Peer(2, 5, 0, BAD)], 2),
        (UNKNOWN, [PEER], 2),
        (DOWN, [PEER_UP, Peer(3, 9, 0, UP)], 2),
    ],
)
def test_best_engine(own, peers, whose):
    assert facts(own, peers).best_engine()[1] == whose


def test_best_remote_score_knows_nothing_of_maintenance_and_stopped():
    assert facts(peers=[replace(PEER, stopped=True, maintenance=True)]).best_remote_score() == 3400
    assert facts(peers=[replace(PEER, score=0)]).best_remote_score() is None
    assert facts().best_remote_score() is None


# --- bodies ---------------------------------------------------------------------------------------------------------

ROWS = [
    ("StartState", facts(), Step("ReinitializeFSM", 10)),
    ("GlobalMaintenance", facts(), Step("ReinitializeFSM", 10)),
    ("LocalMaintenance", facts(), Step("ReinitializeFSM", 10)),
    ("UnknownLocalVmState", facts(), Step("ReinitializeFSM", 0)),
    ("ReinitializeFSM", facts(UP), Step("EngineStarting", 0)),
    ("ReinitializeFSM", facts(DOWN), Step("EngineDown", 10)),
    ("EngineDown", facts(UP), Step("EngineStarting", 0)),
    ("EngineDown", facts(DOWN, [PEER_UP]), Step("EngineDown", 10)),
    ("EngineDown", facts(DOWN, age=59), Step("EngineDown", 10)),
    ("EngineDown", facts(DOWN), Step("EngineStart", 0)),
    ("EngineDown", facts(DOWN, [PEER]), Step("EngineStart", 0)),
    ("EngineDown", facts(DOWN, [replace(PEER, score=3401)]), Step("EngineDown", 10)),
    ("EngineStart", facts(), Step("EngineStarting", 10, START, "EngineDown")),
    ("EngineStarting", facts(UP), Step("EngineUp", 10)),
    ("EngineStarting", facts(BAD), Step("EngineStarting", 10)),
    ("EngineStarting", facts(DOWN), Step("EngineForceStop", 0)),
    ("EngineStarting", facts(UNEXPECTED), Step("EngineMaybeAway", 0)),
    ("EngineStarting", facts(MISSING), Step("EngineMaybeAway", 0)),
    ("EngineUp", facts(DOWN), Step("EngineMaybeAway", 10)),
    ("EngineUp", facts(UNEXPECTED), Step("EngineUnexpectedlyDown", 10)),
    ("EngineUp", facts(MISSING), Step("EngineMaybeAway", 0)),
    ("EngineUp", facts(BAD, [PEER_UP]), Step("EngineStop", 10)),
    ("EngineUp", facts(UP, [replace(PEER, score=4200)]), Step("EngineStop", 10)),
    ("EngineUp", facts(UP, [replace(PEER, score=4199)]), Step("EngineUp", 10)),
    ("EngineUp", facts(BAD), Step("EngineUpBadHealth", 10)),
    ("EngineUp", facts(UP), Step("EngineUp", 10)),
    ("EngineUpBadHealth", facts(UP), Step("EngineUp", 10)),
    ("EngineUpBadHealth", facts(BAD), Step("EngineUpBadHealth", 10)),
    ("EngineUpBadHealth", facts(DOWN), Step("EngineMaybeAway", 10)),
    ("EngineUpBadHealth", facts(UNEXPECTED), Step("EngineUnexpectedlyDown", 10)),
    ("EngineStop", facts(DOWN), Step("EngineDown", 10)),
    ("EngineStop", facts(PAUSED), Step("EngineForceStop", 0)),
    ("EngineStop", facts(UP), Step("EngineStop", 10, STOP, "ReinitializeFSM")),
    ("EngineForceStop", facts(UP), Step("EngineDown", 10, FORCE_STOP, "ReinitializeFSM")),
    ("EngineMaybeAway", facts(DOWN), Step("EngineDown", 10)),
    ("EngineMaybeAway", facts(UNEXPECTED), Step("EngineUnexpectedlyDown", 10)),
    ("EngineMaybeAway", facts(UP), Step("EngineUp", 10)),
    ("EngineMaybeAway", facts(MISSING, [PEER_UP]), Step("EngineDown", 10)),
    ("EngineMaybeAway", facts(MISSING), Step("EngineMaybeAway", 10)),
    ("EngineUnexpectedlyDown", facts(UP), Step("EngineUp", 10)),
    ("EngineUnexpectedlyDown", facts(UNEXPECTED, [PEER_UP]), Step("EngineUnexpectedlyDown", 10)),
    ("EngineUnexpectedlyDown", facts(UNEXPECTED), Step("EngineUnexpectedlyDown", 10)),
]


@pytest.mark.parametrize(("state", "found", "expected"), ROWS)
def test_bodies(state, found, expected):
    assert step(machine(state), found) == expected


def test_a_stop_is_ordered_once():
    assert step(machine("EngineStop", timer=900), facts(UP)) == Step("EngineStop", 10)


# --- guards ---------------------------------------------------------------------------------------------------------

FLAGS = {"G": {"global_maintenance": True}, "L": {"local_maintenance": True}, "U": {"engine": UNKNOWN}}
GUARDED = {"G": "GlobalMaintenance", "L": "LocalMaintenance", "U": "UnknownLocalVmState"}


@pytest.mark.parametrize("state", GUARDS)
@pytest.mark.parametrize("guard", "GUL")
def test_each_guard_alone(state, guard):
    taken = step(machine(state), facts(**FLAGS[guard]))
    if guard in GUARDS[state]:
        assert taken == Step(GUARDED[guard], 10)
    else:
        assert taken.state != GUARDED[guard]


@pytest.mark.parametrize("state", GUARDS)
def test_the_first_guard_wins(state):
    everything = {**FLAGS["G"], **FLAGS["L"], **FLAGS["U"]}
    order = GUARDS[state].replace("T", "")
    if order:
        assert step(machine(state), facts(**everything)).state == GUARDED[order[0]]


def test_the_vm_keeps_its_host_out_of_local_maintenance():
    assert step(machine("EngineUp"), facts(UP, local_maintenance=True)).state == "EngineUp"
    assert step(machine("EngineUpBadHealth"), facts(BAD, local_maintenance=True)).state == "EngineUpBadHealth"


@pytest.mark.parametrize("state", LIMITS)
def test_timers_are_strict_and_come_first(state):
    limit, destination, delay = LIMITS[state]
    at_limit = facts(MISSING, global_maintenance=True, now=1000)
    assert step(machine(state, timer=1000 - limit), at_limit).state == "GlobalMaintenance"
    assert step(machine(state, timer=999 - limit), at_limit) == Step(destination, delay)


@pytest.mark.parametrize("state", GUARDS)
def test_w12_a_missing_first_value_of_the_engine_monitor_ends_the_agent(state):
    if state in ("StartState", "GlobalMaintenance", "LocalMaintenance"):
        assert step(machine(state), facts(None)) == Step("ReinitializeFSM", 10)
        with pytest.raises(AgentDies):
            step(machine(state), facts(None, [PEER]))
    else:
        with pytest.raises(AgentDies):
            step(machine(state), facts(None))


def test_a_peers_status_that_cannot_be_ranked_ends_the_agent_whatever_it_does():
    strange = replace(PEER, status={"vm": "migrating", "health": "starting", "detail": "x"})
    with pytest.raises(AgentDies):
        step(machine("GlobalMaintenance"), facts(UP, [strange], global_maintenance=True))


# --- time in a state ------------------------------------------------------------------------------------------------


def stays(state, engine, now_transition=False, weights=None):
    """Seconds from the entry to the exit, with cycles of exactly 10 s."""
    current, second = machine(state), 1000
    found = Facts(1, Collected(990, 990, {}, engine=engine), ())
    entered = second
    if not now_transition:
        second += 10
    for _ in range(200):
        found = found.add(Collected(second, second, {}, engine=engine))
        taken = step(current, found)
        current = enter(current, found, taken, True, weights or Weights())
        if current.state != state:
            return second - entered, current.state
        second += 10
    raise AssertionError("for ever")


@pytest.mark.parametrize(
    ("state", "engine", "now_transition", "seconds", "destination"),
    [
        ("EngineUpBadHealth", BAD, False, 320, "EngineStop"),
        ("EngineStop", UP, False, 320, "EngineForceStop"),
        ("EngineStarting", BAD, False, 620, "EngineStop"),
        ("EngineUnexpectedlyDown", UNEXPECTED, False, 580, "EngineDown"),
        ("EngineMaybeAway", MISSING, True, 50, "EngineUnexpectedlyDown"),
        ("EngineMaybeAway", MISSING, False, 60, "EngineUnexpectedlyDown"),
    ],
)
def test_measured_times(state, engine, now_transition, seconds, destination):
    assert stays(state, engine, now_transition) == (seconds, destination)


def test_a_timer_is_cleared_when_its_state_is_left():
    left = enter(machine("EngineUpBadHealth", timer=900), facts(UP), Step("EngineUp"), True, Weights())
    assert left.timer is None
    kept = enter(machine("EngineUpBadHealth", timer=900), facts(BAD), Step("EngineUpBadHealth"), True, Weights())
    assert (kept.timer, kept.timeout) == (900, 1200)
    assert enter(machine("EngineMaybeAway"), facts(MISSING), Step("EngineMaybeAway"), True, Weights()).timeout is None


# --- actions and scores ---------------------------------------------------------------------------------------------


def test_a_start_that_fails_costs_50_points_until_the_next_collection():
    found = facts()
    down = enter(machine("EngineStart"), found, step(machine("EngineStart"), found), False, Weights())
    assert (down.state, down.retries, down.score) == ("EngineDown", 1, 3350)
    # Monotonic seconds against the wall clock: expired at once.
    assert refresh(down, wall=1.7e9).retries == 0
    # As it was meant: it would count for ten minutes.
    assert refresh(down, wall=1000.0 + 599).retries == 1


def test_a_start_that_was_accepted_wipes_the_counter():
    found = facts()
    before = replace(machine("EngineStart"), retries=2)
    assert enter(before, found, step(before, found), True, Weights()).retries == 0


@pytest.mark.parametrize(("ok", "state"), [(True, "EngineStop"), (False, "ReinitializeFSM")])
def test_a_stop_that_fails(ok, state):
    found = facts(UP)
    after = enter(machine("EngineStop"), found, step(machine("EngineStop"), found), ok, Weights())
    assert (after.state, after.timer) == (state, 1000 if ok else None)


@pytest.mark.parametrize(("ok", "state"), [(True, "EngineDown"), (False, "ReinitializeFSM")])
def test_a_forced_stop_that_fails(ok, state):
    found = facts(UP)
    forced = machine("EngineForceStop")
    assert enter(forced, found, step(forced, found), ok, Weights()).state == state


@pytest.mark.parametrize("state", GUARDS)
def test_scores_of_the_states(state):
    poor = facts(mem_free=1.0)
    full = ("EngineUp", "EngineUpBadHealth", "GlobalMaintenance")
    zero = ("StartState", "ReinitializeFSM", "EngineUnexpectedlyDown", "LocalMaintenance")
    assert state_score(machine(state), poor, Weights()) == (0 if state in zero else 3400 if state in full else 3000)


# --- the flaws of the decisions -------------------------------------------------------------------------------------


def test_w1_at_exactly_60_s_it_starts_a_vm_that_runs_elsewhere():
    assert step(machine("EngineDown"), facts(DOWN, [PEER_UP], age=60)) == Step("EngineStart", 0)
    assert step(machine("EngineDown"), facts(DOWN, [PEER_UP], age=61)) == Step("EngineDown", 10)


def test_w3_a_vm_that_is_still_coming_up_is_powered_off():
    assert step(machine("EngineStarting"), facts(DOWN)) == Step("EngineForceStop", 0)


def test_w5_a_host_with_score_0_starts_when_all_others_have_0_too():
    worthless = machine("EngineDown", score=0)
    assert step(worthless, facts(DOWN, [replace(PEER, score=0)])) == Step("EngineStart", 0)


def test_w6_a_host_that_stopped_cleanly_with_the_vm_is_started_over():
    stopped = replace(PEER_UP, stopped=True)
    assert step(machine("EngineDown"), facts(DOWN, [stopped], silent=[2])) == Step("EngineStart", 0)


def test_w7_equal_hosts_start_in_the_same_cycle():
    for own, other in ((1, 2), (2, 1)):
        assert step(machine("EngineDown"), facts(DOWN, [replace(PEER, host_id=other)], own=own)).state == "EngineStart"


def test_w9_the_own_score_is_the_one_of_the_cycle_before():
    ill = facts(DOWN, [PEER], network=0.0)  # worth 1800 now, 3400 when the state was made
    assert step(machine("EngineDown", score=3400), ill).state == "EngineStart"
    assert step(machine("EngineDown", score=1800), ill).state == "EngineDown"


def test_d17s_opposite_a_remote_slot_that_says_up_stops_the_vm_that_runs_here():
    assert step(machine("EngineUpBadHealth"), facts(BAD, [PEER_UP])).state == "EngineStop"
