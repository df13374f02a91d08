"""S11: the rule about joining stands where the broker joins, and holds for the storage domain's lockspace alone."""

import importlib.util
import threading
import uuid

import pytest

from ovirt_he_ha.broker import service
from ovirt_he_ha.broker.join_rule import JoinRule
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import LeaseId, LockspaceState
from ovirt_he_ha.lease.formatting import write_lockspace, write_resource
from ovirt_he_ha.lease.lockspace import SanlockLockspaces
from ovirt_he_ha.lease.membership import Membership
from ovirt_he_ha.lease.reset_watch import ResetWatch
from ovirt_he_ha.lease.watchdog import Tie
from tests.lease.fake_sanlock import FakeSanlock, Storage
from tests.lease.test_lockspace import Scripted

HELD = LockspaceState.HELD
LEASE = LeaseId("sd", "key", "/lease")
UUIDS = (
    "vmid",
    "sdUUID",
    "vm_disk_id",
    "vm_disk_vol_id",
    "metadata_image_UUID",
    "metadata_volume_UUID",
    "lockspace_image_UUID",
    "lockspace_volume_UUID",
    "conf_image_UUID",
    "conf_volume_UUID",
)
CONF = {
    **{name: str(uuid.UUID(int=number)) for number, name in enumerate(UUIDS, 1)},
    "fqdn": "engine.example",
    "host_id": "1",
    "domainType": "local",
    "storage": "/nowhere",
    "bridge": "br0",
    "gateway": "192.0.2.1",
}


class Composed(Exception):
    pass


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing")
def test_s11_the_broker_joins_by_the_rule(tmp_path, monkeypatch):
    given = {}

    def spy(*_arguments, **options):
        given.update(options)
        raise Composed

    paths = HostPaths(tmp_path)
    for directory in (paths.hosted_engine_conf.parent, paths.config_dir, paths.run_dir):
        directory.mkdir(parents=True, exist_ok=True)
    paths.hosted_engine_conf.write_text("".join(f"{key}={value}\n" for key, value in CONF.items()))
    monkeypatch.setattr(service, "SanlockLockspaces", spy)
    with pytest.raises(Composed):
        service.compose(paths)
    assert isinstance(given["may_join"], JoinRule)
    # A copy that the connection of the storage refused is not joined, whatever else holds.
    paths.storage_refusal.parent.mkdir(parents=True)
    paths.storage_refusal.write_text("another copy\n")
    assert not given["may_join"]()
    # What a dead sanlock left behind outlives this process, in a place that a reboot clears.
    watch = given["reset_watch"]
    watch.held_by("7:1", True, 140.0)
    assert [path.parent for path in tmp_path.rglob("sanlock-held.json")] == [paths.run_dir]


def test_s11_only_the_whiteboard_is_joined_beside_an_unguarded_vm():
    """Its slots say why this host does not join the other one."""
    daemon = FakeSanlock(Storage(500.0), "host1")
    daemon.start()
    write_lockspace("sd", "/ids", api=daemon)
    write_lockspace("hosted-engine", "/whiteboard", api=daemon)
    write_resource(LEASE, api=daemon)
    changed = threading.Event()
    lockspaces = SanlockLockspaces(
        LEASE,
        "/ids",
        "/whiteboard",
        SystemClock(500.0),
        api=daemon,
        may_join=lambda: False,
        on_change=changed.set,
    )
    try:
        lockspaces.want(1)
        while lockspaces.facts().whiteboard.value is not LockspaceState.HELD:
            assert changed.wait(5)
            changed.clear()
        assert {space["lockspace"] for space in daemon.get_lockspaces()} == {b"hosted-engine"}
    finally:
        lockspaces.close()


@pytest.mark.parametrize("lease_held", [True, False])
def test_s13_only_what_sanlock_gave_back_leaves_nothing_behind(lease_held):
    """A refused leave keeps the lockspace: a sanlock that dies later dooms the host all the same."""
    daemon = FakeSanlock(Storage(500.0), "host1")
    daemon.start()
    write_lockspace("sd", "/ids", api=daemon)
    write_lockspace("hosted-engine", "/whiteboard", api=daemon)
    write_resource(LEASE, api=daemon)
    changed, clock = threading.Event(), SystemClock(500.0)
    watch = ResetWatch(clock)
    lockspaces = SanlockLockspaces(
        LEASE,
        "/ids",
        "/whiteboard",
        clock,
        api=daemon,
        on_change=changed.set,
        ask_watchdog=lambda: Tie(True, "1"),
        reset_watch=watch,
    )
    try:
        lockspaces.want(1)
        while lockspaces.facts().watchdog_armed is None or lockspaces.facts().lockspace.value is not HELD:
            assert changed.wait(5)
            changed.clear()
        if lease_held:
            daemon.take("/lease")
        lockspaces.give_back()
    finally:
        lockspaces.close()
    watch.held_by("2", True, 140.0)
    assert (watch.within() is not None) == lease_held


def test_s8_who_left_while_the_rule_was_asked_joins_no_more():
    api = Scripted()
    member = Membership("sd", "/ids", api, lambda: None, may_join=lambda: member.want(None) is None)
    member.want(1)
    assert not member.begin_join(1)
    assert not member.joining
