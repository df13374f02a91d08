"""The actions against libvirt's test driver: what does not need a real qemu or lease."""

import threading
from pathlib import Path

import pytest

pytest.importorskip("libvirt", reason="missing on this machine: python3-libvirt")

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import Action, ActionKind, LeaseId, LeaseOwner, Outcome, Reading
from ovirt_he_ha.hypervisor import engine_vm
from ovirt_he_ha.hypervisor.connection import Connection, LibvirtFault
from ovirt_he_ha.hypervisor.definition import MARK
from ovirt_he_ha.hypervisor.engine_vm import LibvirtEngineVm
from ovirt_he_ha.hypervisor.process import EngineProcess, Gone, ProcessTable, StillThere
from tests.own_time import OwnTime

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


def test_what_names_a_place_of_this_host_starts_if_its_administrator_says_so(engine):
    xml = XML.replace("</devices>", "<serial type='file'><source path='/var/log/x'/></serial></devices>")
    report = engine().start(xml, LEASE, 10)
    assert (report.outcome, "devices/serial" in report.detail) == (Outcome.REFUSED, True)
    assert engine(allowed=frozenset(["devices/serial"])).start(xml, LEASE, 10).outcome is Outcome.OK


def test_s1_a_lease_that_was_not_computed_here_is_refused_though_the_definition_agrees(engine):
    other = LeaseId("sd", "vol", "/e/sd/images/img/vol.lease")
    report = engine().start(XML.replace("/d/sd", "/e/sd"), other, 10)
    assert (report.outcome, "foreign-lease" in report.detail) == (Outcome.REFUSED, True)


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


# --- a create that is overdue -----------------------------------------------------------------------------------------


@pytest.fixture
def pending(engine, monkeypatch):
    """A create that hangs until the test ends; ``killed`` lists the processes that were killed meanwhile."""
    release = threading.Event()

    def make(owned_by, *processes):
        vm = engine(Processes(), lease_owner=owner(owned_by))
        vm.killed = []
        began = threading.Event()

        def hang(native):
            vm._table.found = list(processes)
            began.set()
            release.wait(30)

        def kill(process, seconds, table):
            vm.killed.append(process.pid)
            return Gone()

        def call(what, function, seconds):
            return real(what, hang if what.startswith("create") else function, 0.2)

        real = vm._long.call
        monkeypatch.setattr(vm._long, "call", call)
        monkeypatch.setattr("ovirt_he_ha.hypervisor.engine_vm.kill", kill)
        vm.report = vm.start(XML, LEASE, 10)
        assert began.is_set()
        return vm

    yield make
    release.set()


QEMU = EngineProcess(2**22 - 1, 1)


@pytest.mark.parametrize("owned_by", [(0,), (2, 5), None])
def test_s4_a_create_that_is_overdue_without_the_lease_does_not_start_the_vm_later(pending, owned_by):
    vm = pending(owned_by, QEMU)
    assert vm.report.outcome is Outcome.OVERDUE
    assert vm.killed == [QEMU.pid]


def test_s10_a_create_that_is_overdue_with_our_lease_is_the_vm_and_lives(pending):
    vm = pending((1, 5), QEMU)
    assert vm.report.outcome is Outcome.OVERDUE
    assert vm.killed == []


def test_s10_a_vm_that_arrives_by_migration_is_not_taken_for_the_overdue_create(pending):
    assert pending((0,), EngineProcess(QEMU.pid, 1, incoming=True)).killed == []


def test_s1_no_second_create_beside_one_that_hangs(pending):
    vm = pending((0,))
    report = vm.start(XML, LEASE, 10)
    assert (report.outcome, "(pending)" in report.detail) == (Outcome.REFUSED, True)


# --- what was left on this host ---------------------------------------------------------------------------------------

MARKED = XML.replace("<memory", f"<metadata><ha:engine xmlns:ha='{MARK}'/></metadata><memory")


@pytest.mark.parametrize(
    ("xml", "prepare", "code"),
    [
        (MARKED, lambda d: d.setAutostart(1), "autostart"),
        (MARKED, lambda d: (d.create(), d.managedSave(0)), "managed-save"),
        (XML, lambda d: None, "persistent"),
    ],
)
def test_s1_a_definition_that_starts_by_itself_or_is_not_ours_forbids_a_start(engine, connection, xml, prepare, code):
    connection.call("define", lambda native: prepare(native.defineXML(xml)) and None, 5)
    report = engine().start(XML, LEASE, 10)
    assert (report.outcome, f"({code})" in report.detail) == (Outcome.REFUSED, True)
    assert domain(connection, lambda d: d.isPersistent()) == 1
    connection.call("tidy", lambda native: native.lookupByUUIDString(VMID).undefineFlags(3), 5)


def test_s1_our_own_definition_makes_room(engine, connection):
    connection.call("define", lambda native: native.defineXML(MARKED) and None, 5)
    assert engine().start(XML, LEASE, 10).outcome is Outcome.OK
    assert domain(connection, lambda d: d.isPersistent()) == 0


def test_s1_it_is_started_with_its_cpus_running(engine, connection):
    engine().start(XML, LEASE, 10)
    assert domain(connection, lambda d: d.state()[0]) == 1


def test_s2_a_paused_copy_does_not_count_as_running(engine, connection):
    vm = engine()
    vm.start(XML, LEASE, 10)
    domain(connection, lambda d: d.suspend())
    before = domain(connection, lambda d: d.ID())
    assert vm.start(XML, LEASE, 10).outcome is Outcome.OK
    assert domain(connection, lambda d: (d.state()[0], d.ID() != before)) == (1, True)


def test_s2_nothing_of_ours_can_resume_a_vm():
    package = Path(engine_vm.__file__).parent.parent
    played = {"lab", "sim"}  # an administrator's hand, and a simulated one
    sources = [path.read_text() for path in package.rglob("*.py") if not played & set(path.relative_to(package).parts)]
    assert not [text for text in sources if ".resume(" in text or "VIR_DOMAIN_START_PAUSED" in text]


def test_s4_what_may_take_long_never_stands_in_the_way_of_a_destroy(engine):
    vm = engine()
    release = threading.Event()
    hung = threading.Thread(target=lambda: vm._long.call("hang", lambda native: release.wait(30), 30))
    hung.start()
    took = OwnTime()
    assert vm.destroy(4).outcome is Outcome.OK
    assert vm._look() is None
    assert took.seconds < 1.5
    release.set()
    hung.join(10)
