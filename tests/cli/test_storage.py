import pytest

from ovirt_he_ha.broker.protocol import FaultCode
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.core import slot
from tests.cli.world import World, record, run

BLANK = bytes(4096)


@pytest.fixture
def hosts(world: World) -> World:
    """Host 1 (this one) and host 2 have stopped, host 3 publishes, host 4 vanished, host 5 is unreadable."""
    world.publish(record(1, stopped=True), record(2, stopped=True), record(3), record(4))
    world.slots[5] = b"1|garbage".ljust(4096, b"\0")
    world.alive = [3]
    return world


def test_own_slot_by_default(hosts: World) -> None:
    ran = run("--clean-metadata")
    assert ran.status == 0 and hosts.written == [(1, BLANK)]


def test_another_host_that_stopped(hosts: World) -> None:
    assert run("--host-id=2", "--clean-metadata").status == 0
    assert hosts.written == [(2, BLANK)]


@pytest.mark.parametrize("host_id", [3, 4, 5, 6])
def test_refused_unless_it_stopped_cleanly(hosts: World, host_id: int) -> None:
    ran = run("--clean-metadata", f"--host-id={host_id}")
    assert ran.status == 1 and str(host_id) in ran.err and hosts.written == []


@pytest.mark.parametrize("host_id", [4, 5])
def test_force_for_a_host_that_vanished(hosts: World, host_id: int) -> None:
    assert run("--clean-metadata", f"--host-id={host_id}", "--force-cleanup").status == 0
    assert hosts.written == [(host_id, BLANK)]


def test_no_force_against_a_host_that_publishes(hosts: World) -> None:
    assert run("--clean-metadata", "--host-id=3", "--force-cleanup").status == 1
    assert hosts.written == []


def test_the_brokers_refusal_is_the_commands(hosts: World) -> None:
    hosts.refuse["put_stats"] = Fault(FaultCode.NOT_OWNER, "sanlock does not show host id 2 free or dead")
    ran = run("--clean-metadata", "--host-id=2", "--force-cleanup")
    assert ran.status == 1 and "sanlock" in ran.err


def test_a_slot_in_use_again_is_told(hosts: World) -> None:
    hosts.on_write = lambda host_id: hosts.publish(record(host_id))
    assert run("--clean-metadata").status == 1


@pytest.mark.parametrize("host_id", ["0", "2001", "x", "-1"])
def test_host_ids_have_a_range(hosts: World, host_id: str) -> None:
    assert run("--clean-metadata", f"--host-id={host_id}", "--force-cleanup").status == 1
    assert hosts.written == []


def test_without_a_broker_nothing_is_cleaned(host: World) -> None:
    assert run("--clean-metadata", "--force-cleanup").status == 1
    assert run("--reinitialize-lockspace", "--force").status == 1


def test_reinitialize(world: World) -> None:
    world.slots[0] = slot.encode_global(True)
    world.publish(record(1, stopped=True), record(2, stopped=True))
    assert run("--reinitialize-lockspace").status == 0
    assert world.resets == 1


def test_reinitialize_with_nobody_known(world: World) -> None:
    world.slots[0] = slot.encode_global(True)
    assert run("--reinitialize-lockspace").status == 0


def test_reinitialize_is_refused_with_every_reason(world: World) -> None:
    world.publish(record(1, stopped=True), record(2))
    world.slots[3] = b"1|garbage".ljust(4096, b"\0")
    ran = run("--reinitialize-lockspace")
    assert ran.status == 1 and world.resets == 0
    assert len(ran.err.splitlines()) == 4  # the flag, host 2, host 3, and how to force it


def test_reinitialize_forced(world: World) -> None:
    world.publish(record(1))
    assert run("--force", "--reinitialize-lockspace").status == 0
    assert world.resets == 1


def test_reinitialize_that_fails_says_so(world: World) -> None:
    world.refuse["reset_lockspace"] = Fault(FaultCode.LOCKSPACE, "not written")
    assert run("--reinitialize-lockspace", "--force").status == 1


def test_reinitialize_where_nothing_is_configured(host: World) -> None:
    host.configure(configured="no")
    assert run("--reinitialize-lockspace", "--force").status == 1
