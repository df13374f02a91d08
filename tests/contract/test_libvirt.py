"""The hypervisor package against real libvirtd, qemu and sanlock."""

import base64
import os
import select
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    EngineFacts,
    Exit,
    Health,
    LeaseId,
    LeaseOwner,
    Outcome,
    Reading,
    Vm,
)
from ovirt_he_ha.hypervisor.connection import Connection, LibvirtFault, Overdue, Unreachable
from ovirt_he_ha.hypervisor.definition import engine_xml, parse_vm_conf
from ovirt_he_ha.hypervisor.engine_vm import LibvirtEngineVm
from ovirt_he_ha.hypervisor.events import UNREACHABLE, EngineWatch
from ovirt_he_ha.hypervisor.process import ProcessTable
from tests.contract.libvirt_host import IMAGE, LOCKSPACE, VMID, VOLUME, Host, Site, missing_component, wait_until

pytestmark = [
    pytest.mark.skipif(bool(missing_component()), reason=f"missing on this machine: {missing_component()}"),
    pytest.mark.timeout(120),
]

CLOCK = SystemClock(1.0)
CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"

# As the management application writes it: placeholders where the host's own values go. No guest: the BIOS finds
# nothing to boot and waits, which is a running VM for all that is tested here.
DEFINITION = """<?xml version="1.0" encoding="UTF-8"?>
<domain type='qemu'>
  <name>HostedEngine</name><uuid>{vmid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <sysinfo type='smbios'><system><entry name='serial'>HOST-SERIAL:</entry></system></sysinfo>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features><cpu mode='custom'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <lease><lockspace>{sd}</lockspace><key>{vol}</key>
      <target path='LEASE-PATH:{vol}:{sd}' offset='LEASE-OFFSET:{vol}:{sd}'/></lease>
    <disk type='file' device='disk' snapshot='no'><driver name='qemu' type='raw' cache='none' error_policy='stop'/>
      <source file='/rhev/data-center/00000000-0000-0000-0000-000000000000/{sd}/images/{img}/{vol}'/>
      <target dev='vda' bus='virtio'/></disk>
    {more}
    <memballoon model='none'/>
  </devices>
</domain>"""


def vm_conf(more: str = "") -> str:
    xml = DEFINITION.format(vmid=VMID, sd=LOCKSPACE, vol=VOLUME, img=IMAGE, more=more)
    return f"vmId={VMID}\nmemSize=32\nxmlBase64={base64.b64encode(xml.encode()).decode()}\n"


class Pair:
    """Two hosts on one storage domain, with what the tests need of each."""

    def __init__(self, site: Site, a: Host, b: Host) -> None:
        self.site = site
        self.a = a
        self.b = b
        self.lease = LeaseId(LOCKSPACE, VOLUME, site.lease_path)
        self.xml = engine_xml(parse_vm_conf(vm_conf()), self.lease)

    def vm(self, host: Host, **options: object) -> LibvirtEngineVm:
        return LibvirtEngineVm(
            Connection(host.uri, CLOCK),
            VMID,
            self.lease,
            CLOCK,
            host_id=host.host_id,
            lease_owner=lambda: Reading.of(LeaseOwner(self.site.owner())),
            table=ProcessTable(namespace=host.namespace),
            **options,  # type: ignore[arg-type]
        )

    def start(self, host: Host) -> LibvirtEngineVm:
        vm = self.vm(host)
        report = vm.start(self.xml, self.lease, 30)
        assert report.outcome is Outcome.OK, report
        return vm


@pytest.fixture(scope="module")
def hosts() -> Iterator[Pair]:
    with Site() as site:
        pair = Pair(site, site.add("a", 1), site.add("b", 2))
        pair.a.join()
        pair.b.join()
        yield pair
    assert not site.root.exists()


@pytest.fixture
def pair(hosts: Pair) -> Iterator[Pair]:
    yield hosts
    for host in (hosts.a, hosts.b):
        for pid in host.qemu_pids():
            os.kill(pid, signal.SIGCONT)
        assert hosts.vm(host).destroy(20).outcome is Outcome.OK
        native = Connection(host.uri, CLOCK)
        wait_until(lambda native=native: not native.call("list", lambda n: n.listAllDomains(0), 5), 5, "no domain left")


