import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Iterator

import pytest

from ovirt_he_ha.broker.protocol import FaultCode, StorageFacts
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.cli import storage
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.core import slot
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.newest_store import NewestStore
from ovirt_he_ha.storage.ovf_store import Description, StoreVolume
from ovirt_he_ha.storage.refusal import Refusal
from ovirt_he_ha.storage.volumes import MIB, DomainVolumes, VolumeSizes, create_domain
from tests.cli.world import World, record, run
from tests.own_time import OwnTime
from tests.storage.mounted_world import MountedWorld
from tests.storage.sanlock_records import write_identity

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


def test_a_slot_that_is_blank_already_is_no_error(hosts: World) -> None:
    assert run("--clean-metadata").status == 0
    ran = run("--clean-metadata")
    assert ran.status == 0 and "already" in ran.out and len(hosts.written) == 1
    assert run("--clean-metadata", "--host-id=6").status == 0


@pytest.mark.parametrize("change", [{"storage": StorageFacts("overdue", 5.0, "hangs")}, {"slots_age": None}])
def test_nothing_is_destroyed_on_old_knowledge(hosts: World, change: dict) -> None:
    hosts.facts = replace(hosts.facts, **change)
    assert run("--clean-metadata").status == 1 and hosts.written == []
    assert run("--reinitialize-lockspace").status == 1 and hosts.resets == 0


def test_a_write_that_is_late_is_not_called_done(hosts: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(storage, "_CLEAN_SECONDS", 0.1)
    hosts.on_write = lambda _host_id: release.wait(20) and None
    try:
        ran = run("--clean-metadata")
    finally:
        release.set()
    assert ran.status == 1 and "may be yet" in ran.err


@pytest.mark.parametrize("host_id", [3, 4, 5])
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


# --- connecting ---------------------------------------------------------------------------------------------------


@pytest.fixture
def domain(host: World) -> World:
    conf = load_hosted_engine_conf(host.paths.hosted_engine_conf)
    sizes = VolumeSizes(metadata=2001 * 4096, lockspace=MIB, configuration=MIB, lease=MIB)
    create_domain(conf.storage, conf.sd_uuid, DomainVolumes.of(conf), sizes, owner=None)
    write_identity(LocalDomain(conf.storage, conf.sd_uuid), conf.vm_disk_id, conf.vm_disk_vol_id)
    return host


def test_a_directory_is_looked_at_and_never_disconnected(domain: World) -> None:
    for _ in range(2):
        ran = run("--connect-storage")
        assert ran.status == 0 and str(domain.storage) in ran.out
        assert run("--disconnect-storage").status == 0


@pytest.mark.parametrize("what", ["gone", "another", "noise"])
def test_a_directory_that_is_not_the_domain(domain: World, what: str) -> None:
    metadata = next(Path(domain.storage).glob("*/dom_md/metadata"))
    if what == "gone":
        os.rename(domain.storage, f"{domain.storage}.away")
    else:
        metadata.write_bytes(b"\xff\xfe" if what == "noise" else b"SDUUID=another\n")
    ran = run("--connect-storage")
    assert ran.status == 1 and ran.err.count("\n") == 1 and "expected" in ran.err


def test_a_connection_that_hangs_is_given_up(domain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    domain.hang_storage(monkeypatch)
    monkeypatch.setattr(storage, "CONNECT_SECONDS", 0.2)
    took = OwnTime()
    ran = run("--connect-storage")
    assert ran.status == 1 and "no answer" in ran.err and took.seconds < 3


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Iterator[MountedWorld]:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounting is root's")
    made = MountedWorld()
    monkeypatch.setenv("OVIRT_HE_ROOT", str(made.root))
    monkeypatch.setenv("PATH", str(made.script.directory))
    yield made
    made.close()


@pytest.mark.system_python
def test_an_export_is_mounted_found_and_unmounted(mounted: MountedWorld) -> None:
    mounted.make_domain()
    mounted.expect_mount()
    first, second = run("--connect-storage"), run("--connect-storage")
    assert (first.status, first.err) == (0, "") and mounted.target in first.out
    assert (second.status, second.err) == (0, "") and second.out != first.out
    mounted.expect_umount()
    assert [run("--disconnect-storage").status for _ in range(2)] == [0, 0]
    mounted.script.done()
    assert mounted.made() == []


def test_a_refused_mount_is_one_line_with_what_mount_said(mounted: MountedWorld) -> None:
    said = "mount.nfs: access denied by server while mounting srv:/export/a_b"
    mounted.refuse_mount(said + "\n")
    ran = run("--connect-storage")
    assert ran.status == 1 and ran.out == "" and ran.err.count("\n") == 1 and said in ran.err
    mounted.script.done()


@pytest.mark.system_python
def test_another_copy_is_refused_until_accepted(mounted: MountedWorld) -> None:
    domain = mounted.make_domain()
    mounted.mounted()
    assert run("--connect-storage").status == 0
    ids = Path(domain.ids_path.replace(str(mounted.export), mounted.target))
    content = ids.read_bytes()
    ids.rename(f"{ids}.before")
    ids.write_bytes(content)
    os.chown(ids, 36, 36)
    ran = run("--connect-storage")
    assert ran.status == 1 and "--accept-copy" in ran.err
    refused = Refusal(mounted.paths.storage_refusal).why
    assert "--accept-copy" in refused()  # it stays mounted: the broker must be told
    newest = NewestStore(mounted.paths.ovf_seen)
    mounted.paths.state_dir.mkdir(parents=True, exist_ok=True)
    newest.note([StoreVolume("/x", Description(date=(2026, 11, 1, 0, 0, 0)))])
    assert newest.problem() == "" and mounted.paths.ovf_seen.exists()
    assert run("--connect-storage", "--accept-copy").status == 0
    assert not mounted.paths.ovf_seen.exists()
    assert refused() == ""
    assert run("--connect-storage").status == 0


@pytest.mark.system_python
def test_where_vdsm_runs_it_is_found_and_left_alone(mounted: MountedWorld) -> None:
    process = mounted.paths.root / "proc" / "4711"
    process.mkdir()
    (process / "cmdline").write_bytes(b"/usr/bin/python3\0/usr/share/vdsm/vdsmd\0")
    ran = run("--connect-storage")
    assert ran.status == 1 and "vdsm" in ran.err
    mounted.make_domain()
    mounted.mounted()
    assert run("--connect-storage").status == 0 and run("--disconnect-storage").status == 0
    assert os.path.isdir(mounted.target)
    mounted.script.done()


def test_a_broker_that_answers_nobody_writes_no_lockspace(host: World) -> None:
    """Even though it is forced: the writing itself has 120 s."""
    host.hang_broker()
    begin = time.monotonic()
    ran = run("--reinitialize-lockspace", "--force")
    assert (ran.status, time.monotonic() - begin < 3.0) == (1, True)
