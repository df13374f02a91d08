"""What a decision publishes: the engine status that peers can bear, and the finer lines of ours."""

from dataclasses import replace

import pytest

from ovirt_he_ha.core import reasons, slot
from ovirt_he_ha.core.model import (
    EngineStatus,
    Health,
    HostLease,
    LeaseFacts,
    LeaseOwner,
    Reading,
    Record,
    State,
    Vm,
)
from ovirt_he_ha.core.timers import announced_bounds
from tests.core.world import UP, World, codes, extra, peer

S = State


def roundtrip(record):
    decoded = slot.decode(record.host_id, slot.encode(record, 0.0))
    assert isinstance(decoded, Record)
    return decoded


def test_the_slot_of_a_healthy_host():
    world = World(state=S.ENGINE_UP).runs()
    record = roundtrip(world.step().record)
    assert record.engine == UP
    assert record.extra_ok
    lines = dict(record.extra)
    assert lines["state"] == "EngineUp"
    assert lines["phase"] == "up"
    assert lines["lease"] == "sd:vol:/srv/sd/images/img/vol.lease:0"
    assert (lines["mig"], lines["mig.uri"], lines["cpu"]) == ("1", "192.0.2.1", "same")
    assert (lines["mem"], lines["gen"], lines["version"]) == ("8192", "1", "1")
    assert {f"bound.{fault}" for fault in announced_bounds()} <= set(lines)
    assert lines["bound.host-loss"] == "162"
    assert "problem" not in lines
    assert lines["why.0"] == "up"


def test_bounds_follow_sanlocks_own_times():
    world = World(peers=())
    snapshot = world.snapshot()
    from ovirt_he_ha.core.states import decide

    leases = replace(snapshot.leases, io_timeout=2, watchdog=60)
    assert isinstance(leases, LeaseFacts)
    assert extra(decide(replace(snapshot, leases=leases)))["bound.host-loss"] == "82"


@pytest.mark.parametrize(
    ("spent", "hung", "network"),
    [
        ({}, "120", "90"),
        ({"hung_restarts": (100.0, 200.0)}, "120", "90"),
        ({"hung_restarts": (4000.0, 100.0, 200.0)}, "120", "90"),  # the oldest is more than an hour ago
        ({"hung_restarts": (1510.0, 600.0, 300.0)}, "2220", "90"),  # 2,090 s: 35 minutes
        ({"hung_restarts": (3000.0, 1510.0, 600.0, 300.0)}, "2220", "90"),  # the oldest of the last three
        ({"moves": (3599.5, 10.0)}, "120", "150"),
    ],
)
def test_a_used_up_budget_is_in_the_bounds(spent, hung, network):
    """``spent``: seconds ago."""
    world = World(state=S.ENGINE_UP).runs()
    world.now += 10_000.0
    world.budget(**{name: tuple(world.now - ago for ago in sorted(agos, reverse=True)) for name, agos in spent.items()})
    lines = extra(world.look())
    assert (lines["bound.hung-engine"], lines["bound.network-loss"]) == (hung, network)
    alone = announced_bounds()["hung-engine-alone"] + float(hung) - 120.0
    assert (lines["bound.hung-engine-alone"], lines["bound.vm-crash"]) == (f"{alone:.0f}", "10")


def test_what_is_never_done_is_not_announced():
    from ovirt_he_ha.core.states import decide
    from ovirt_he_ha.core.timers import Timers

    lines = extra(decide(World(state=S.ENGINE_UP).runs().snapshot(), Timers(hung_per_hour=0, moves_per_hour=0)))
    assert {key for key in lines if key.startswith("bound.")} == {
        f"bound.{fault}"
        for fault in announced_bounds()
        if fault not in ("hung-engine", "hung-engine-alone", "network-loss")
    }


@pytest.mark.parametrize("vm", [Vm.DOWN, Vm.DOWN_UNEXPECTED, Vm.DOWN_MISSING, Vm.UP])
@pytest.mark.parametrize("health", list(Health))
def test_a_known_vm_has_a_health_of_good_or_bad(vm, health):
    world = World(peers=())
    world.owner = Reading.of(LeaseOwner(9))
    engine = world.vm(EngineStatus(vm, health, "x")).step().record.engine
    assert engine.vm is vm
    assert engine.health is (Health.GOOD if vm is Vm.UP and health is Health.GOOD else Health.BAD)


def test_before_the_first_reading_the_status_is_null():
    world = World()
    world.engine = Reading.missing("not-yet")
    assert world.step().record.engine is None


def test_penalties_and_the_zero_reason_are_published():
    world = World()
    world.watch(network=Reading.of(0.4))
    world.edit(2, engine=UP)
    world.budget(handed_over_until=world.now + 5)
    lines = extra(world.step())
    assert lines["score.network"] == "-960 0.4"
    assert lines["score.zero"] == "handed-over"


def test_a_host_that_cannot_receive_says_nothing_of_migration():
    world = World()
    world.host = replace(world.host, can_migrate=False)
    assert not {"mig", "mig.uri"} & set(extra(world.step()))


def test_unknown_facts_leave_lines_out():
    world = World()
    world.generation = None
    world.watch(mem_free=Reading.missing("error"))
    world.host = replace(world.host, cpu_model="", lease=None)
    assert not {"mem", "gen", "cpu", "lease"} & set(extra(world.step()))


def test_texts_from_outside_stay_one_line_of_ascii():
    world = World().local()
    world.host = replace(world.host, maintenance_reason="Lüfter\nstate=EngineUp", hostname="höst|1")
    decision = world.step()
    assert extra(decision)["maintenance_reason"] == "L?fter?state=EngineUp"
    record = roundtrip(decision.record)
    assert record.get("state") == "LocalMaintenance"


def test_the_timeout_of_a_timed_state_is_published():
    world = World(state=S.ENGINE_STOP).runs()
    world.carry(stop_asked_at=world.now, stop_purpose="hung", stop_limit=15.0)
    assert extra(world.step())["timeout"] == "10015"


def test_another_host_can_explain_what_this_one_waits_for():
    world = World()
    world.edit(2, score=3500)
    record = roundtrip(world.step().record)
    why, what = reasons.from_record(record, 500.0)
    assert [reasons.describe(r) for r in why] == [
        "1 better host(s) come first, host2 (host 2) with 3500 points",
    ]
    assert [reasons.describe_countdown(c, 500.0) for c in what] == ["in 15 s: this host's turn to start"]


def test_live_peers_are_pushed_without_ourselves():
    world = World(peers=(2, 3, 4)).dead(3)
    world.slots[1] = peer(1)
    assert world.step().alive == (2, 4)


def test_the_timestamp_is_the_second_of_the_decision():
    world = World()
    world.now = 1234.9
    assert world.step().record.timestamp == 1234


def test_problems_come_once():
    world = World()
    world.watchdog_armed = True
    world.flags[2] = HostLease.LIVE
    world.host = replace(world.host, definition_problem="qcow2")
    decision = world.step()
    assert codes(decision).count("definition") == 1
    assert extra(decision)["problem"] == "definition"
