"""A domain on a real NFS server (nfs-ganesha), looked at, read and written through a real NFS 4 client (libnfs): what
the product lays out on one side is what it finds on the other; the server's byte-range locks exclude another client.

The kernel's NFS client, and so ``mount``, is not in it.
"""

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.core.model import EngineStatus, Health, Record, Vm
from ovirt_he_ha.core.slot import decode, encode
from ovirt_he_ha.storage.archive import (
    MEMBERS,
    SIZE,
    ArchiveError,
    build_archive,
    read_archive,
    restore_previous,
    write_archive,
)
from ovirt_he_ha.storage.domain_files import FilesHere
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.identity import verify_contents
from ovirt_he_ha.storage.inspection import inspect
from ovirt_he_ha.storage.io_process import IoFailure, direct_read, direct_write
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.ovf_store import OvfStores, read_ovf
from ovirt_he_ha.storage.volumes import (
    LOCKSPACE_USED,
    MIB,
    MODE,
    OWNER,
    SCANNED,
    DomainVolumes,
    VolumeSizes,
    create_domain,
)
from tests.contract import nfs_server
from tests.storage.engine_ovf import meta, store
from tests.storage.mounted_world import NAMES
from tests.storage.sanlock_records import lockspace, put

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(bool(nfs_server.missing()), reason=nfs_server.missing() or "-"),
]
if not nfs_server.missing():
    from tests.contract.nfs_client import STRANGER, Archive, Client, Files

SD = "00000000-0000-4000-8000-000000000003"
VM = "5a1de5b1-21b5-4c65-9a5e-000000000001"
HOST, GENERATION = 2, 7
SLOT = 4096
MADE = {name: b"key=made here\n" for name in MEMBERS}
CHANGED = {**MADE, "vm.conf": b"memSize=4096\n"}
SIZES = VolumeSizes(metadata=SCANNED, lockspace=LOCKSPACE_USED, configuration=MIB, lease=MIB)


def configuration(directory):
    values = {"fqdn": "engine.test", "vmid": VM, "host_id": str(HOST), "gateway": "127.0.0.1", "bridge": "ovirtmgmt"}
    values.update((name, f"00000000-0000-4000-8000-{number:012d}") for number, name in enumerate(NAMES, 1))
    values.update(domainType="nfs4", storage="srv:/domain")
    path = directory / "hosted-engine.conf"
    path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return load_hosted_engine_conf(path)


def slot(host_id, count=1):
    return encode(Record(host_id, count, 3400, EngineStatus(Vm.DOWN, Health.BAD, "Down"), f"host{host_id}"), 0.0)


def sanlock_direct(*words):
    argv = ["sanlock", "direct", "init", *words, "-Z", "512", "-A", "1M", "-o", "0"]
    subprocess.run(argv, check=True, timeout=60, capture_output=True)


class Made:
    """A domain that the product made in the server's directory, with what sanlock and the daemons put in."""

    def __init__(self, export):
        self.export = export
        self.conf = configuration(export.parent)
        names = DomainVolumes.of(self.conf)
        os.chmod(export, 0o755)
        os.chown(export, *OWNER)
        create_domain(str(export), SD, names, SIZES, 512, owner=OWNER)
        self.here = LocalDomain(str(export), SD)
        self.paths = {role: self.here.volume_path(name.image, name.volume) for role, name in vars(names).items()}
        make_disk(self.paths["disk"])
        self.paths["lease"] = self.here.lease(names.disk.image, names.disk.volume).path
        self.paths["ids"] = self.here.ids_path

    def filled(self):
        """What sanlock's own tool and the daemons write."""
        sanlock_direct("-s", f"{SD}:0:{self.paths['ids']}:0")
        sanlock_direct("-s", f"hosted-engine:0:{self.paths['lockspace']}:0")
        sanlock_direct("-r", f"{SD}:{self.conf.vm_disk_vol_id}:{self.paths['lease']}:0")
        write_archive(self.paths["configuration"], MADE)
        direct_write(self.paths["metadata"], HOST * SLOT, slot(HOST))
        return self

    def over(self, path):
        """The same path as a client sees it."""
        return "/" + str(Path(path).relative_to(self.export))

    def through(self, client):
        """The domain as the product sees it over NFS."""
        files = Files(client)
        return LocalDomain("/", SD, files), files


