"""--check-storage and --create-volume."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import pytest

from ovirt_he_ha.cli import volumes
from ovirt_he_ha.cli.storage import CONNECT_SECONDS
from ovirt_he_ha.client import shared_config
from ovirt_he_ha.config.files import HostedEngineConf, load_hosted_engine_conf
from ovirt_he_ha.storage import connection, inspection, io_worker
from ovirt_he_ha.storage.archive import MEMBERS, ArchiveError, build_archive, read_archive
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.volumes import LOCKSPACE_USED, MIB, SCANNED, DomainVolumes, VolumeSizes, create_domain
from tests.cli.world import World, record, run
from tests.client.no_lock import NoLock
from tests.own_time import OwnTime
from tests.storage.test_inspection import sanlock

pytestmark = pytest.mark.skipif(
    shutil.which("sanlock", path="/usr/sbin:/usr/bin") is None, reason="sanlock is missing: it formats the leases"
)
SIZES = VolumeSizes(metadata=SCANNED, lockspace=LOCKSPACE_USED, configuration=MIB, disk=MIB, lease=MIB)


class House:
    def __init__(self, host: World) -> None:
        self.host = host
        conf = load_hosted_engine_conf(host.paths.hosted_engine_conf)
        names = DomainVolumes.of(conf)
        create_domain(conf.storage, conf.sd_uuid, names, SIZES, owner=None)
        root = Path(conf.storage) / conf.sd_uuid
        self.ids = root / "dom_md" / "ids"
        images = root / "images"
        self.lockspace = images / names.lockspace.image / names.lockspace.volume
        self.metadata = images / names.metadata.image / names.metadata.volume
        self.configuration = images / names.configuration.image / names.configuration.volume
        disk = images / names.disk.image / f"{names.disk.volume}.lease"
        sanlock("-s", f"{conf.sd_uuid}:0:{self.ids}:0")
        sanlock("-s", f"hosted-engine:0:{self.lockspace}:0")
        sanlock("-r", f"{conf.sd_uuid}:{names.disk.volume}:{disk}:0")
        with self.configuration.open("r+b") as file:
            file.write(build_archive(dict.fromkeys(MEMBERS, b"x=1\n")))

    def slot(self, host_id: int, data: bytes) -> None:
        with self.metadata.open("r+b") as file:
            file.seek(host_id * 4096)
            file.write(data)


@pytest.fixture
def house(host: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(inspection, "OWNER", (os.getuid(), os.getgid()))
    monkeypatch.setattr(volumes, "OWNER", (os.getuid(), os.getgid()))
    monkeypatch.setattr(volumes, "_CREATED", {**volumes._CREATED, "metadata": (SCANNED + MIB, SCANNED)})
    monkeypatch.setattr(volumes, "_CREATED", {**volumes._CREATED, "lockspace": (LOCKSPACE_USED, LOCKSPACE_USED)})
    monkeypatch.setattr(volumes, "_CREATED", {**volumes._CREATED, "configuration": (MIB, MIB)})
    monkeypatch.setattr(shared_config, "ArchiveLock", NoLock)
    yield House(host)


def test_a_whole_domain(house: House) -> None:
    ran = run("--check-storage")
    assert (ran.status, ran.err) == (0, "")
    found = run("--check-storage", "--json").json
    assert found["whole"] and set(found["volumes"]) == {
        "ids", "lockspace", "metadata", "configuration", "disk", "lease",
    }  # fmt: skip


def test_what_has_to_be_mended_is_told_with_the_command_that_does(house: House) -> None:
    house.slot(5, b"\xff garbage")
    house.slot(7, record_bytes(7))
    house.configuration.unlink()
    ran = run("--check-storage")
    assert ran.status == 3
    assert "--clean-metadata --host-id=5" in ran.out and "--clean-metadata --host-id=7" in ran.out
    found = run("--check-storage", "--json").json
    assert {host_id: one["state"] for host_id, one in found["slots"].items()} == {"5": "corrupt", "7": "orphaned"}
    assert [one["code"] for one in found["volumes"]["configuration"]["problems"]] == ["missing"]
    assert found["volumes"]["configuration"]["size"] is None


def record_bytes(host_id: int) -> bytes:
    from ovirt_he_ha.core import slot

    return slot.encode(record(host_id), 0.0)


def test_storage_that_hangs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.host.hang_storage(monkeypatch)
    monkeypatch.setattr(volumes, "LOOK_SECONDS", 0.3)
    for words in (["--check-storage"], ["--create-volume", "--volume=metadata", "--force"]):
        ran = run(*words)
        assert (ran.status, ran.out) == (1, "") and ran.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--check-storage"], ["--create-volume", "--volume=metadata"]])
def test_storage_whose_reader_cannot_be_killed(house: House, words: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 3 s, of which the interpreter's start and the imports take 0.4; and the bounds themselves, which a busy
    machine does not hide."""
    assert volumes.LOOK_SECONDS + io_worker.KILL_GRACE <= 3.0 - 0.4
    house.host.hang_storage(monkeypatch)
    left: List[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(io_worker.subprocess.Popen, "kill", lambda process: left.append(process))
    began = OwnTime()
    try:
        ran = run(*words)
        assert (ran.status, ran.out) == (1, "") and ran.err.count("\n") == 1
        assert began.seconds < 3.0 - 0.4
        assert left
    finally:
        for process in left:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("role", ["metadata", "lockspace", "configuration"])
def test_what_is_in_use_is_refused(house: House, role: str) -> None:
    house.slot(2, record_bytes(2))
    path: Path = getattr(house, role)
    before = path.read_bytes()
    ran = run("--create-volume", f"--volume={role}")
    assert (ran.status, ran.out) == (1, "")
    assert path.read_bytes() == before


@pytest.mark.parametrize("role", ["metadata", "lockspace"])
def test_slots_and_a_lockspace_are_not_overwritten_by_force_either(house: House, role: str) -> None:
    house.slot(2, record_bytes(2))
    path: Path = getattr(house, role)
    before = path.read_bytes()
    assert run("--create-volume", f"--volume={role}", "--force").status == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("lost", ["volume", "directory"])
@pytest.mark.parametrize("role", ["metadata", "lockspace", "configuration"])
def test_a_lost_volume_is_made_anew(house: House, role: str, lost: str) -> None:
    path: Path = getattr(house, role)
    path.unlink()
    if lost == "directory":
        shutil.rmtree(path.parent)
    ran = run("--create-volume", f"--volume={role}")
    assert (ran.status, ran.err) == (0, "")
    if role == "lockspace":
        assert path.read_bytes() == bytes(LOCKSPACE_USED)
        sanlock("-s", f"hosted-engine:0:{path}:0")  # the verb that it names does so through the broker
    assert path.stat().st_mode & 0o777 == 0o660
    assert run("--check-storage").status == 0


def test_a_metadata_volume_of_garbage_is_zeroed_by_force_only(house: House) -> None:
    house.metadata.write_bytes(b"\xff" * SCANNED)
    assert run("--create-volume", "--volume=metadata").status == 1
    assert run("--create-volume", "--volume=metadata", "--force").status == 0
    assert house.metadata.read_bytes()[:SCANNED] == bytes(SCANNED)


def test_the_configuration_is_what_this_host_had(house: House) -> None:
    paths = house.host.paths
    paths.broker_conf.write_text("[email]\nsmtp-server=mail.example\n[notify]\nstate_transition=start\n")
    paths.vm_conf.write_text("# a head\n\nxmlBase64=AAAA\nvmId=x\n")
    house.configuration.unlink()
    assert run("--create-volume", "--volume=configuration").status == 0
    members = read_archive(house.configuration)
    assert b"host_id" not in members["hosted-engine.conf"] and b"vmid=" in members["hosted-engine.conf"]
    assert b"mail.example" in members["broker.conf"]
    assert members["vm.conf"] == b"xmlBase64=AAAA\nvmId=x\n"
    paths.vm_conf.write_text(f"xmlBase64={'A' * 17000}\nvmId=x\n")
    house.configuration.unlink()
    assert run("--create-volume", "--volume=configuration").status == 0
    assert read_archive(house.configuration)["vm.conf"] == b"vmId=x\n"


def test_without_a_copy_of_the_definition_nothing_is_made(house: House) -> None:
    house.host.paths.vm_conf.unlink()
    house.configuration.unlink()
    ran = run("--create-volume", "--volume=configuration")
    assert (ran.status, ran.out) == (1, "")
    assert not house.configuration.exists()


def test_without_the_lock_nothing_is_made(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(NoLock):
        def enter(self) -> None:
            raise ArchiveError("lock-not-joined", "this host is not in hosted-engine", "/volume")

    monkeypatch.setattr(shared_config, "ArchiveLock", Refused)
    house.configuration.unlink()
    ran = run("--create-volume", "--volume=configuration")
    assert (ran.status, ran.out) == (1, "")
    assert not house.configuration.exists()


def test_a_domain_that_is_not_there(house: House) -> None:
    shutil.rmtree(house.host.storage)
    assert run("--check-storage").status == 3
    assert run("--create-volume", "--volume=metadata").status == 1
    assert not house.host.storage.exists()


@pytest.mark.parametrize("words", [["--create-volume"], ["--create-volume", "--volume=disk"]])
def test_which_volume_has_to_be_said(house: House, words: "list[str]") -> None:
    ran = run(*words)
    assert ran.status == 1 and "metadata" in ran.out + ran.err


class Lvm:
    """What the storage layer is asked for, on a block domain."""

    def __init__(self, made: bool = True, problem: Optional[DomainProblem] = None) -> None:
        self.made = made
        self.problem = problem
        self.calls: List[Tuple[object, ...]] = []

    def make_volume(self, conf: object, _paths: object, *words: object) -> bool:
        self.calls.append(("make", *words))
        return self.made

    def connect(self, *_words: object) -> Tuple[None, None]:
        self.calls.append(("connect",))
        if self.problem is not None:
            raise self.problem
        return None, None


def on_block(host: World, monkeypatch: pytest.MonkeyPatch, lvm: Lvm) -> HostedEngineConf:
    path = host.paths.hosted_engine_conf
    lines = [line for line in path.read_text().splitlines() if line.split("=")[0] not in ("domainType", "storage")]
    path.write_text("\n".join([*lines, "domainType=fc", "storage="]) + "\n")
    monkeypatch.setattr(connection, "make_volume", lvm.make_volume)
    monkeypatch.setattr(connection, "connect", lvm.connect)
    return load_hosted_engine_conf(path)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("role,size", [("metadata", 128 * MIB), ("lockspace", 1024 * MIB)])
def test_a_logical_volume_is_made_and_the_domain_connected(
    host: World, monkeypatch: pytest.MonkeyPatch, role: str, size: int, force: bool
) -> None:
    lvm = Lvm()
    conf = on_block(host, monkeypatch, lvm)
    ran = run("--create-volume", f"--volume={role}", *(["--force"] if force else []))
    assert (ran.status, ran.err) == (0, "")
    name = getattr(DomainVolumes.of(conf), role)
    zeroed = {"metadata": SCANNED, "lockspace": LOCKSPACE_USED}[role]
    assert lvm.calls == [("make", name, size, zeroed, CONNECT_SECONDS, force), ("connect",)]


def test_one_that_is_only_inactive_is_not_filled(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lvm = Lvm(made=False)
    on_block(host, monkeypatch, lvm)
    ran = run("--create-volume", "--volume=metadata")
    assert ran.status == 1 and "--connect-storage" in ran.err
    assert [call[0] for call in lvm.calls] == ["make"]


def test_when_another_one_is_missing_too_it_is_named(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lvm = Lvm(problem=DomainProblem("no-volume", "group/other", "a logical volume", "make it"))
    conf = on_block(host, monkeypatch, lvm)
    ran = run("--create-volume", "--volume=metadata")
    assert ran.status == 1 and "group/other" in ran.err and conf.metadata_volume_uuid in ran.err


def test_without_a_copy_no_logical_volume_is_made_for_the_configuration(
    host: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvm = Lvm()
    on_block(host, monkeypatch, lvm)
    host.paths.vm_conf.unlink()
    assert run("--create-volume", "--volume=configuration").status == 1
    assert lvm.calls == []
