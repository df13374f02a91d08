"""Each source alone can keep the VM from being called off."""

from dataclasses import replace
from typing import Any, Dict

import pytest

from ovirt_he_ha.cli.guard import FRESH
from ovirt_he_ha.cli.hosts import read_hosts
from ovirt_he_ha.cli.whereabouts import Where, place_of
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    EngineFacts,
    EngineStatus,
    Health,
    HostLease,
    LeaseFacts,
    LeaseOwner,
    Monitors,
    Reading,
    Vm,
)
from tests.cli.world import DOWN, UP, record

LIVE = {1: HostLease.LIVE, 2: HostLease.LIVE, 3: HostLease.LIVE}
OFF = BrokerSnapshot(
    host_id=1,
    slots={h: slot.encode(record(h), 0.0) for h in (1, 2, 3)},
    slots_age=1.0,
    monitors=Monitors(engine=Reading.of(EngineFacts(DOWN), 1.0)),
    leases=LeaseFacts(hosts=Reading.of(LIVE, 1.0), owner=Reading.of(LeaseOwner(0), 1.0)),
)


def where(snapshot: BrokerSnapshot, alive: Any = (1, 2, 3)) -> Where:
    return place_of(snapshot, read_hosts(snapshot, alive), 1).where


def with_engine(reading: "Reading[EngineFacts]") -> BrokerSnapshot:
    return replace(OFF, monitors=replace(OFF.monitors, engine=reading))


def with_leases(**changes: Any) -> BrokerSnapshot:
    return replace(OFF, leases=replace(OFF.leases, **changes))


def test_off_when_all_agree() -> None:
    assert where(OFF) is Where.OFF


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (EngineFacts(UP, pid=7), Where.HERE),
        (EngineFacts(DOWN, pid=7), Where.HERE),  # a process that libvirt does not call up
        (EngineFacts(EngineStatus(Vm.UP, Health.BAD, "Paused"), pid=7), Where.HERE),
        (EngineFacts(EngineStatus(Vm.UP, Health.GOOD, "Migration Source"), pid=7), Where.MOVING),
        (EngineFacts(DOWN, incoming=True), Where.MOVING),
    ],
)
def test_what_libvirt_shows_here(facts: EngineFacts, expected: Where) -> None:
    assert where(with_engine(Reading.of(facts, 1.0))) is expected


@pytest.mark.parametrize(
    "reading", [Reading.missing("overdue"), Reading.of(EngineFacts(DOWN), FRESH + 1), Reading.of(EngineFacts(UP), 99.0)]
)
def test_what_libvirt_does_not_tell_is_not_known(reading: "Reading[EngineFacts]") -> None:
    assert where(with_engine(reading)) is Where.UNKNOWN


@pytest.mark.parametrize("reading", [Reading.missing("overdue"), Reading.of(LeaseOwner(0), FRESH + 1)])
def test_an_owner_that_was_not_read_is_not_known(reading: "Reading[LeaseOwner]") -> None:
    assert where(with_leases(owner=reading)) is Where.UNKNOWN


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({2: HostLease.LIVE}, Where.ELSEWHERE),
        ({2: HostLease.FAIL}, Where.UNKNOWN),
        ({2: HostLease.UNKNOWN}, Where.UNKNOWN),
        ({}, Where.UNKNOWN),
        ({2: HostLease.DEAD}, Where.OFF),
        ({2: HostLease.FREE}, Where.OFF),
    ],
)
def test_sanlocks_word_for_the_owner_decides(flags: Dict[int, HostLease], expected: Where) -> None:
    """Without any slot that says up: a host that was cut off publishes nothing."""
    owner = Reading.of(LeaseOwner(2, 4, 100), 1.0)
    assert where(with_leases(owner=owner, hosts=Reading.of(flags, 1.0))) is expected


@pytest.mark.parametrize("hosts", [Reading.missing("overdue"), Reading.of({2: HostLease.DEAD}, FRESH + 1)])
def test_an_old_word_for_the_owner_is_none(hosts: Any) -> None:
    assert where(with_leases(owner=Reading.of(LeaseOwner(2, 4, 100), 1.0), hosts=hosts)) is Where.UNKNOWN


def test_an_own_record_without_a_process_is_of_an_earlier_time() -> None:
    assert where(with_leases(owner=Reading.of(LeaseOwner(1, 4, 100), 1.0))) is Where.OFF


@pytest.mark.parametrize(("alive", "stopped", "expected"), [
    ((1, 2, 3), False, Where.UNKNOWN),
    ((1, 3), False, Where.OFF),
    ((1, 2, 3), True, Where.OFF),
])  # fmt: skip
def test_a_live_host_that_says_up_is_believed_for_a_moment(alive: Any, stopped: bool, expected: Where) -> None:
    """The lease is free: its next slot says so, or its process has none and is killed."""
    says = slot.encode(record(2, engine=UP, stopped=stopped), 0.0)
    assert where(replace(OFF, slots={**OFF.slots, 2: says}), alive) is expected