def make_disk(path):
    with open(path, "wb") as file:
        file.write(bytes(MIB))
    os.chown(path, *OWNER)
    os.chmod(path, MODE)


both_versions = pytest.mark.parametrize("version", [3, 4])


def on_nfs(body, directory, *arguments):
    nfs_server.run(body, directory, *arguments)


def refusal(call):
    with pytest.raises((DomainProblem, ArchiveError, IoFailure)) as caught:
        call()
    return caught.value.code


def refused(call):
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


# --- made here, seen there --------------------------------------------------------------------------------------------


def seen_through_nfs(export, version):
    made = Made(export).filled()
    client = Client(version)
    domain, files = made.through(client)
    report = inspect(made.conf, domain, files)
    assert not report.findings and not any(each.findings for each in report.volumes), report
    assert report.sector_size == 512
    assert {each.role: each.holds for each in report.volumes} == {
        "ids": f"lockspace {SD}",
        "lockspace": "lockspace hosted-engine",
        "metadata": "slots",
        "configuration": "archive version",
        "disk": "zeros",
        "lease": f"lease {SD}:{made.conf.vm_disk_vol_id}",
    }
    assert [(each.host_id, each.state) for each in report.slots] == [(HOST, "orphaned")]


def same_tree(export, version):
    """Every file and directory: kind, owner, mode, size, number, and the first and last bytes."""
    made = Made(export).filled()
    client = Client(version)
    seen, checked = {}, 0
    for directory, below, names in os.walk(export):
        over = made.over(directory)
        assert client.names(over) == sorted([*below, *names])
        for name in [*below, *names]:
            path = Path(directory) / name
            here, there = path.stat(), client.stat(made.over(path))
            assert (there.uid, there.gid) == OWNER == (here.st_uid, here.st_gid), path
            assert (there.ino, there.size) == (here.st_ino, here.st_size), path
            assert stat.S_IFMT(there.mode) == stat.S_IFMT(here.st_mode)
            assert stat.S_IMODE(there.mode) == stat.S_IMODE(here.st_mode), path
            seen[name] = stat.S_IMODE(there.mode)
            if path.is_file() and here.st_size >= MIB:
                for at in (0, here.st_size - 8192):
                    at -= at % 4096
                    assert Files(client).read(made.over(path), at, 4096) == direct_read(str(path), at, 4096)
                checked += 1
    assert checked == 10  # ids, leases, four volumes, and the lease of each
    for role in ("metadata", "lockspace", "configuration", "disk", "lease", "ids"):
        assert seen[os.path.basename(made.paths[role])] == MODE


def identity(export, version):
    """By what a host knows its copy: sanlock's records, and the file number, which a restored export has another of."""
    made = Made(export).filled()
    domain, files = made.through(Client(version))
    assert verify_contents(domain, made.conf, files) == verify_contents(made.here, made.conf, FilesHere()) == 0
    put(made.paths["ids"], lockspace(SD, {HOST: GENERATION}))
    assert verify_contents(domain, made.conf, files) == GENERATION
    number = files.number(made.over(made.paths["ids"]))
    assert number == os.stat(made.paths["ids"]).st_ino
    restored(made.paths["ids"])
    assert files.number(made.over(made.paths["ids"])) != number


def restored(path):
    data = Path(path).read_bytes()
    os.rename(path, f"{path}.original")
    Path(path).write_bytes(data)
    os.chown(path, *OWNER)


