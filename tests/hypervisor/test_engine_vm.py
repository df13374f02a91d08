"""The actions against libvirt's test driver: what does not need a real qemu or lease."""

import pytest

pytest.importorskip("libvirt", reason="missing on this machine: python3-libvirt")

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import Action, ActionKind, LeaseId, LeaseOwner, Outcome, Reading
from ovirt_he_ha.hypervisor.connection import Connection, LibvirtFault
from ovirt_he_ha.hypervisor.engine_vm import LibvirtEngineVm
from ovirt_he_ha.hypervisor.process import EngineProcess, ProcessTable, StillThere

VMID = "11111111-2222-3333-4444-555555555555"
LEASE = LeaseId("sd", "vol", "/d/sd/images/img/vol.lease")
XML = f"""<domain type='test'><name>HostedEngine</name><uuid>{VMID}</uuid><memory unit='MiB'>64</memory>
<os><type>hvm</type></os><on_poweroff>destroy</on_poweroff><on_crash>destroy</on_crash>
<on_lockfailure>poweroff</on_lockfailure>
<devices><lease><lockspace>sd</lockspace><key>vol</key><target path='/d/sd/images/img/vol.lease'/></lease>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
<source file='/d/sd/images/img/vol'><seclabel model='dac' relabel='no'/></source><target dev='vda'/></disk>
</devices></domain>"""


class Processes(ProcessTable):
    """What /proc would show."""

    def __init__(self, *found):
        super().__init__()
        self.found = list(found)
        self.all = False

    def find(self, vmid):
        return self.found

    def sees_all(self):
        return self.all


@pytest.fixture
def connection():
    made = Connection("test:///default", SystemClock(1.0))
    yield made

    def clean(native):
        for domain in native.listAllDomains(0):
            if domain.UUIDString() == VMID:
                if domain.isActive():
                    domain.destroy()
                if domain.isPersistent():
                    domain.undefine()

    try:
        made.call("clean", clean, 5)
    except LibvirtFault as e:
        assert e.code == 42  # a transient domain is gone with its destroy
    made.close(5)


@pytest.fixture
def engine(connection):
    def make(table=None, **options):
        table = table if table is not None else Processes()
        return LibvirtEngineVm(connection, VMID, LEASE, SystemClock(1.0), table=table, host_id=1, **options)

    return make


def domain(connection, function):
    return connection.call("test", lambda native: function(native.lookupByUUIDString(VMID)), 5)


def test_start_and_end(engine, connection):
    vm = engine()
    report = vm.start(XML, LEASE, 10)
    assert (report.outcome, report.action.kind) == (Outcome.OK, ActionKind.START)
    assert report.finished_at >= report.started_at
    assert vm.start(XML, LEASE, 10).outcome is Outcome.OK
    assert domain(connection, lambda d: (d.isActive(), d.isPersistent())) == (1, 0)
    assert vm.destroy(5).outcome is Outcome.OK
    assert vm.destroy(5).outcome is Outcome.OK


def test_lease_that_is_not_ours_is_refused(engine):
    other = LeaseId("sd", "vol", "/d/sd/images/img/vol.lease", 1 << 20)
    assert engine().start(XML, other, 10).outcome is Outcome.REFUSED
    assert engine().start(XML.replace("<key>vol", "<key>lov"), LEASE, 10).outcome is Outcome.REFUSED


def test_process_that_libvirt_does_not_know_forbids_a_start(engine):
    report = engine(Processes(EngineProcess(2**22 - 1, 1))).start(XML, LEASE, 10)
    assert report.outcome is Outcome.REFUSED
    assert "stray-process" in report.detail


def test_domain_without_a_process_is_buried_before_a_start(engine, connection):
    table = Processes()
    vm = engine(table)
    assert vm.start(XML, LEASE, 10).outcome is Outcome.OK
    first = domain(connection, lambda d: d.ID())
    table.all = True
    report = vm.start(XML, LEASE, 10)
    assert (report.outcome, report.detail) == (Outcome.OK, "")
    assert domain(connection, lambda d: d.ID()) != first


def test_stop_of_an_absent_vm_is_no_failure(engine):
    for report in (engine().shutdown(5), engine().destroy(5)):
        assert report.outcome is Outcome.OK
    engine().abort_migration()


def test_survivor_is_overdue_and_named(engine, monkeypatch):
    survivor = StillThere(7, "D", "still in state D")
    monkeypatch.setattr("ovirt_he_ha.hypervisor.engine_vm.kill_engine", lambda *_: survivor)
    report = engine().destroy(2)
    assert report.outcome is Outcome.OVERDUE
    assert "process 7" in report.detail