class Watched:
    """A running watch, and the facts it announced."""

    def __init__(
        self, pair: Pair, host: Host, guard_lost: Callable[[], bool] = lambda: False, poll: float = 5.0
    ) -> None:
        self.changes: List[Reading[EngineFacts]] = []
        self.changed = threading.Condition()
        self.watch = EngineWatch(
            host.uri, VMID, pair.lease, CLOCK, guard_lost, table=ProcessTable(namespace=host.namespace), poll=poll
        )
        self.watch.start(self._note)

    def _note(self) -> None:
        with self.changed:
            self.changes.append(self.watch.facts())
            self.changed.notify_all()

    def until(self, condition: Callable[[EngineFacts], bool], seconds: float, what: str) -> EngineFacts:
        """Woken by the watch's own announcements: what is never announced is never seen here."""
        with self.changed:
            seen = self.changed.wait_for(
                lambda: any(r.value is not None and condition(r.value) for r in self.changes[-1:]), seconds
            )
        assert seen, f"{what}: last {self.watch.facts()}"
        value = self.changes[-1].value
        assert value is not None
        return value


@pytest.fixture
def watching(pair: Pair) -> Iterator[Callable[..., Watched]]:
    made: List[Watched] = []

    def make(host: Host, **options: Any) -> Watched:
        made.append(Watched(pair, host, **options))
        return made[-1]

    yield make
    for watched in made:
        assert watched.watch.stop(5)


def up(facts: EngineFacts) -> bool:
    return facts.status.vm is Vm.UP and facts.status.detail == "Up" and facts.pid is not None


# --- start ----------------------------------------------------------------------------------------------------------


def test_start_takes_the_lease_and_a_second_one_here_is_no_error(pair: Pair) -> None:
    vm = pair.start(pair.a)
    assert pair.site.owner() == 1
    assert vm.start(pair.xml, pair.lease, 10).outcome is Outcome.OK
    assert len(pair.a.qemu_pids()) == 1


def test_second_host_loses_the_race_by_the_images_lock(pair: Pair) -> None:
    pair.start(pair.a)
    report = pair.vm(pair.b).start(pair.xml, pair.lease, 30)
    assert report.outcome is Outcome.LOST_RACE
    assert pair.b.qemu_pids() == []
    assert pair.site.owner() == 1


def test_second_host_loses_the_race_by_the_lease(pair: Pair) -> None:
    """QEMU's lock on the image is hidden from host b, as it is between two mounts of a network file system."""
    pair.start(pair.a)
    private = pair.b.root / "copy"
    private.write_bytes(b"\0" * (4 << 20))
    pair.b.run("mount", "--bind", str(private), str(pair.site.volume))
    try:
        vm = pair.vm(pair.b)
        report = vm.start(pair.xml, pair.lease, 30)
        assert report.outcome is Outcome.LOST_RACE
        assert "code 87" in report.detail
    finally:
        pair.b.run("umount", str(pair.site.volume))
    assert pair.b.qemu_pids() == []


def test_dead_owners_record_does_not_excuse_another_failure(pair: Pair) -> None:
    vm = pair.start(pair.a)
    record = LeaseOwner(2, 1, 1000)
    vm.destroy(10)
    broken = pair.xml.replace("/usr/bin/qemu-system-x86_64", "/usr/bin/false")
    failing = LibvirtEngineVm(
        Connection(pair.a.uri, CLOCK),
        VMID,
        pair.lease,
        CLOCK,
        host_id=1,
        lease_owner=lambda: Reading.of(record),
        owner_live=lambda host_id: False,
        table=ProcessTable(namespace=pair.a.namespace),
    )
    assert failing.start(broken, pair.lease, 20).outcome is Outcome.FAILED


def test_start_without_the_lockspace_fails_and_leaves_nothing(pair: Pair) -> None:
    pair.b.leave()
    try:
        report = pair.vm(pair.b).start(pair.xml, pair.lease, 30)
        assert report.outcome is Outcome.FAILED
        assert pair.b.qemu_pids() == []
    finally:
        pair.b.join()


