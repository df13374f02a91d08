"""The engine VM is started from an OVF_STORE that a management application wrote; what is changed there is how it
starts the next time."""

import os
import re
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Iterator, Tuple, TypeVar

import pytest

from ovirt_he_ha.lab import cluster, faults, process
from ovirt_he_ha.lab.definition import MEMORY_MIB, domain_xml
from ovirt_he_ha.lab.layout import DAEMON_GID, DAEMON_UID, Lab, LabError, LabHost
from ovirt_he_ha.lab.testimony import Witness
from tests.e2e.conftest import made
from tests.storage.engine_ovf import ovf, write_store

T = TypeVar("T")
STARTED = 120.0  # wall seconds until a VM that was killed is healthy again, on a busy machine
EXCLUSIVE = """<metadata><v:vm xmlns:v='http://ovirt.org/vm/1.0'><v:device devtype='disk' name='vda'>
<v:shared>exclusive</v:shared></v:device></v:vm></metadata><devices>"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from made("--hosts", "2")


def engine_xml(lab: Lab, memory: int) -> str:
    """As the application leaves it: the places of lease and disk are the host's to fill in."""
    ids = lab.identity
    named = f"{ids.disk.volume}:{ids.domain}"
    rhev = f"/rhev/data-center/00000000-0000-0000-0000-000000000000/{ids.domain}/images/{ids.disk.image}"
    text = domain_xml(lab).replace("<devices>", EXCLUSIVE)
    for old, new in (
        (f"<memory unit='MiB'>{MEMORY_MIB}<", f"<memory unit='MiB'>{memory}<"),
        (f"path='{lab.lease_path}' offset='0'", f"path='LEASE-PATH:{named}' offset='LEASE-OFFSET:{named}'"),
        (f"<source file='{lab.volume_path(ids.disk)}'>", f"<source file='{rhev}/{ids.disk.volume}'>"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def write(lab: Lab, number: int, memory: int, ago: float = 0.0) -> Path:
    """An OVF_STORE volume with the engine VM among others, last written that many seconds ago."""
    ids = lab.identity
    found = ovf(ids.vm, ids.domain, ids.disk.image, ids.disk.volume, engine_xml(lab, memory), memory=str(memory))
    date = datetime.fromtimestamp(time.time() - ago, timezone.utc).strftime("%a %b %d %H:%M:%S UTC %Y")
    other = "00000000-0000-4000-8000-0000000000ff"
    members = {f"{other}.ovf": ovf(other), f"{ids.vm}.ovf": found}
    images = lab.storage / ids.domain / "images"
    path = write_store(images, number, members, date=date)
    for each in (path.parent, path, Path(f"{path}.meta")):
        os.chown(each, DAEMON_UID, DAEMON_GID)
    return path


def eventually(look: Callable[[], T], seconds: float, what: str) -> T:
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, what
        time.sleep(0.1)


def running(lab: Lab) -> Tuple[int, int, LabHost]:
    """The VM's process, its memory in MiB as QEMU was told, and its host; nothing found is 0."""
    for host_id in lab.host_ids:
        host = lab.host(host_id)
        try:
            found = process.engines(lab.identity.vm, cluster.namespace(host))
        except LabError:
            continue
        for each in found:
            words = " ".join(process.command_line(each.pid))
            size = re.search(r" -m (?:size=)?(\d+)k?\b", words)
            if size is not None:
                kib = int(size.group(1))
                return each.pid, kib // 1024 if kib > 65536 else kib, host
    return 0, 0, lab.host(1)


def started_again(lab: Lab, before: int) -> Tuple[int, LabHost]:
    """Its memory and host, once another process of the VM is healthy."""

    def look() -> Tuple[int, LabHost, int]:
        pid, memory, host = running(lab)
        world = Witness(lab.observations).world
        return (memory, host, pid) if pid not in (0, before) and world.healthy else (0, host, 0)

    found = eventually(lambda: look() if look()[0] else None, STARTED, "the VM was not started again")
    assert found is not None
    return found[0], found[1]


def origin(host: LabHost) -> str:
    text = (host.product_root / "run" / "ovirt-hosted-engine-ha" / "vm.conf").read_text()
    found = re.search(r"^# From (.*), \S+$", text, re.MULTILINE)
    return found.group(1) if found is not None else ""


def test_the_vm_starts_as_the_newest_ovf_store_says(lab: Lab) -> None:
    pid, memory, host = running(lab)
    assert memory == MEMORY_MIB and origin(host) == "the configuration archive"
    write(lab, 2, 272, ago=60)  # an application has two of them, and writes to the older one
    store = write(lab, 1, 288)
    eventually(lambda: origin(host) == str(store), STARTED, "the agent has not found the OVF_STORE")
    assert running(lab)[:2] == (pid, memory), "a running VM is not touched by a new definition"
    faults.kill_vm(host)
    memory, host = started_again(lab, pid)
    assert memory == 288
    # The application writes the other volume, and the VM ends in the same moment: the start looks at it first.
    pid = running(lab)[0]
    newer = write(lab, 2, 320)
    faults.kill_vm(host)
    memory, host = started_again(lab, pid)
    assert (memory, origin(host)) == (320, str(newer))
