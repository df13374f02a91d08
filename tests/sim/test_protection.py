"""The meter that every host publishes drops when something is taken away from the cluster, and comes back with it.

Whole simulated hosts: real agents and brokers over simulated sanlock, libvirt and storage.
"""

from dataclasses import replace
from typing import Callable, Dict, Iterator, List

import pytest

from ovirt_he_ha.config.files import HaConf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import Level, Record
from ovirt_he_ha.sim.seats import quiet
from ovirt_he_ha.sim.world import ClusterSpec, World

SETTLED = 90.0
# A cycle of the host that lost something (its own word), a read by its peers' brokers, and a cycle of their agents.
SOON = 3 * 10.0 + 2.0


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    undo = quiet()
    yield
    undo()


@pytest.fixture
def world() -> World:
    made = World(ClusterSpec())
    made.run(SETTLED)
    return made


def levels(world: World) -> List[str]:
    """As it stands in the slots, without the help of whoever wrote them."""
    found: Dict[int, str] = {}
    for host_id in sorted(world.hosts):
        record = slot.decode(host_id, world.volume.slots[host_id])
        assert isinstance(record, Record) and record.extra_ok
        found[host_id] = record.get("prot")
    return list(found.values())


def missing(world: World, host_id: int) -> List[str]:
    return [f"{one.code} {','.join(map(str, one.hosts))}" for one in world.last_decision[host_id].protection.findings]


def test_a_whole_cluster_is_protected_and_every_host_says_so(world: World) -> None:
    assert levels(world) == ["protected"] * 3, [missing(world, host_id) for host_id in world.hosts]
    meter = world.last_decision[2].protection
    assert (meter.vm_host, meter.spares, meter.deployed) == (1, (2, 3), 3)


def lock_manager(host_id: int) -> Callable[[World], None]:
    def take(world: World) -> None:
        host = world.hosts[host_id]
        host.safeguards = replace(host.safeguards, lock_manager="off")

    return take


def lease(world: World) -> None:
    for host in world.hosts.values():
        host.definition_problem = "no-lease"


def spare(world: World) -> None:
    world.hosts[3].ha_conf = HaConf(local_maintenance=True, manual=True)


def both_spares(world: World) -> None:
    for host_id in (2, 3):
        world.hosts[host_id].ha_conf = HaConf(local_maintenance=True, manual=True)


def stopped(world: World) -> None:
    world.hosts[3].stop_agent()


def configuration(world: World) -> None:
    host = world.hosts[2]
    host.safeguards = replace(host.safeguards, deployment="other")


@pytest.mark.parametrize(
    ("take", "code", "hosts", "level"),
    [
        (lease, "lease-missing", (1,), Level.UNPROTECTED),
        (lock_manager(1), "lock-manager-off", (1,), Level.UNPROTECTED),
        (lock_manager(2), "lock-manager-off", (2,), Level.DEGRADED),
        (spare, "host-maintenance", (3,), Level.DEGRADED),
        (both_spares, "no-spare", (), Level.UNPROTECTED),
        (stopped, "host-stopped", (3,), Level.DEGRADED),
        (configuration, "deployment-differs", (2,), Level.DEGRADED),
    ],
)
def test_what_is_taken_away_shows_on_every_host(
    world: World, take: Callable[[World], None], code: str, hosts: object, level: Level
) -> None:
    take(world)
    world.run(SETTLED + SOON)
    for host_id, decision in world.last_decision.items():
        if world.hosts[host_id].agent is None:
            continue
        assert decision.protection.level is level, (host_id, missing(world, host_id))
        assert [one.level for one in decision.protection.findings if (one.code, one.hosts) == (code, hosts)] == [level]
        record = slot.decode(host_id, world.volume.slots[host_id])
        assert isinstance(record, Record)
        assert record.get("prot") == level.value
        assert code in record.get("prot.why")


def test_what_comes_back_is_seen_as_well(world: World) -> None:
    before = world.hosts[2].safeguards
    lock_manager(2)(world)
    world.run(SETTLED + SOON)
    assert levels(world) == ["degraded"] * 3
    world.hosts[2].safeguards = before
    world.run(SETTLED + 2 * SOON)
    assert levels(world) == ["protected"] * 3


def test_a_lost_spare_is_doubted_before_it_counts_as_dead(world: World) -> None:
    world.hosts[3].switch_off()
    world.run(SETTLED + 54.0)
    assert "host-silent 3" in missing(world, 1)
    assert levels(world)[:2] == ["degraded"] * 2
    world.run(SETTLED + 75.0)
    assert "host-dead 3" in missing(world, 1)


def test_a_host_without_a_watchdog_is_no_spare() -> None:
    made = World(ClusterSpec(hosts=2, each={2: {"watchdog": False, "allow_unfenced": True}}))
    made.run(SETTLED)
    assert made.last_decision[1].protection.spares == ()
    assert {"no-spare ", "watchdog-off 2"} <= set(missing(made, 1))


def test_an_upstream_peer_cannot_tell_and_is_not_green() -> None:
    made = World(ClusterSpec(each={3: {"upstream": True}}))
    made.run(SETTLED)
    meter = made.last_decision[1].protection
    assert meter.level is Level.DEGRADED
    assert [one.level for one in meter.findings if (one.code, one.hosts) == ("host-foreign", (3,))] == [Level.UNKNOWN]
