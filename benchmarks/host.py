"""One real host in a directory: storage, a sanlock daemon of its own, the broker, the agent. No libvirt, unless a URI
is given: the engine's state reads as unknown here, and a peer's slot says where it runs.

Everything at normal speed: sanlock needs 21 s to join.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Callable, Dict, List

from benchmarks import installed, peers
from benchmarks.definition import members
from benchmarks.installed import unit_environment
from ovirt_he_ha.client.link import BrokerError, BrokerLink, BrokerSnapshot
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import SLOT_SIZE, LockspaceState
from ovirt_he_ha.core.slot import encode_global
from ovirt_he_ha.storage.archive import write_archive
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import MIB, SCANNED, DomainVolumes, VolumeSizes, create_domain

_FORMAT = """
import sys
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease.formatting import write_lockspace, write_resource
ids, whiteboard, domain, key, path = sys.argv[1:]
write_lockspace(domain, ids)
write_lockspace("hosted-engine", whiteboard)
write_resource(LeaseId(domain, key, path, 0))
"""


class Host:
    """A context manager; nothing of it is left on exit."""

    def __init__(self) -> None:
        # A short path: a socket's name is at most 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="he-bench-", dir="/var/tmp"))
        self.paths = HostPaths(self.root / "host")
        self.run_dir = self.root / "sanlock"
        self.env = {
            "PATH": os.environ["PATH"],
            **installed.environment(),
            "OVIRT_HE_ROOT": str(self.paths.root),
            "SANLOCK_RUN_DIR": str(self.run_dir),
            "SANLOCK_PRIVILEGED": "0",
        }
        self._processes: Dict[str, subprocess.Popen[bytes]] = {}
        self._write_files()
        self.conf = load_hosted_engine_conf(self.paths.hosted_engine_conf)
        self.domain = LocalDomain(self.conf.storage, self.conf.sd_uuid)
        self.metadata = self.domain.volume_path(self.conf.metadata_image_uuid, self.conf.metadata_volume_uuid)
        self.lease = self.domain.lease(self.conf.vm_disk_id, self.conf.vm_disk_vol_id)
        self.link = BrokerLink(self.paths.broker_socket, 10.0)

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --- building -------------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        paths = self.paths
        conf_dir = paths.hosted_engine_conf.parent
        for directory in (conf_dir, paths.config_dir, paths.state_dir, paths.run_dir, self.run_dir):
            directory.mkdir(parents=True)
        names = ["vmid", "sdUUID", "vm_disk_id", "vm_disk_vol_id"]
        names += [
            f"{volume}_{part}_UUID" for volume in ("metadata", "lockspace", "conf") for part in ("image", "volume")
        ]
        values = {name: str(uuid.uuid4()) for name in names}
        values.update(fqdn="engine.test", host_id="1", domainType="local", storage=str(self.root / "storage"))
        values.update(bridge="lo", network_test="none", configured="True")
        paths.hosted_engine_conf.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        paths.agent_conf.write_text(f"[libvirt]\nuri=qemu:///system?socket={self.root}/no-libvirt\n")

    def make_storage(self) -> None:
        # The lockspace's volume also holds the lock of the configuration, 8 MiB from its beginning.
        sizes = VolumeSizes(SCANNED, 16 * MIB, 2 * MIB, MIB, 8 * MIB)
        create_domain(self.conf.storage, self.conf.sd_uuid, DomainVolumes.of(self.conf), sizes, owner=None)
        archive = self.domain.volume_path(self.conf.conf_image_uuid, self.conf.conf_volume_uuid)
        disk = self.domain.volume_path(self.conf.vm_disk_id, self.conf.vm_disk_vol_id)
        write_archive(archive, members(self.conf.vmid, self.lease, disk))

    def start_sanlock(self) -> None:
        options = ["-D", "-w", "0", "-h", "0", "-l", "0", "-U", "root", "-G", "root", "-e", "host1"]
        self._spawn("sanlock", ["sanlock", "daemon", *options])
        _await((self.run_dir / "sanlock.sock").exists, "sanlock's socket", 10.0)
        lockspace = self.domain.volume_path(self.conf.lockspace_image_uuid, self.conf.lockspace_volume_uuid)
        arguments = [self.domain.ids_path, lockspace, self.lease.lockspace, self.lease.key, self.lease.path]
        subprocess.run([sys.executable, "-c", _FORMAT, *arguments], env=self.env, check=True, timeout=60)

    def start_broker(self) -> int:
        """Its process id; returns when it answers."""
        self._spawn("broker", [sys.executable, "-m", "ovirt_he_ha.broker.service"])
        _await(self._answers, "the broker", 15.0)
        return self.pid("broker")

    def start_agent(self) -> int:
        """Its process id; returns when it has read the VM's definition."""
        self._spawn("agent", [sys.executable, "-m", "ovirt_he_ha.agent.service"])
        _await(self.paths.vm_conf.exists, "the VM's definition", 30.0)
        return self.pid("agent")

    def await_held(self) -> BrokerSnapshot:
        """Both lockspaces."""
        found: List[BrokerSnapshot] = []

        def held() -> bool:
            found[:] = [self.link.snapshot()]
            states = (found[0].leases.whiteboard.value, found[0].leases.lockspace.value)
            return states == (LockspaceState.HELD, LockspaceState.HELD)

        _await(held, "both lockspaces", 60.0)
        return found[0]

    def _answers(self) -> bool:
        try:
            self.link.is_host_alive()
        except BrokerError:
            return False
        return True

    def _spawn(self, name: str, command: List[str]) -> None:
        env = {**self.env, **unit_environment(name)}
        with (self.root / f"{name}.log").open("wb") as out:
            self._processes[name] = subprocess.Popen(command, cwd=installed.tree(), env=env, stdout=out, stderr=out)

    # --- using ----------------------------------------------------------------------------------------------------

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def write(self, slots: Dict[int, bytes]) -> None:
        """As peers do: straight to the volume."""
        handle = os.open(self.metadata, os.O_WRONLY)
        try:
            for host_id, data in slots.items():
                os.pwrite(handle, data, host_id * SLOT_SIZE)
            os.fdatasync(handle)
        finally:
            os.close(handle)

    def await_slots(self, count: int) -> None:
        """Until the broker serves so many."""
        _await(lambda: len(self.link.get_stats()) >= count, f"{count} slots", 30.0)

    def close(self) -> None:
        """Nobody waits for a farewell: of the agent's last record, and of sanlock's lockspaces."""
        self.link.close()
        for process in self._processes.values():
            process.kill()
            process.wait(10)
        self._processes.clear()
        shutil.rmtree(self.root)


