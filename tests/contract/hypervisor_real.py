"""The hypervisor cases' two hosts as real ones: libvirtd, qemu and sanlock in namespaces (libvirt_host.py), and the
product's own calls and watch."""

import contextlib
import os
import signal
import threading
import time

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.hypervisor.connection import Connection, HypervisorError, LibvirtFault, Overdue, Unreachable
from ovirt_he_ha.hypervisor.events import EngineWatch
from ovirt_he_ha.hypervisor.process import ProcessTable
from tests.contract.libvirt_host import LOCKSPACE, VMID, Site, children, wait_until
from tests.contract.test_libvirt import Pair as Definition
from tests.contract.test_libvirt import move

CLOCK = SystemClock(1.0)
STATES = {1: "running", 3: "paused"}


class Answer:
    """Of a call on a thread of its own."""

    def __init__(self, call):
        self.outcome = None
        self.took = None
        self.call = call
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        begun = time.monotonic()
        report = self.call()
        self.took = time.monotonic() - begun
        self.detail = report.detail
        self.outcome = report.outcome.value

    @property
    def done(self):
        return self.outcome is not None


class Host:
    def __init__(self, pair, host):
        self.pair = pair
        self.host = host
        self.killed = []
        self.vm = pair.definition.vm(host)
        self.native = Connection(host.uri, CLOCK)
        self.watch = EngineWatch(
            host.uri, VMID, pair.definition.lease, CLOCK, lambda: False, table=ProcessTable(namespace=host.namespace)
        )
        self.watch.start(lambda: None)

    # --- sanlock ------------------------------------------------------------------------------------------------------

    def start_sanlock(self):
        """The old one's helper holds the lock on its pid file a little longer."""
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in self.killed), 10, "the end of sanlock")
        (self.host.root / "run/sanlock/sanlock.sock").unlink()
        self.host.start_sanlock()

    def kill_sanlock(self):
        daemon = self.host.daemon_pid("sanlock")
        self.killed = [daemon, *children(daemon)]
        self.host.kill_daemon("sanlock")

    def join(self):
        site = self.pair.site
        self.host.sanlock_client("add_lockspace", "-s", f"{LOCKSPACE}:{self.host.host_id}:{site.ids_path}:0", "-o", "2")

    def leave(self):
        self.host.leave()

    # --- the VM -------------------------------------------------------------------------------------------------------

    def start(self, deadline=30.0):
        return Answer(lambda: self.vm.start(self.pair.definition.xml, self.pair.definition.lease, deadline))

    def destroy(self, deadline):
        return Answer(lambda: self.vm.destroy(deadline))

    def shutdown(self, deadline):
        return Answer(lambda: self.vm.shutdown(deadline))

    def migrate(self, deadline):
        other = self.pair.b if self is self.pair.a else self.pair.a
        return Answer(lambda: self.vm.migrate(move(other.host.address, deadline), deadline))

    def slow_moves(self):
        self._domain(lambda domain: domain.migrateSetMaxSpeed(1, 0))

    def _domain(self, action):
        return self.native.call("the VM", lambda native: action(native.lookupByUUIDString(VMID)), 5)

    def suspend(self):
        self._domain(lambda domain: domain.suspend())

    def resume(self):
        try:
            self._domain(lambda domain: domain.resume())
        except LibvirtFault:
            return False
        return True

    def state(self):
        try:
            state = self.native.call("state", lambda native: native.lookupByUUIDString(VMID).state(), 1)[0]
        except Overdue:
            return "blocked"
        except Unreachable:
            return "unreachable"
        except LibvirtFault as fault:
            assert fault.code == 42, fault
            return "none"
        return STATES.get(state, state)

    def facts(self):
        value = self.watch.facts().value
        return None if value is None else (value.status.vm.value, value.last_exit.value)

    def uptime(self):
        value = self.watch.facts().value
        return None if value is None else value.uptime

    def paused_for(self):
        value = self.watch.facts().value
        return None if value is None else value.paused_for

    def processes(self):
        return len(self.host.qemu_pids())

    def cpus_ran(self):
        table = ProcessTable(namespace=self.host.namespace)
        return [table.cpus_ran(process) for process in table.find(VMID)]

    def image_is_open(self):
        pid = self.host.qemu_pids()[0]
        links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        return any(link.endswith(self.pair.site.volume.name) or link.endswith("copy") for link in links)

    def kill_qemu(self):
        os.kill(self.host.qemu_pids()[0], signal.SIGKILL)

    def stop_qemu(self):
        os.kill(self.host.qemu_pids()[0], signal.SIGSTOP)

    def kill_libvirtd(self):
        self.host.kill_daemon("libvirtd")

    def start_libvirtd(self):
        self.host.start_libvirtd()

    def close(self):
        self.watch.stop(2)
        for pid in self.host.qemu_pids():
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(HypervisorError):
            self.native.close(1)


class Pair:
    def __init__(self):
        self.hosts = []
        self.site = Site()
        self.site.__enter__()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self):
        first, second = self.site.add("a", 1), self.site.add("b", 2)
        # qemu's own lock on the image would refuse first, and on block storage there is none.
        private = second.root / "copy"
        private.write_bytes(b"\0" * (4 << 20))
        second.run("mount", "--bind", str(private), str(self.site.volume))
        self.definition = Definition(self.site, first, second)
        self.a, self.b = Host(self, first), Host(self, second)
        self.hosts = [self.a, self.b]
        for host in self.hosts:
            host.join()
        self.go(1)  # each has seen the other renew
        for host in self.hosts:
            wait_until(lambda host=host: host.facts() is not None, 10, "the watch's first look")

    @property
    def now(self):
        return time.monotonic()

    def owner(self):
        return self.site.owner()

    def go(self, seconds):
        time.sleep(seconds)

    def until(self, condition, limit):
        return wait_until(condition, limit, "what the case waits for")

    def close(self):
        for host in self.hosts:
            host.close()
        self.site.close()