def test_definition_without_lease_is_refused_before_libvirt_sees_it(pair: Pair) -> None:
    begin = pair.xml.index("<lease>")
    end = pair.xml.index("</lease>") + len("</lease>")
    report = pair.vm(pair.a).start(pair.xml[:begin] + pair.xml[end:], pair.lease, 10)
    assert report.outcome is Outcome.REFUSED
    assert "no-lease" in report.detail
    assert pair.a.qemu_pids() == []


def test_foreign_definition_left_here_is_named_and_our_own_is_cleared(pair: Pair) -> None:
    connection = Connection(pair.a.uri, CLOCK)
    foreign = pair.xml[: pair.xml.index("<metadata>")] + pair.xml[pair.xml.index("</metadata>") + len("</metadata>") :]
    connection.call("define", lambda native: native.defineXML(foreign), 5)
    report = pair.vm(pair.a).start(pair.xml, pair.lease, 10)
    assert (report.outcome, "persistent" in report.detail) == (Outcome.REFUSED, True)
    connection.call("define", lambda native: native.defineXML(pair.xml).setAutostart(1), 5)
    report = pair.vm(pair.a).start(pair.xml, pair.lease, 10)
    assert (report.outcome, "autostart" in report.detail) == (Outcome.REFUSED, True)
    connection.call("no autostart", lambda native: native.lookupByUUIDString(VMID).setAutostart(0), 5)
    pair.start(pair.a)
    assert connection.call("persistent", lambda native: native.lookupByUUIDString(VMID).isPersistent(), 5) == 0


def test_vm_that_died_while_libvirtd_was_away_is_started_and_not_taken_for_running(pair: Pair) -> None:
    pair.start(pair.a)
    pair.a.kill_daemon("libvirtd")
    os.kill(pair.a.qemu_pids()[0], signal.SIGKILL)
    pair.a.start_libvirtd()
    pair.start(pair.a)
    assert len(pair.a.qemu_pids()) == 1


def test_paused_copy_is_ended_and_never_resumed(pair: Pair) -> None:
    pair.start(pair.a)
    connection = Connection(pair.a.uri, CLOCK)
    old = pair.a.qemu_pids()
    connection.call("suspend", lambda native: native.lookupByUUIDString(VMID).suspend(), 5)
    assert pair.site.owner() == 0
    pair.start(pair.a)
    assert pair.a.qemu_pids() != old


# --- stop -----------------------------------------------------------------------------------------------------------


def test_destroy_is_idempotent_and_works_without_libvirtd(pair: Pair) -> None:
    vm = pair.vm(pair.a)
    assert vm.destroy(10).outcome is Outcome.OK
    pair.start(pair.a)
    pair.a.kill_daemon("libvirtd")
    try:
        report = vm.destroy(10)
        assert report.outcome is Outcome.OK
        assert pair.a.qemu_pids() == []
    finally:
        pair.a.start_libvirtd()


def test_destroy_of_a_stopped_process_meets_its_deadline(pair: Pair) -> None:
    vm = pair.start(pair.a)
    os.kill(pair.a.qemu_pids()[0], signal.SIGSTOP)
    begin = time.monotonic()
    assert vm.destroy(5).outcome is Outcome.OK
    assert time.monotonic() - begin < 6
    assert pair.a.qemu_pids() == []


def test_shutdown_marks_the_domain_and_asks_the_button(pair: Pair, watching: Callable[..., Watched]) -> None:
    vm = pair.vm(pair.a)
    assert vm.shutdown(5).outcome is Outcome.OK
    pair.start(pair.a)
    watched = watching(pair.a)
    watched.until(up, 5, "up")
    report = vm.shutdown(5)
    assert (report.outcome, report.detail) == (Outcome.OK, "ACPI")
    watched.until(lambda f: f.status.detail == "Powering down", 5, "powering down")
    # The BIOS does not listen to the button; what follows when a guest does is the same for libvirt.
    os.kill(pair.a.qemu_pids()[0], signal.SIGTERM)
    facts = watched.until(lambda f: f.last_exit is not Exit.NONE, 5, "exit")
    assert (facts.last_exit, facts.status.vm) == (Exit.REQUESTED, Vm.DOWN)


