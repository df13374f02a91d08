"""What lies on the shared storage for all hosts: the VM's definition, made anew and looked at, and the configuration
archive, changed under its lock."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, List

from benchmarks import definition
from benchmarks.effort import Effort
from benchmarks.figures import Figure
from benchmarks.host import Host
from ovirt_he_ha.agent.definition_source import DefinitionSource
from ovirt_he_ha.agent.shared_storage import OvfCandidate, SharedStorage
from ovirt_he_ha.config.clock import SystemClock

# A program that stays, as one with the library in it: what starts anew for each change counts, Python's own start not.
_SET = """
import sys, time
from ovirt_he_ha.client.shared_config import SharedConfig
from ovirt_he_ha.config.paths import HostPaths
config = SharedConfig(HostPaths.from_env())
for number in range(int(sys.argv[1])):
    begin = time.perf_counter()
    config.set("tcp_t_address", f"192.0.2.{number % 250}", "he_shared")
    print((time.perf_counter() - begin) * 1e3)
"""


def figures(host: Host, effort: Effort) -> List[Figure]:
    """Of a host whose broker runs; the archive's only where it has joined, because its lock lives in the lockspace."""
    return [*_definition(host, effort.calls), *(_archive(host, effort.calls) if effort.joined else [])]


def _definition(host: Host, times: int) -> List[Figure]:
    conf, storage = host.conf, SharedStorage(host.conf, SystemClock(1.0))
    disk = host.domain.volume_path(conf.vm_disk_id, conf.vm_disk_vol_id)
    stores = [_Store(host, number) for number in (1, 2)]
    versions = [definition.ovf(conf, disk, host.lease, memory) for memory in (4096, 8192)]
    for store in stores:
        store.write(versions[0])
    here: List[bytes] = [versions[0]]

    def in_memory() -> Iterator[OvfCandidate]:
        yield OvfCandidate("memory", here[0])

    def source(ovfs: Callable[[], Iterator[OvfCandidate]]) -> DefinitionSource:
        names = (host.root / "vm.conf", host.root / "vm.conf.fallback")
        return DefinitionSource(
            storage.vm_conf, host.lease, conf.vmid, *names, SystemClock(1.0), lambda: None, ovfs=ovfs
        )

    def turn() -> None:
        here[0] = versions[versions.index(here[0]) - 1]

    making, looking = source(in_memory), source(storage.ovfs)
    looking.refresh()
    if looking.current.problem:
        raise SystemExit(f"benchmark: {looking.current.detail}")
    made = _median(times, making.refresh, turn)
    idle = _median(times, looking.refresh)
    storage.rest()
    fresh = _median(times, looking.refresh, storage.rest)
    storage.close()
    how = f"wall clock, median of {times}"
    return [
        Figure("definition.regenerate", made, "ms", f"{how}: OVF to checked XML, two files replaced", 20.0),
        Figure("definition.unchanged", idle, "ms", f"{how}: two OVF_STOREs looked at, nothing made"),
        Figure("definition.unchanged_new_process", fresh, "ms", f"{how}: with the start of the I/O process"),
    ]


class _Store:
    """An OVF_STORE of 128 MiB, sparse, with the OVFs of ten other VMs before the engine's."""

    def __init__(self, host: Host, number: int) -> None:
        self._number = number
        self._vm = host.conf.vmid
        image = Path(host.domain.directory, "images", f"{number:08d}-0000-4000-8000-00000000000a")
        image.mkdir()
        self._path = image / f"{number:08d}-0000-4000-8000-00000000000b"
        with self._path.open("wb") as file:
            file.truncate(128 << 20)

    def write(self, ovf: bytes) -> None:
        data = definition.store(self._vm, ovf)
        with self._path.open("r+b") as file:
            file.write(data)
        Path(f"{self._path}.meta").write_bytes(definition.description(len(data), self._number))


def _archive(host: Host, times: int) -> List[Figure]:
    done = subprocess.run(
        [sys.executable, "-c", _SET, str(times + 1)],
        env=host.env,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    taken = sorted(float(line) for line in done.stdout.split()[1:])  # the first one formats the lock's place
    how = f"wall clock, of {len(taken)}: lock, two writes, read-back; local storage"
    return [
        Figure("configuration.write", taken[len(taken) // 2], "ms", f"{how}, median", 100.0),
        Figure("configuration.write_longest", taken[-1], "ms", f"{how}, longest"),
    ]


def _median(times: int, call: Callable[[], None], before: Callable[[], None] = lambda: None) -> float:
    taken = []
    for _ in range(times):
        before()
        begin = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begin) * 1e3)
    return sorted(taken)[times // 2]
