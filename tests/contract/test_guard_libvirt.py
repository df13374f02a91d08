"""What the guard relies on in libvirt: its lock manager registers a process with sanlock before it becomes qemu, and
from then on sanlock knows it, through start, pause and hand-over."""

import threading
import time

import pytest

from ovirt_he_ha.core.model import Outcome
from ovirt_he_ha.hypervisor.process import ProcessTable
from ovirt_he_ha.lease.daemon_status import ask
from tests.contract.libvirt_host import LOCKSPACE, VMID, VOLUME, missing_component, wait_until
from tests.contract.test_libvirt import hosts, move, pair

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(bool(missing_component()), reason=f"missing on this machine: {missing_component()}"),
]
__all__ = ["hosts", "pair"]


class Samples:
    """Looks at one host's qemu processes and at its sanlock as often as it can."""

    def __init__(self, host):
        self.table = ProcessTable(namespace=host.namespace)
        self.socket = str(host.root / "run/sanlock/sanlock.sock")
        self.taken = []  # (when, known, holds)
        self.failure = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive() and self.failure is None, self.failure

    def run(self):
        try:
            while not self.stop.is_set():
                for process in self.table.find(VMID):
                    self.look(process)
                time.sleep(0.002)
        except Exception as failure:  # the test fails by it, and not a thread that nobody looks at
            self.failure = failure

    def look(self, process):
        inner = inner_pid(process.pid)
        status = ask(self.socket)
        stat = self.table.stat(process.pid)  # after the others: what it said of itself then was still true
        if inner and stat is not None and stat.start_ticks == process.start_ticks and stat.state != "Z":
            holds = (LOCKSPACE, VOLUME, inner) in status.held
            self.taken.append((time.monotonic(), inner in status.clients, holds))

    @property
    def last(self):
        return self.taken[-1] if self.taken else (0.0, False, False)

    def without_lease(self):
        """Wall seconds from the first look to the first with the lease."""
        held = next(at for at, _, holds in self.taken if holds)
        return held - self.taken[0][0]


def inner_pid(pid):
    """0: it has ended since it was found."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return next(int(line.split()[-1]) for line in file if line.startswith("NSpid:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_a_process_is_known_before_it_is_qemu_and_holds_the_lease_soon(pair):
    with Samples(pair.a) as samples:
        pair.start(pair.a)
        wait_until(lambda: samples.last[2], 10, "the lease")
    assert len(samples.taken) > 3
    assert all(known for _, known, _ in samples.taken)
    assert not samples.taken[0][2]
    assert samples.without_lease() < 10


def test_a_hand_over_leaves_both_ends_known(pair):
    vm = pair.start(pair.a)
    with Samples(pair.a) as source, Samples(pair.b) as target:
        assert vm.migrate(move(pair.b.address), 30).outcome is Outcome.OK
        wait_until(lambda: target.last[2], 10, "the lease")
    for samples in (source, target):
        assert samples.taken
        assert all(known for _, known, _ in samples.taken)
    assert not target.taken[0][2]
