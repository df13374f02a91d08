"""Worlds that are broken on purpose: each rule must see its breach. And the whole product in a world whose lease, guard
or rules are taken out."""

from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

from ovirt_he_ha.core import fencing, guards, starting
from ovirt_he_ha.core.fencing import Kind, Verdict
from ovirt_he_ha.core.model import SLOT_SIZE, ActionKind, LeaseOwner
from ovirt_he_ha.core.slot import encode_global
from ovirt_he_ha.sim import seats
from ovirt_he_ha.sim.appliance import Guest
from ovirt_he_ha.sim.faults import Fault
from ovirt_he_ha.sim.run import laboratory, run
from ovirt_he_ha.sim.sanlock import Sanlock
from ovirt_he_ha.sim.scenario import Scenario, load
from ovirt_he_ha.sim.world import ClusterSpec, World

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"


def rules(world: World) -> List[str]:
    return [violation.rule for violation in world.invariants.violations]


def world_after(seconds: float, tweak: Callable[[World], None], more: float = 20.0) -> World:
    with laboratory():
        world = World(ClusterSpec(hosts=3), 1)
        world.run(seconds)
        assert rules(world) == []
        tweak(world)
        world.run(seconds + more)
    return world


def second_copy(world: World) -> None:
    """A copy on host 2, as a hypervisor without a lock manager would run it."""
    copy = world.hosts[2].libvirt.spawn(Guest(world.timeline, 0.0), incoming=False)
    copy.set_cpus("running")


def test_two_running_copies_are_seen() -> None:
    found = rules(world_after(60.0, second_copy, 0.5))
    assert "two-copies" in found and "no-lease" in found


def test_a_copy_whose_record_was_taken_is_seen() -> None:
    def take(world: World) -> None:
        world.disk.set_owner(LeaseOwner(3, 9, 1))

    assert rules(world_after(60.0, take, 1.0)) == ["no-lease"]


def test_a_stale_copy_that_goes_on_is_seen() -> None:
    def resume_late(world: World) -> None:
        stale = world.hosts[1].libvirt.domain
        assert stale is not None
        stale.set_cpus("paused", "user")
        second_copy(world)
        world.hosts[2].libvirt.kill(world.hosts[2].libvirt.domain, "destroyed")  # type: ignore[arg-type]
        world.timeline.after(1.0, lambda: stale.set_cpus("running"))

    assert "resumed" in rules(world_after(60.0, resume_late, 2.0))


def test_a_write_into_another_hosts_slot_is_seen() -> None:
    def write(world: World) -> None:
        world.volume.put(2, 3, world.volume.get(2))

    assert set(rules(world_after(60.0, write, 0.5))) == {"foreign-slot", "bad-slot"}


def test_another_hosts_slot_that_is_zeroed_unasked_is_seen() -> None:
    def zero(world: World) -> None:
        world.volume.put(2, 3, bytes(SLOT_SIZE))

    assert rules(world_after(60.0, zero, 0.5)) == ["foreign-slot"]
    assert rules(world_after(60.0, lambda world: (world.invariants.cleaned(3), zero(world))[1], 0.5)) == []


@pytest.mark.parametrize(
    "data", [b"x" * SLOT_SIZE, b"1|1|5|2".ljust(SLOT_SIZE, b"\0"), b"\xff".ljust(SLOT_SIZE, b"\0")]
)
def test_a_slot_that_blinds_upstream_readers_is_seen(data: bytes) -> None:
    assert rules(world_after(60.0, lambda world: world.volume.put(2, 2, data), 0.5)) == ["bad-slot"]


def test_a_record_with_a_wrong_checksum_is_seen() -> None:
    def damage(world: World) -> None:
        good = world.volume.get(2)
        world.volume.put(2, 2, good.replace(b"host2", b"host9", 1))

    assert rules(world_after(60.0, damage, 0.5)) == ["bad-slot"]


def test_an_action_in_global_maintenance_is_seen() -> None:
    def act(world: World) -> None:
        world.volume.put(3, 0, encode_global(True))

        def order() -> None:
            agent = world.hosts[1].agent
            assert agent is not None
            world.ordered(world.hosts[1], agent.cycle, starting.Action(ActionKind.STOP))

        world.timeline.after(70.0, order)

    assert "maintenance" in rules(world_after(60.0, act, 80.0))


def test_an_engine_that_stays_away_is_seen() -> None:
    def sabotage(world: World) -> None:
        for host in world.hosts.values():
            host.libvirt.create = lambda deadline, done: None  # type: ignore[method-assign]
        world.hosts[1].libvirt.kill(world.hosts[1].libvirt.domain, "crashed")  # type: ignore[arg-type]

    assert rules(world_after(60.0, sabotage, 900.0)) == ["progress"]


def test_an_exception_out_of_the_product_is_seen_and_ends_the_run() -> None:
    def sabotage(world: World) -> None:
        agent = world.hosts[2].agent
        assert agent is not None
        agent.cycle.publisher = None  # type: ignore[assignment]

    world = world_after(60.0, sabotage, 100.0)
    assert rules(world) == ["exception"] and isinstance(world.crash, AttributeError)


# --- the whole product with a rule taken out -------------------------------------------------------------------------

Patch = Tuple[Any, str, Any]


def broken(monkeypatch: pytest.MonkeyPatch, name: str, patches: List[Patch]) -> List[str]:
    for place, attribute, value in patches:
        monkeypatch.setattr(place, attribute, value)
    return rules(run(load(SCENARIOS / name)).world)


def test_s1_without_the_lease_check_a_start_is_ordered_against_a_live_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "lease-ignored" in broken(monkeypatch, "host-loss", [(starting, "lease_objection", lambda sit: None)])


def test_s1_without_lease_check_and_lock_manager_two_copies_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "two-copies" in broken(
        monkeypatch,
        "hand-start-wins-the-race",
        [
            (starting, "lease_objection", lambda sit: None),
            (Sanlock, "_may_take", lambda self, owner, space: True),
        ],
    )


def test_s11_without_guard_and_join_rule_a_rejoin_frees_the_lease_of_a_running_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "rejoined" in broken(
        monkeypatch,
        "sanlock-kill-and-rejoin",
        [
            (fencing, "judge", lambda facts, timers: Verdict(Kind.KEEP, "")),
            (seats, "JoinRule", lambda *parts: lambda: True),
        ],
    )


def test_s2_without_a_reset_writes_of_a_paused_copy_hang_beside_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "paused-while-the-storage-hangs"
    assert broken(monkeypatch, name, [(fencing, "reset_due", lambda facts, stuck: False)]) == ["two-copies"]


def test_s2_without_fencing_and_guard_a_resume_after_another_copy_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, attribute, value in (
        (fencing, "judge", lambda facts, timers: Verdict(Kind.KEEP, "")),
        (guards, "fence", lambda sit, d: None),
    ):
        monkeypatch.setattr(place, attribute, value)
    faults = (
        Fault(100.0, "vm-pause", 1),
        Fault(120.0, "hand-start", 2),
        Fault(200.0, "hand-shutdown", 2),
        Fault(230.0, "vm-resume", 1),
    )
    found = rules(run(Scenario("resume", "", ClusterSpec(), faults, (), 300.0, progress=False)).world)
    assert "resumed" in found


def test_the_same_worlds_with_the_whole_product_break_no_rule() -> None:
    faults = (Fault(100.0, "vm-pause", 1), Fault(120.0, "hand-start", 2), Fault(230.0, "vm-resume", 1))
    assert rules(run(Scenario("resume", "", ClusterSpec(), faults, (), 300.0)).world) == []