# --- the watch ------------------------------------------------------------------------------------------------------


def test_start_and_crash_are_told_at_once(pair: Pair, watching: Callable[..., Watched]) -> None:
    watched = watching(pair.a)
    facts = watched.until(lambda f: f.status.vm is Vm.DOWN, 5, "first look")
    assert (facts.last_exit, facts.status.health) == (Exit.NONE, Health.BAD)
    pair.start(pair.a)
    facts = watched.until(up, 5, "up")
    assert facts.lease_defined is True
    assert facts.status.health is Health.UNKNOWN
    assert facts.pid == pair.a.qemu_pids()[0]
    descriptor = os.pidfd_open(facts.pid)
    os.kill(facts.pid, signal.SIGKILL)
    begin = time.monotonic()
    select.select([descriptor], [], [])
    os.close(descriptor)
    watched.until(lambda f: f.status.vm is not Vm.UP, 1, "noticed")
    noticed = time.monotonic() - begin
    facts = watched.until(lambda f: f.last_exit is not Exit.NONE, 3, "cause")
    confirmed = time.monotonic() - begin
    assert (facts.last_exit, facts.status.vm) == (Exit.CRASHED, Vm.DOWN_UNEXPECTED)
    assert noticed < 0.2, noticed
    assert confirmed < 2.5, confirmed


def test_counters_move(pair: Pair, watching: Callable[..., Watched]) -> None:
    watched = watching(pair.a)
    pair.start(pair.a)
    watched.until(up, 5, "up")
    wait_until(lambda: watched.watch.counters() is not None, 5, "counters")
    counters = watched.watch.counters()
    assert counters is not None and counters.cpu_seconds is not None and counters.cpu_seconds > 0
    assert counters.block_requests is not None


def test_pause_is_seen_with_its_reason(pair: Pair, watching: Callable[..., Watched]) -> None:
    watched = watching(pair.a)
    pair.start(pair.a)
    watched.until(up, 5, "up")
    connection = Connection(pair.a.uri, CLOCK)
    connection.call("suspend", lambda native: native.lookupByUUIDString(VMID).suspend(), 5)
    facts = watched.until(lambda f: f.paused_for is not None, 2, "paused")
    assert (facts.status.vm, facts.status.detail, facts.pause_reason) == (Vm.UP, "Paused", "user")
    assert facts.paused_for is not None and facts.paused_for < 1


def test_destroyed_from_outside_is_requested(pair: Pair, watching: Callable[..., Watched]) -> None:
    watched = watching(pair.a)
    vm = pair.start(pair.a)
    watched.until(up, 5, "up")
    assert vm.destroy(10).outcome is Outcome.OK
    facts = watched.until(lambda f: f.last_exit is not Exit.NONE, 5, "exit")
    assert (facts.last_exit, facts.status.vm) == (Exit.REQUESTED, Vm.DOWN)


def test_lost_lockspace_is_no_crash(pair: Pair, watching: Callable[..., Watched]) -> None:
    left = threading.Event()
    watched = watching(pair.a, guard_lost=left.is_set)
    pair.start(pair.a)
    watched.until(up, 5, "up")
    left.set()
    pair.a.leave()
    try:
        facts = watched.until(lambda f: f.last_exit is not Exit.NONE, 5, "exit")
        assert facts.last_exit is Exit.LEASE_LOST
    finally:
        pair.a.join()


def test_libvirtd_restart_is_unknown_and_then_the_same_vm(pair: Pair, watching: Callable[..., Watched]) -> None:
    watched = watching(pair.a)
    pair.start(pair.a)
    before = watched.until(up, 5, "up")
    pair.a.kill_daemon("libvirtd")
    wait_until(lambda: watched.watch.facts().unknown == UNREACHABLE, 3, "unknown")
    pair.a.start_libvirtd()
    after = watched.until(up, 5, "up again")
    assert (after.pid, after.last_exit) == (before.pid, Exit.NONE)
    assert after.uptime is not None and before.uptime is not None and after.uptime > before.uptime