def what_is_wrong(export, version):
    """Each seen over NFS by its name, as the daemons' user."""
    made = Made(export).filled()
    domain, files = made.through(Client(version))

    def codes():
        report = inspect(made.conf, domain, files)
        return [(each.role, one.code) for each in report.volumes for one in each.findings] or [
            each.code for each in report.findings
        ]

    assert codes() == []
    os.chown(made.paths["metadata"], 0, 0)
    os.chmod(made.paths["metadata"], 0o600)
    assert codes() == [("metadata", "no-access")]
    os.chown(made.paths["metadata"], 36, 0)
    assert codes() == [("metadata", "owner")]
    os.chown(made.paths["metadata"], *OWNER)
    os.truncate(made.paths["configuration"], 8192)
    assert {role for role, _code in codes()} == {"configuration"}
    os.unlink(made.paths["lease"])
    assert ("lease", "missing") in codes()
    put(made.here.metadata_path, b"ALIGN")
    Path(made.here.metadata_path).write_text("SDUUID=another\n")
    assert codes() == ["metadata"]


BODIES = (seen_through_nfs, same_tree, identity, what_is_wrong)


@pytest.mark.skipif(not shutil.which("sanlock", path="/usr/sbin:/usr/bin"), reason="sanlock is missing")
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@both_versions
def test_made_here_and_seen_there(body, tmp_path, version):
    on_nfs(body, tmp_path, version)


# --- written there, read here -----------------------------------------------------------------------------------------


def archive_both_ways(export, version):
    made = Made(export)
    path = made.paths["configuration"]
    one, two = Archive(Client(version), made.over(path)), Archive(Client(version), made.over(path))
    write_archive(one, MADE)
    assert read_archive(path) == read_archive(two) == MADE
    write_archive(two, CHANGED, previous=MADE)
    assert read_archive(path) == read_archive(one) == CHANGED
    with pytest.raises(ArchiveError) as caught:
        write_archive(one, MADE, previous=MADE)
    assert caught.value.code == "changed"
    assert restore_previous(one) == (CHANGED, MADE)  # the copy is kept over NFS, too
    assert read_archive(path) == MADE
    write_archive(path, CHANGED)
    assert read_archive(one) == CHANGED
    put(path, bytes(SIZE))
    assert refusal(lambda: read_archive(one)) == "empty"


def cut_off(export, version):
    """A client that died within its write: the archive before it counts, read over NFS."""
    made = Made(export)
    path = made.paths["configuration"]
    write_archive(Archive(Client(version), made.over(path)), MADE)
    write_archive(Archive(Client(version), made.over(path)), CHANGED)
    after = direct_read(path, 0, SIZE)
    write_archive(path, MADE)
    write_archive(path, CHANGED)
    put(path, build_archive(MADE)[2048:], 2048)  # only the first sectors of the change arrived
    assert direct_read(path, 0, SIZE) != after
    assert read_archive(Archive(Client(version), made.over(path))) == MADE == read_archive(path)


def slots_both_ways(export, version):
    """Two hosts' clients and one beside the server; each reads what the others wrote at once."""
    made = Made(export)
    path = made.paths["metadata"]
    over = made.over(path)
    clients = {1: Client(version), 2: Client(version)}
    worker = IoWorker(path, 512, SystemClock(1.0))
    try:
        for count in range(1, 21):
            for host_id, client in clients.items():
                with client.opened(over, os.O_RDWR) as handle:
                    client.write_at(handle, host_id * SLOT, slot(host_id, count))
            worker.write(3 * SLOT, slot(3, count), 5.0)
            for data in (
                *(Files(client).read(over, 0, 4 * SLOT) for client in clients.values()),
                worker.read(0, 4 * SLOT, 5.0),
            ):
                assert data[:SLOT] == bytes(SLOT)
                for host_id in (1, 2, 3):
                    record = decode(host_id, data[host_id * SLOT : (host_id + 1) * SLOT])
                    assert (record.host_id, record.timestamp) == (host_id, count)
    finally:
        worker.close(2)