def test_unreadable_process_table_is_a_failure(engine):
    class Broken(Processes):
        def find(self, vmid):
            raise PermissionError(13, "Permission denied")

    assert engine(Broken()).destroy(2).outcome is Outcome.FAILED


def test_absent_or_paused_vm_is_not_moved(engine, connection):
    vm = engine()
    action = Action(ActionKind.MIGRATE, 2, "10.0.0.2", 5)
    assert vm.migrate(action, 5).outcome is Outcome.REFUSED
    assert vm.start(XML, LEASE, 10).outcome is Outcome.OK
    domain(connection, lambda d: d.suspend())
    report = vm.migrate(action, 5)
    assert (report.outcome, "paused" in report.detail) == (Outcome.REFUSED, True)


def test_disk_in_the_page_cache_is_not_moved(engine, connection):
    cached = XML.replace("cache='none'", "cache='writeback'")
    connection.call("create", lambda native: native.createXML(cached, 0) and None, 5)
    report = engine().migrate(Action(ActionKind.MIGRATE, 2, "10.0.0.2", 5), 5)
    assert (report.outcome, "disk-cache" in report.detail) == (Outcome.REFUSED, True)


def test_vm_under_another_lease_is_not_moved(engine, connection):
    foreign = XML.replace("<key>vol", "<key>lov")
    connection.call("create", lambda native: native.createXML(foreign, 0) and None, 5)
    report = engine().migrate(Action(ActionKind.MIGRATE, 2, "10.0.0.2", 5), 5)
    assert (report.outcome, "foreign-lease" in report.detail) == (Outcome.REFUSED, True)


def owner(*owners):
    """One answer per question, the last one for ever."""
    answers = [Reading.missing("x") if each is None else Reading.of(LeaseOwner(*each)) for each in owners]
    return lambda: answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.mark.parametrize(
    ("owners", "live", "outcome"),
    [
        (((0,), (2, 5)), None, Outcome.LOST_RACE),  # taken meanwhile, whoever says what of that host
        (((0,), (2, 5)), False, Outcome.LOST_RACE),
        (((2, 5), (2, 5)), True, Outcome.LOST_RACE),  # held all the time by a living host
        (((2, 5), (2, 5)), None, Outcome.LOST_RACE),  # not known to be dead
        (((2, 5), (2, 5)), False, Outcome.FAILED),  # a dead host's record explains nothing
        (((0,), (0,)), None, Outcome.FAILED),
        (((0,), (1, 5)), True, Outcome.FAILED),  # ours
        (((0,), None), True, Outcome.FAILED),
    ],
)
@pytest.mark.parametrize("code", [1, 38])
def test_failed_create_is_judged_by_the_owner(engine, connection, owners, live, outcome, code, monkeypatch):
    assert start_refused(engine, monkeypatch, code, owners, live).outcome is outcome


def test_busy_lease_is_a_lost_race_without_any_look(engine, monkeypatch):
    assert start_refused(engine, monkeypatch, 87, ((0,),), None).outcome is Outcome.LOST_RACE


def test_the_winner_of_the_images_takes_the_lease_a_moment_later(engine, monkeypatch):
    owners = ((0,), (0,), None, (0,), (2, 5))
    assert start_refused(engine, monkeypatch, 1, owners, True, owner_wait=30.0).outcome is Outcome.LOST_RACE


def start_refused(engine, monkeypatch, code, owners, live, owner_wait=0.0):
    vm = engine(lease_owner=owner(*owners), owner_live=lambda host_id: live, owner_wait=owner_wait)

    def refuse(what, function, seconds):
        raise LibvirtFault(what, code, 42, "a text in any language")

    monkeypatch.setattr(vm._long, "call", refuse)
    return vm.start(XML, LEASE, 10)


def test_unreachable_libvirt(connection):
    nowhere = Connection("qemu+unix:///system?socket=/nonexistent", SystemClock(1.0))
    vm = LibvirtEngineVm(nowhere, VMID, LEASE, SystemClock(1.0), table=Processes())
    assert vm.start(XML, LEASE, 5).outcome is Outcome.FAILED
    assert vm.shutdown(5).outcome is Outcome.FAILED
    assert vm.destroy(5).outcome is Outcome.OK  # nothing to end, and no libvirt needed to see it
    assert vm.migrate(Action(ActionKind.MIGRATE, 2, "b", 5), 5).outcome is Outcome.FAILED
    assert vm.cpu_model() == ""
    vm.abort_migration()