def test_crash_while_libvirtd_is_away_is_known(pair: Pair, watching: Callable[..., Watched]) -> None:
    """Both copies are the first domain of their libvirtd, and have the same number."""
    pair.a.kill_daemon("libvirtd")
    pair.a.start_libvirtd()
    watched = watching(pair.a)
    pair.start(pair.a)
    facts = watched.until(up, 5, "up")
    pair.a.kill_daemon("libvirtd")
    wait_until(lambda: watched.watch.facts().unknown == UNREACHABLE, 3, "unknown")
    assert facts.pid is not None
    os.kill(facts.pid, signal.SIGKILL)
    gone = watched.until(lambda f: f.last_exit is not Exit.NONE, 6, "exit without libvirt")
    assert (gone.last_exit, gone.status.vm) == (Exit.CRASHED, Vm.DOWN_UNEXPECTED)
    pair.a.start_libvirtd()
    pair.start(pair.a)
    assert watched.until(up, 5, "up again").last_exit is Exit.CRASHED


def test_new_watch_adopts_what_runs(pair: Pair, watching: Callable[..., Watched]) -> None:
    pair.start(pair.a)
    started = time.monotonic()
    facts = watching(pair.a).until(up, 5, "up")
    assert (facts.last_exit, facts.lease_defined) == (Exit.NONE, True)
    assert facts.uptime is not None and facts.uptime >= time.monotonic() - started - 1
    facts = watching(pair.a).until(up, 5, "up for a second watch")
    assert facts.last_exit is Exit.NONE


def test_other_lease_in_the_running_definition_is_told(pair: Pair) -> None:
    pair.start(pair.a)
    other = LeaseId(LOCKSPACE, VOLUME, "/elsewhere.lease")
    watch = EngineWatch(pair.a.uri, VMID, other, CLOCK, table=ProcessTable(namespace=pair.a.namespace))
    watch.start(lambda: None)
    try:
        wait_until(lambda: watch.facts().known, 5, "facts")
        facts = watch.facts().value
        assert facts is not None and facts.lease_defined is False
    finally:
        assert watch.stop(5)


def test_stopped_qemu_does_not_blind_the_watch(pair: Pair, watching: Callable[..., Watched]) -> None:
    """A qemu that answers nothing keeps its state readable, and its processor time still."""
    watched = watching(pair.a, poll=1.0)
    pair.start(pair.a)
    facts = watched.until(up, 5, "up")
    assert facts.pid is not None
    os.kill(facts.pid, signal.SIGSTOP)
    try:
        for _ in range(2):  # the first look after the stop may have been under way before it
            last = watched.watch.counters()
            wait_until(lambda last=last: watched.watch.counters() != last, 15, "another look")
        reading = watched.watch.facts()
        assert reading.value is not None and reading.value.status.vm is Vm.UP
        assert last is not None and reading.value.counters is not None
        assert reading.value.counters.cpu_seconds == last.cpu_seconds
        assert reading.value.counters.block_requests is None
    finally:
        os.kill(facts.pid, signal.SIGCONT)


# --- migration ------------------------------------------------------------------------------------------------------


def move(target: str, seconds: float = 30) -> Action:
    return Action(ActionKind.MIGRATE, 2, target, seconds)


def test_migration_hands_over_and_both_ends_say_so(pair: Pair, watching: Callable[..., Watched]) -> None:
    vm = pair.start(pair.a)
    source, target = watching(pair.a), watching(pair.b)
    source.until(up, 5, "up")
    report = vm.migrate(move(pair.b.address), 30)
    assert report.outcome is Outcome.OK, report
    gone = source.until(lambda f: f.last_exit is not Exit.NONE, 5, "exit")
    assert (gone.last_exit, gone.status.vm, gone.status.detail) == (Exit.MIGRATED, Vm.DOWN, "Down")
    here = target.until(up, 5, "up on b")
    assert (here.lease_defined, here.incoming, here.last_exit) == (True, False, Exit.NONE)
    assert pair.site.owner() == 2
    details = {r.value.status.detail for r in source.changes if r.value is not None}
    assert "Migration Source" in details
    assert all(r.value.paused_for is None for r in target.changes if r.value is not None)