def definition(export, version):
    """An engine writes its two OVF_STORE volumes over NFS; the newest finished one is read, on both sides."""
    made = Made(export)
    client = Client(version)
    images = f"/{SD}/images"
    for number, hour, updated in ((1, 10, True), (2, 12, True), (3, 14, False)):
        image = f"{images}/{number:08d}-0000-4000-8000-00000000000a"
        client.make_directory(image)
        data = store({f"{VM}.ovf": f"<ovf n='{number}'/>".encode()})
        client.make(f"{image}/volume", data.ljust(MIB, b"\0"))
        date = f"Tue Nov 10 {hour}:00:00 UTC 2026"
        client.make(f"{image}/volume.meta", meta(len(data), date, updated), 0o644)
    for files, place in ((FilesHere(), f"{made.here.directory}/images"), (Files(Client(version)), images)):
        found = OvfStores(place).newest_first(files)
        assert [Path(each.path).parent.name[7] for each in found] == ["2", "1", "3"]
        assert read_ovf(files, found[0], VM) == b"<ovf n='2'/>"


def laid_out_there(export, version):
    """A whole domain copied file by file through NFS by the daemons' user: this host's own look finds nothing wrong."""
    made = Made(export).filled()
    client = Client(version)
    aside = export.parent / "aside"
    os.rename(made.here.directory, aside)
    for directory, _below, names in os.walk(aside):
        over = os.path.normpath(f"/{SD}/{Path(directory).relative_to(aside)}")
        client.make_directory(over)
        for name in names:
            path = Path(directory) / name
            client.make(f"{over}/{name}", path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    report = inspect(made.conf, made.here, FilesHere())
    assert not report.findings and not any(each.findings for each in report.volumes), report
    assert read_archive(made.paths["configuration"]) == MADE
    assert verify_contents(made.here, made.conf, FilesHere()) == 0


@pytest.mark.parametrize(
    "body", [archive_both_ways, cut_off, slots_both_ways, definition], ids=lambda body: body.__name__
)
@both_versions
def test_written_there_and_read_here(body, tmp_path, version):
    on_nfs(body, tmp_path, version)


@pytest.mark.skipif(not shutil.which("sanlock", path="/usr/sbin:/usr/bin"), reason="sanlock is missing")
@both_versions
def test_laid_out_there_and_seen_here(tmp_path, version):
    on_nfs(laid_out_there, tmp_path, version)


# --- exports that are no good -----------------------------------------------------------------------------------------


def exports(export, version):
    made = Made(export)
    over = made.over(made.paths["metadata"])
    look = Files(Client(version, "/read-only")).look(over)
    read_only = {3: "no-access", 4: "read-only"}[version]  # with version 3 libnfs asks before it opens
    assert (look.refusal, look.owner) == (read_only, OWNER)
    archive = Archive(Client(version, "/read-only"), made.over(made.paths["configuration"]))
    assert refusal(lambda: write_archive(archive, MADE)) == read_only
    # Everybody is nobody there: what belongs to the daemons is closed to the daemons.
    for client in (Client(version, "/squashed"), Client(version, who=STRANGER)):
        assert refusal(lambda client=client: Files(client).look(over)) == "no-access"
        assert refusal(lambda client=client: Files(client).read(over, 0, SLOT)) == "no-access"
    assert refused(lambda: Client(version, "/another")) == {3: errno.EACCES, 4: errno.ENOENT}[version]
    assert (
        refusal(lambda: LocalDomain("/", "00000000-0000-4000-8000-00000000ffff", Files(Client(version))).verify())
        == "missing"
    )
    assert (
        refusal(lambda: Files(Client(version)).read(made.over(made.paths["configuration"]), MIB, SLOT)) == "too-small"
    )
    assert direct_read(made.paths["configuration"], 0, SIZE) == bytes(SIZE)


def removed_while_open(export, version):
    """A file was restored under a client: its handle stays with the old one, and the name leads to the new one."""
    made = Made(export)
    path, client = made.paths["metadata"], Client(version)
    with client.opened(made.over(path), os.O_RDWR) as handle:
        restored(path)
        os.unlink(f"{path}.original")
        direct_write(path, SLOT, slot(1))
        assert decode(1, Files(client).read(made.over(path), SLOT, SLOT)).host_id == 1
        if version == 4:  # the server keeps an open file alive: such a client would never see another host again
            assert client.read_at(handle, SLOT, SLOT) == bytes(SLOT)
        else:
            assert refused(lambda: client.read_at(handle, SLOT, SLOT)) == errno.EFAULT  # libnfs's for NFS3ERR_STALE


@pytest.mark.parametrize("body", [exports, removed_while_open], ids=lambda body: body.__name__)
@both_versions
def test_exports_that_are_no_good(body, tmp_path, version):
    on_nfs(body, tmp_path, version)


# --- locks ------------------------------------------------------------------------------------------------------------


class Holder:
    """A new client that has the file open."""

    def __init__(self, path):
        self.client = Client(4)
        self.handle = self.client.open(path, os.O_RDWR)

    def lock(self, start, length, kind=fcntl.F_WRLCK):
        self.client.lock(self.handle, kind, start, length)

    def unlock(self, start, length):
        self.lock(start, length, fcntl.F_UNLCK)


def is_free(path, start, length, kind=fcntl.F_WRLCK):
    """As one more client sees it, which does not keep it; a new one each time, because libnfs miscounts after a lock
    that was refused, and the server takes its next requests for repetitions (nor can it close a file after a lock)."""
    holder = Holder(path)
    try:
        holder.lock(start, length, kind)
        holder.unlock(start, length)
        return True
    except BlockingIOError:
        return False
    finally:
        holder.client.close()


def locks(export):
    made = Made(export)
    over = made.over(made.paths["disk"])
    one, two = Holder(over), Holder(over)
    one.lock(0, 4096)
    assert not is_free(over, 0, 4096)
    assert not is_free(over, 4095, 1, fcntl.F_RDLCK)
    two.lock(4096, 4096)  # beside it
    assert not is_free(over, 4096, 1) and is_free(over, 8192, 1)
    one.unlock(0, 4096)
    assert is_free(over, 0, 4096) and not is_free(over, 0, 4097)
    two.unlock(4096, 4096)
    Holder(over).lock(0, 8192, fcntl.F_RDLCK)
    assert is_free(over, 0, 8192, fcntl.F_RDLCK)  # readers share
    assert not is_free(over, 0, 1)


def locks_of_the_host_beside(export):
    """The server takes them in its own kernel as well, so a process on the server is excluded, and excludes."""
    made = Made(export)
    over = made.over(made.paths["disk"])
    holder = Holder(over)
    holder.lock(100, 1)
    with open(made.paths["disk"], "r+b") as file:
        with pytest.raises(OSError) as caught:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 100)
        assert caught.value.errno in (errno.EACCES, errno.EAGAIN)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 201)
        assert not is_free(over, 201, 1)
    assert is_free(over, 201, 1)  # it was closed


