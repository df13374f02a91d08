"""A start by hand: when the lease says that the VM may run here."""

from dataclasses import replace
from typing import Any, Dict, List, Optional

import pytest

from ovirt_he_ha.broker.protocol import BrokerSnapshot
from ovirt_he_ha.cli import guard
from ovirt_he_ha.cli.hosts import read_hosts
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    EngineFacts,
    HostLease,
    LeaseFacts,
    LeaseId,
    LeaseOwner,
    LockspaceState,
    Monitors,
    Reading,
)
from ovirt_he_ha.core.situation import lease_text
from tests.cli.world import DOWN, record

OWN = 1
LEASE = LeaseId("domain", "volume", "/a/b.lease", 0)
OTHER = LeaseId("domain", "another", "/a/c.lease", 0)


def facts(**leases: Any) -> BrokerSnapshot:
    """Free lease, everything known."""
    values = {
        "lockspace": Reading.of(LockspaceState.HELD),
        "owner": Reading.of(LeaseOwner(0)),
        "hosts": Reading.of({1: HostLease.LIVE, 2: HostLease.LIVE}),
        "watchdog_armed": True,
        "renewed_ago": 5.0,
        **leases,
    }
    return BrokerSnapshot(leases=LeaseFacts(**values), monitors=Monitors(engine=Reading.of(EngineFacts(DOWN))))


def against(snapshot: BrokerSnapshot, allow_unfenced: bool = False) -> List[str]:
    return list(guard.objections(snapshot, read_hosts(snapshot, (1, 2)), OWN, LEASE, allow_unfenced))


def owned_by(host_id: int, **leases: Any) -> BrokerSnapshot:
    return facts(owner=Reading.of(LeaseOwner(host_id, 3, 9)), **leases)


def test_a_free_lease_may_be_taken() -> None:
    assert against(facts()) == []


@pytest.mark.parametrize("flag", list(HostLease))
def test_the_owner_must_be_gone(flag: HostLease) -> None:
    said = against(owned_by(2, hosts=Reading.of({2: flag})))
    assert bool(said) == (flag is not HostLease.DEAD)


def test_an_owner_that_sanlock_does_not_list_is_not_dead() -> None:
    assert against(owned_by(9))


@pytest.mark.parametrize("hosts", [{1: HostLease.LIVE}, {1: HostLease.LIVE, 2: HostLease.FREE}])
def test_an_owner_that_left_in_the_leases_own_generation_is_gone(hosts: Dict[int, HostLease]) -> None:
    assert against(owned_by(2, hosts=Reading.of(hosts), owner_left=3, owner_left_for=0.0)) == []
    assert against(owned_by(2, hosts=Reading.of(hosts), owner_left=4, owner_left_for=0.0))
    assert against(owned_by(2, hosts=Reading.of(hosts, age=guard.FRESH + 1), owner_left=3, owner_left_for=0.0))
    assert against(owned_by(2, hosts=Reading.of({2: HostLease.LIVE}), owner_left=4, owner_left_for=999.0))


def test_unknown_or_old_is_not_free() -> None:
    assert against(facts(owner=Reading.missing("error")))
    assert against(facts(owner=Reading.of(LeaseOwner(0), age=guard.FRESH + 1)))
    assert against(owned_by(2, hosts=Reading.missing("no-daemon")))
    assert against(owned_by(2, hosts=Reading.of({2: HostLease.DEAD}, age=guard.FRESH + 1)))


@pytest.mark.parametrize("ago", [None, 30.0, 61.0])
def test_s11_a_late_or_unknown_renewal_forbids_the_start(ago: Optional[float]) -> None:
    """The guard would kill what was started."""
    assert against(facts(renewed_ago=29.9)) == []
    assert against(facts(renewed_ago=ago))


def test_our_own_record_without_a_process_is_ours_to_take_again() -> None:
    snapshot = owned_by(OWN)
    assert against(snapshot) == []
    assert against(replace(snapshot, monitors=Monitors(engine=Reading.of(EngineFacts(DOWN, pid=77)))))
    assert against(replace(snapshot, monitors=Monitors(engine=Reading.missing("no-libvirt"))))


@pytest.mark.parametrize("state", [state for state in LockspaceState if state is not LockspaceState.HELD])
def test_without_the_lockspace_nothing_may_start(state: LockspaceState) -> None:
    assert against(facts(lockspace=Reading.of(state)))


def test_an_unknown_lockspace_is_not_held() -> None:
    assert against(facts(lockspace=Reading.missing("not-yet")))


@pytest.mark.parametrize("armed", [False, None])
def test_unfenced_is_refused_unless_this_host_accepts_it(armed: Any) -> None:
    assert against(facts(watchdog_armed=armed))
    assert against(facts(watchdog_armed=armed), allow_unfenced=True) == []


def test_a_host_that_is_about_to_be_reset_is_refused() -> None:
    (why,) = against(facts(reset_within=88.4))
    assert "88 s" in why


@pytest.mark.parametrize(("host_id", "lease", "refused"), [(2, OTHER, True), (2, LEASE, False), (3, OTHER, False)])
def test_a_live_peer_must_guard_the_vm_with_the_same_lease(host_id: int, lease: LeaseId, refused: bool) -> None:
    """Host 3 is not alive: what it published counts no more."""
    peer = record(host_id, extra=(("state", "EngineDown"), ("lease", lease_text(lease))))
    snapshot = replace(facts(), slots={host_id: slot.encode(peer, 1_700_000_000.0)}, slots_age=1.0)
    assert bool(against(snapshot)) == refused


def test_every_objection_is_told() -> None:
    assert len(against(owned_by(2, lockspace=Reading.missing("x"), watchdog_armed=False))) == 3