def test_migration_to_a_host_outside_the_lockspace_goes_on_here(pair: Pair, watching: Callable[..., Watched]) -> None:
    vm = pair.start(pair.a)
    watched, refused = watching(pair.a), watching(pair.b)
    watched.until(up, 5, "up")
    pair.b.leave()
    try:
        report = vm.migrate(move(pair.b.address), 30)
        assert report.outcome is Outcome.FAILED
        facts = watched.until(lambda f: up(f) and not f.outgoing, 5, "goes on")
        assert (facts.last_exit, pair.site.owner()) == (Exit.NONE, 1)
        gone = refused.until(lambda f: f.last_exit is not Exit.NONE, 5, "never came up")
        assert (gone.last_exit, gone.status.vm) == (Exit.FAILED, Vm.DOWN)
    finally:
        pair.b.join()


def test_migration_that_takes_too_long_is_aborted(pair: Pair, watching: Callable[..., Watched]) -> None:
    """The destination's libvirtd is frozen, so that it can never end."""
    vm = pair.start(pair.a)
    watched = watching(pair.a)
    watched.until(up, 5, "up")
    pair.b.kill_daemon("libvirtd", signal.SIGSTOP)
    try:
        begin = time.monotonic()
        report = vm.migrate(move(pair.b.address, 2), 2)
        assert report.outcome is Outcome.OVERDUE
        assert time.monotonic() - begin < 10
    finally:
        os.kill(pair.b.daemon_pid("libvirtd"), signal.SIGCONT)
    wait_until(lambda: not any(t.name == "abort-migration" for t in threading.enumerate()), 10, "the call's end")
    assert up(watched.until(lambda f: up(f) and not f.outgoing, 5, "goes on"))
    assert (pair.site.owner(), pair.b.qemu_pids()) == (1, [])


def test_address_from_a_slot_is_read_before_libvirt_sees_it(pair: Pair) -> None:
    vm = pair.start(pair.a)
    for text in ("", "host/system?pkipath=/etc", "qemu+ext:///system?command=x", "a b"):
        assert vm.migrate(move(text), 5).outcome is Outcome.REFUSED


# --- the connection -------------------------------------------------------------------------------------------------


def test_frozen_libvirtd_is_overdue_and_costs_one_thread(pair: Pair) -> None:
    connection = Connection(pair.a.uri, CLOCK)
    connection.call("open", lambda native: native.getHostname(), 5)
    pair.a.kill_daemon("libvirtd", signal.SIGSTOP)
    try:
        for _ in range(4):
            with pytest.raises(Overdue):
                connection.call("version", lambda native: native.getLibVersion(), 0.2)
        assert sum(thread.name.startswith("libvirt-") for thread in connection.threads()) == 2
    finally:
        os.kill(pair.a.daemon_pid("libvirtd"), signal.SIGCONT)
    assert connection.call("version", lambda native: native.getLibVersion(), 5) > 0
    assert connection.close(5)


def test_connection_comes_back_after_a_restart(pair: Pair) -> None:
    connection = Connection(pair.a.uri, CLOCK)
    assert connection.call("name", lambda native: native.getHostname(), 5) == "host-a"
    pair.a.kill_daemon("libvirtd")
    with pytest.raises(Unreachable):
        connection.call("name", lambda native: native.getHostname(), 5)
    pair.a.start_libvirtd()
    assert connection.call("name", lambda native: native.getHostname(), 5) == "host-a"
    with pytest.raises(LibvirtFault) as fault:
        connection.call("no such VM", lambda native: native.lookupByName("nobody"), 5)
    assert fault.value.code == 42


def test_cpu_digest_is_the_same_on_both_hosts(pair: Pair) -> None:
    digests = {pair.vm(host).cpu_model() for host in (pair.a, pair.b)}
    assert len(digests) == 1
    assert len(digests.pop()) == 16


def test_process_table_is_fenced_to_the_host(pair: Pair) -> None:
    pair.start(pair.a)
    assert [p.pid for p in ProcessTable(namespace=pair.a.namespace).find(VMID)] == pair.a.qemu_pids()
    assert ProcessTable(namespace=pair.b.namespace).find(VMID) == []
    assert Path(f"/proc/{pair.a.qemu_pids()[0]}").exists()