def locks_of_a_client_that_is_gone(export):
    """They stay for the server's lease time, and are free after it: as with sanlock, death is a matter of time."""
    made = Made(export)
    over = made.over(made.paths["disk"])
    ready, child_end = os.pipe()
    child = os.fork()
    if child == 0:
        Holder(over).lock(0, 1)
        os.write(child_end, b"1")
        signal.pause()
    os.close(child_end)
    assert os.read(ready, 1) == b"1"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    begun = time.monotonic()
    assert not is_free(over, 0, 1)
    while not is_free(over, 0, 1):
        assert time.monotonic() - begun < 4 * nfs_server.LEASE
        time.sleep(0.25)
    assert time.monotonic() - begun > nfs_server.LEASE / 3


LOCKS = (locks, locks_of_the_host_beside, locks_of_a_client_that_is_gone)


@pytest.mark.parametrize("body", LOCKS, ids=lambda body: body.__name__)
def test_byte_ranges_are_locked(body, tmp_path):
    on_nfs(body, tmp_path)


def the_server_is_gone(export):
    process = subprocess.run(["pgrep", "-P", str(os.getpid()), "ganesha"], capture_output=True, text=True, timeout=10)
    (export.parent / "pid-of-it").write_text(process.stdout)


def test_nothing_of_the_server_is_left(tmp_path):
    on_nfs(the_server_is_gone, tmp_path)
    pid = (tmp_path / "pid-of-it").read_text().strip()
    assert pid.isdigit() and not os.path.exists(f"/proc/{pid}")
    assert not os.path.exists("/var/run/ganesha.pid")