class Peers:
    """Hosts 2 to ``count`` + 1 publish in every cycle, spread over it, as those of a real cluster would. ``runner``
    has the engine; 0: nobody. A thread of the benchmark's process."""

    def __init__(self, host: Host, count: int, runner: int = 2, cycle: float = 10.0) -> None:
        self._host = host
        self._ids = range(2, count + 2)
        self.runner = runner
        self._cycle = cycle
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._second = 1000

    def __enter__(self) -> "Peers":
        self._host.write({0: encode_global(False)})
        self._round(range(0, len(self._ids)))
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _lease(self) -> str:
        lease = self._host.lease
        return f"{lease.lockspace}:{lease.key}:{lease.path}:{lease.offset}"

    def _round(self, which: range) -> None:
        self._second += 1
        ids = [self._ids[index] for index in which]
        lease = self._lease()
        self._host.write({each: peers.slot(each, self._second, each == self.runner, lease) for each in ids})

    def _run(self) -> None:
        """Ten steps in one cycle, each for a tenth of the hosts."""
        step, count = 0, len(self._ids)
        while not self._stopping.wait(self._cycle / 10):
            self._round(range(step % 10, count, 10))
            step += 1


def _await(condition: Callable[[], bool], what: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"benchmark: {what}: not within {seconds:g} s")
        time.sleep(0.05)
