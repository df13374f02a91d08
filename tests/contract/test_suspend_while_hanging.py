"""What libvirt and qemu do when the VM is paused while requests to its disk hang in the kernel: the lease is given back
first, and the requests are waited for."""

import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Iterator, List

import pytest

from ovirt_he_ha.core.model import Outcome
from ovirt_he_ha.hypervisor.connection import Connection, HypervisorError
from ovirt_he_ha.hypervisor.process import ProcessTable
from ovirt_he_ha.lease.daemon_status import ask
from tests.contract import storage_view
from tests.contract.libvirt_host import VMID, Site, missing_component, wait_until
from tests.contract.test_libvirt import CLOCK, Pair

LACKS = missing_component() or storage_view.missing_component()
pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(bool(LACKS), reason=f"missing on this machine: {LACKS}"),
    pytest.mark.timeout(120),
]

# A boot sector that writes the disk's second sector again and again, by the BIOS.
WRITER = bytes.fromhex("31c08ed88ec0b80103bb007cb90200ba8000cd13ebf0").ljust(510, b"\0") + b"\x55\xaa"


class Scene:
    """One host whose VM writes all the time; ``view``: its way to the VM's disk and lease."""

    def __init__(self, site: Site, view: storage_view.StorageView, disk: Path) -> None:
        self.view = view
        self.host = site.add("a", 1)
        self.host.join()
        pair = Pair(site, self.host, self.host)
        self.vm = pair.start(self.host)
        wait_until(lambda: disk.read_bytes()[512:520] == WRITER[:8], 30, "the guest's first write")
        self.table = ProcessTable(namespace=self.host.namespace)
        (self.process,) = self.table.find(VMID)
        self.native = Connection(self.host.uri, CLOCK)

    def holds(self) -> bool:
        return bool(ask(str(self.host.root / "run/sanlock/sanlock.sock")).held)

    def hangs(self) -> bool:
        """A thread of qemu waits in the kernel for the view's answer."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return any((task / "wchan").read_text() == "request_wait_answer" for task in tasks.iterdir())


@pytest.fixture
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="he-suspend-") as place, Site() as site:
        images, real = site.volume.parent, site.root / "real"
        images.rename(real)
        images.mkdir()
        disk = real / site.volume.name
        with open(disk, "r+b") as file:
            file.write(WRITER)
        view = storage_view.StorageView(storage_view.build(Path(place)), real, images)
        try:
            yield Scene(site, view, disk)
        finally:
            view.set("ok")
            for host in site.hosts.values():
                for pid in host.qemu_pids():
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda host=host: not host.qemu_pids(), 10, "the end of qemu")
                host.power_off()
            site.hosts.clear()
            view.close()


def state(scene: Scene) -> str:
    stat = scene.table.stat(scene.process.pid)
    return stat.state if stat is not None else ""


def test_s2_the_lease_is_given_back_at_the_pause_and_what_hangs_outlives_sigkill(scene: Scene) -> None:
    scene.view.set("hang")
    wait_until(scene.hangs, 10, "a write that hangs")
    assert scene.holds()
    answers: List[str] = []

    def suspend() -> None:
        try:
            scene.native.call("suspend", lambda native: native.lookupByUUIDString(VMID).suspend(), 60)
            answers.append("done")
        except HypervisorError as error:
            answers.append(str(error))

    asking = threading.Thread(target=suspend, daemon=True)
    asking.start()
    wait_until(lambda: not scene.holds(), 5, "the lease given back")
    assert scene.hangs() and not answers, "and its last write has not been answered"
    os.kill(scene.process.pid, signal.SIGKILL)
    wait_until(lambda: state(scene) == "Z", 10, "the signal")
    assert scene.table.runs(scene.process) and scene.table.stuck_state(scene.process.pid) == "D"
    assert scene.table.find(VMID) == [scene.process], "the guard sees it"
    assert not answers
    scene.view.set("ok")
    wait_until(lambda: not scene.table.runs(scene.process), 10, "its end")
    asking.join(30)
    assert answers
    assert scene.vm.destroy(20).outcome is Outcome.OK
