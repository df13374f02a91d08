"""A domain explained: every volume that is not what it should be is named, and nothing is changed."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ovirt_he_ha.core.model import Record
from ovirt_he_ha.core.slot import encode, encode_global
from ovirt_he_ha.storage import inspection
from ovirt_he_ha.storage.archive import MEMBERS, build_archive, write_archive
from ovirt_he_ha.storage.domain_files import FilesHere
from ovirt_he_ha.storage.inspection import inspect
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.tar import header
from ovirt_he_ha.storage.volumes import LOCKSPACE_USED, MIB, SCANNED, DomainVolumes, VolumeSizes, create_domain
from tests.client.deployed import Host

pytestmark = pytest.mark.skipif(
    shutil.which("sanlock", path="/usr/sbin:/usr/bin") is None, reason="sanlock is missing: it formats the leases"
)
SIZES = VolumeSizes(metadata=SCANNED, lockspace=LOCKSPACE_USED, configuration=MIB, disk=MIB, lease=MIB)
CONTENT = {name: f"{name}\n".encode() for name in MEMBERS}


def sanlock(*words):
    subprocess.run(["sanlock", "direct", "init", *words], check=True, capture_output=True, timeout=30)


class Domain:
    def __init__(self, root, monkeypatch):
        host = Host(root)
        self.conf = replace(load(host), storage=str(root / "storage"))
        self.names = DomainVolumes.of(self.conf)
        create_domain(self.conf.storage, self.conf.sd_uuid, self.names, SIZES, owner=None)
        self.place = LocalDomain(self.conf.storage, self.conf.sd_uuid)
        monkeypatch.setattr(inspection, "OWNER", (os.getuid(), os.getgid()))
        self.lease = self.place.lease(self.names.disk.image, self.names.disk.volume)
        sanlock("-s", f"{self.conf.sd_uuid}:0:{self.place.ids_path}:0")
        sanlock("-s", f"hosted-engine:0:{self.path('lockspace')}:0")
        sanlock("-r", f"{self.lease.lockspace}:{self.lease.key}:{self.lease.path}:0")
        write_archive(self.path("configuration"), CONTENT)

    def path(self, role):
        if role in ("ids", "lease"):
            return self.place.ids_path if role == "ids" else self.lease.path
        name = getattr(self.names, role)
        return self.place.volume_path(name.image, name.volume)

    def put(self, role, data, offset=0):
        with open(self.path(role), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def report(self, files=None):
        return inspect(self.conf, self.place, files or FilesHere())

    def problems(self):
        return {(each.role, one.code) for each in self.report().volumes for one in each.findings}


def load(host):
    from ovirt_he_ha.config.files import load_hosted_engine_conf

    return load_hosted_engine_conf(host.paths.hosted_engine_conf)


@pytest.fixture
def domain(tmp_path, monkeypatch):
    return Domain(tmp_path, monkeypatch)


def record(host_id, **more):
    return encode(Record(host_id, 7, 3400, None, f"host{host_id}", **more), 0.0)


def hold(domain, host_id, seconds):
    """As the host with this id leaves it in the lockspace: the time of its last renewal, 0 when it left."""
    domain.put("lockspace", seconds.to_bytes(8, "little"), (host_id - 1) * 512 + 152)


def test_a_whole_domain_and_nothing_is_changed(domain):
    paths = [Path(domain.path(role)) for role in ("ids", "lockspace", "metadata", "configuration")]
    before = [path.read_bytes() for path in paths]
    report = domain.report()
    assert report.is_whole, report
    assert {each.role: each.holds for each in report.volumes} == {
        "ids": f"lockspace {domain.conf.sd_uuid}",
        "lockspace": "lockspace hosted-engine",
        "metadata": "zeros",
        "configuration": "archive version",
        "disk": "zeros",
        "lease": f"lease {domain.lease.lockspace}:{domain.lease.key}",
    }
    assert before == [path.read_bytes() for path in paths]


@pytest.mark.parametrize(
    ("role", "data", "code"),
    [
        ("ids", bytes(512), "content"),
        ("lockspace", b"\xff" * 4096, "content"),
        ("lockspace", header("version", 1), "content"),
        ("metadata", build_archive(CONTENT), "content"),
        ("metadata", b"QFI\xfb".ljust(512, b"\0"), "content"),
        ("configuration", bytes(20480), "empty"),
        ("configuration", b"\xff" * 512, "not-an-archive"),
        ("configuration", header("vm.conf", 40000).ljust(20480, b"x"), "truncated"),
        ("disk", b"QFI\xfb".ljust(512, b"\0"), "content"),
        ("disk", build_archive(CONTENT), "content"),
        ("lease", bytes(512), "content"),
    ],
)
def test_another_content_is_named(domain, role, data, code):
    domain.put(role, data)
    assert domain.problems() == {(role, code)}


def test_a_raw_disk_is_no_problem(domain):
    for data in (bytes(510) + b"\x55\xaa", b"\x12\x34" * 256):
        domain.put("disk", data)
        assert domain.problems() == set()


def test_a_lease_of_another_vm_or_domain_protects_nothing(domain):
    sanlock("-r", f"{domain.lease.lockspace}:another:{domain.lease.path}:0")
    assert domain.problems() == {("lease", "content")}
    sanlock("-s", f"another:0:{domain.place.ids_path}:0")
    assert domain.problems() == {("lease", "content"), ("ids", "content")}


@pytest.mark.parametrize("role", ["lockspace", "metadata", "configuration", "disk", "lease"])
def test_missing_and_too_small(domain, role):
    with open(domain.path(role), "r+b") as file:
        file.truncate(8192 if role != "disk" else 512)
    assert (role, "too-small") in domain.problems()
    os.unlink(domain.path(role))
    assert domain.problems() == {(role, "missing")}


def test_the_owner(domain, monkeypatch):
    monkeypatch.setattr(inspection, "OWNER", (36, 36))
    assert {code for _, code in domain.problems()} == {"owner"}


def test_a_domain_that_is_another_one_is_not_looked_into(domain):
    shutil.rmtree(domain.place.directory)
    report = domain.report()
    assert [each.code for each in report.findings] == ["missing"] and not report.volumes


def test_slots(domain):
    domain.put("metadata", encode_global(False))
    for host_id in (1, 2, 3):
        domain.put("metadata", record(host_id), host_id * 4096)
    domain.put("metadata", record(4, stopped=True), 4 * 4096)
    domain.put("metadata", b"\xff\xfe garbage", 5 * 4096)
    domain.put("metadata", record(1), 6 * 4096)
    domain.put("metadata", record(2000), 2000 * 4096)
    hold(domain, 1, 1000)
    hold(domain, 2, 900)
    report = domain.report()
    assert {each.host_id: each.state for each in report.slots} == {
        1: "published",
        2: "published",
        3: "orphaned",
        4: "stopped",
        5: "corrupt",
        6: "foreign",
        2000: "orphaned",
    }
    assert not report.is_whole
    domain.put("lockspace", bytes(512))  # who holds what is not known: then nobody is called orphaned
    assert {each.state for each in domain.report().slots if each.host_id in (1, 3)} == {"published"}


def test_a_flag_that_cannot_be_read(domain):
    domain.put("metadata", b"maintenance=perhaps")
    (found,) = domain.report().slots
    assert (found.host_id, found.state) == (0, "corrupt")


def test_storage_that_fails_is_a_finding_of_each_volume(domain):
    class Failing(FilesHere):
        def read(self, path, offset, length):
            raise IoFailure("io", 5)

    report = domain.report(Failing())
    assert {(each.role, tuple(one.code for one in each.findings)) for each in report.volumes} == {
        (role, ("io",)) for role in ("ids", "lockspace", "metadata", "configuration", "disk", "lease")
    }
