"""The storage domain's own lockspace is written anew only when nobody can be alive in it."""

import threading
from typing import Any, Iterator

import pytest

from ovirt_he_ha.cli import domain_lockspace
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.lease import formatting
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus, Space
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import MIB, DomainVolumes, VolumeSizes, create_domain
from tests.cli.world import World, run
from tests.storage.sanlock_records import HOST, put, sector, write_identity


class Api:
    """sanlock's two writing calls."""

    class SanlockException(Exception):
        pass

    def __init__(self) -> None:
        self.written: list = []
        self.fails: set = set()

    def write_lockspace(self, name: bytes, path: str, **how: Any) -> None:
        self._note("lockspace", name.decode(), path, how["sector"])

    def write_resource(self, space: bytes, key: bytes, disks: Any, **how: Any) -> None:
        self._note("resource", f"{space.decode()}:{key.decode()}", disks[0][0], how["sector"])

    def _note(self, kind: str, *rest: Any) -> None:
        if kind in self.fails:
            raise self.SanlockException(-5, "Sanlock failure", "Input/output error")
        self.written.append((kind, *rest))


class Domain:
    def __init__(self, host: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.conf = load_hosted_engine_conf(host.paths.hosted_engine_conf)
        sizes = VolumeSizes(metadata=2001 * 4096, lockspace=MIB, configuration=MIB, lease=MIB)
        create_domain(self.conf.storage, self.conf.sd_uuid, DomainVolumes.of(self.conf), sizes, owner=None)
        self.domain = LocalDomain(self.conf.storage, self.conf.sd_uuid)
        write_identity(self.domain, self.conf.vm_disk_id, self.conf.vm_disk_vol_id)
        self.api = Api()
        self.spaces: dict = {}
        self.pids: list = []
        monkeypatch.setattr(formatting, "load", lambda: self.api)
        monkeypatch.setattr(domain_lockspace.daemon_status, "ask", lambda: DaemonStatus(True, self.spaces, (), ()))
        monkeypatch.setattr(domain_lockspace, "ProcessTable", lambda: self)
        monkeypatch.setattr(domain_lockspace, "LOOK", 0.05)
        monkeypatch.setattr(domain_lockspace, "silence", lambda io_timeout: io_timeout / 20)

    def find(self, _vmid: str) -> list:
        return self.pids

    def renew(self, host_id: int, timestamp: int, data: bytes = b"") -> None:
        record = data or sector(HOST, self.conf.sd_uuid, f"host{host_id}", host_id, 3, timestamp)
        put(self.domain.ids_path, record, (host_id - 1) * 512)


@pytest.fixture
def domain(host: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Domain]:
    yield Domain(host, monkeypatch)


def call() -> Any:
    return run("--reinitialize-lockspace", "--storage-domain")


def test_where_every_id_was_given_back_at_once(domain: Domain) -> None:
    domain.renew(1, 0)
    ran = call()
    lease = domain.domain.lease(domain.conf.vm_disk_id, domain.conf.vm_disk_vol_id)
    assert ran.status == 0 and "--accept-copy" in ran.out
    assert domain.api.written == [
        ("lockspace", domain.conf.sd_uuid, domain.domain.ids_path, 512),
        ("resource", f"{lease.lockspace}:{lease.key}", lease.path, 512),
    ]


def test_a_silent_host_is_waited_for(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list = []
    monkeypatch.setattr(domain_lockspace, "silence", lambda io_timeout: waited.append(io_timeout) or 0.2)
    domain.renew(7, 4711)
    assert call().status == 0
    assert waited == [10] and len(domain.api.written) == 2


def test_a_host_that_renews_is_named_and_nothing_is_written(domain: Domain) -> None:
    domain.renew(7, 4711)
    renewing = threading.Timer(0.2, domain.renew, [7, 4731])
    renewing.start()
    ran = call()
    renewing.join()
    assert ran.status == 1 and "host id 7 (host7)" in ran.err and domain.api.written == []


def test_a_host_that_joins_meanwhile(domain: Domain) -> None:
    domain.renew(7, 4711)
    joining = threading.Timer(0.2, domain.renew, [9, 1])
    joining.start()
    ran = call()
    joining.join()
    assert ran.status == 1 and "host id 9" in ran.err and domain.api.written == []


def test_a_damaged_record_counts_as_somebodys(domain: Domain) -> None:
    domain.renew(7, 0, b"\xff" * 512)
    changing = threading.Timer(0.2, domain.renew, [7, 0, b"\xfe" * 512])
    changing.start()
    ran = call()
    changing.join()
    assert ran.status == 1 and "unreadable" in ran.err and domain.api.written == []
    assert call().status == 0


def test_not_while_this_host_is_in_it(domain: Domain) -> None:
    domain.spaces = {domain.conf.sd_uuid: Space(1, 3, 2.0, 10)}
    assert call().status == 1 and domain.api.written == []


def test_not_beside_the_vm(domain: Domain) -> None:
    domain.pids = [4711]
    assert call().status == 1 and domain.api.written == []


def test_not_without_sanlock(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise NoStatus("refused", "/run/sanlock/sanlock.sock", "nobody listens")

    monkeypatch.setattr(domain_lockspace.daemon_status, "ask", refused)
    assert call().status == 1 and domain.api.written == []


def test_nothing_forces_it(domain: Domain) -> None:
    assert run("--reinitialize-lockspace", "--storage-domain", "--force").status == 1
    assert domain.api.written == []


@pytest.mark.parametrize("what,count", [("lockspace", 0), ("resource", 1)])
def test_a_write_that_fails_says_how_far_it_came(domain: Domain, what: str, count: int) -> None:
    domain.api.fails = {what}
    ran = call()
    assert ran.status == 1 and len(domain.api.written) == count
    assert ("the lease is not" in ran.err) is bool(count)


@pytest.mark.parametrize("io_timeout,seconds", [(10, 160), (20, 260)])
def test_how_long_a_host_must_be_silent(io_timeout: int, seconds: int) -> None:
    """8 io_timeouts until its guard has killed the VM, 60 s of watchdog, and a renewal: at least what sanlock calls
    dead."""
    assert domain_lockspace.silence(io_timeout) == seconds
