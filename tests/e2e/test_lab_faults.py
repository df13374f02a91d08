"""Every fault does what it says, judged from outside: the health page, pings, the guest's writes, its CPU counters."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import pytest

from ovirt_he_ha.broker.monitors.guest_progress import GuestProgress, Look
from ovirt_he_ha.broker.monitors.process_times import ProcessTimes
from ovirt_he_ha.lab import cluster, control, faults, guest, process, services
from ovirt_he_ha.lab.definition import domain_xml
from ovirt_he_ha.lab.layout import ENGINE_NAME, Lab
from ovirt_he_ha.lab.testimony import Witness

HeLab = Callable[..., "subprocess.CompletedProcess[str]"]
WINDOW = 2.0  # wall seconds between two looks that the second signal compares
NOTHING = {"gateway": False, "network": {}, "storage": {}, "guest": []}


def in_host(lab: Lab, host_id: int, words: Sequence[str], check: bool = True) -> "subprocess.CompletedProcess[str]":
    return cluster.inside(lab.host(host_id), words, limit=60, capture_output=True, text=True, check=check)


def in_force(command: HeLab) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(command("status", "--json").stdout)["faults"]
    return found


@pytest.fixture(scope="module")
def joined(bare_lab: Lab) -> Lab:
    domain = bare_lab.identity.domain
    path = bare_lab.storage / domain / "dom_md" / "ids"
    joining = [
        subprocess.Popen(
            cluster.nsenter(
                bare_lab.host(host_id), ["sanlock", "client", "add_lockspace", "-s", f"{domain}:{host_id}:{path}:0"]
            ),
            env=services.environment(bare_lab.host(host_id)),
        )
        for host_id in (1, 2)
    ]
    assert [one.wait(60) for one in joining] == [0, 0]
    (bare_lab.etc / "engine.xml").write_text(domain_xml(bare_lab))
    return bare_lab


@pytest.fixture
def witness(joined: Lab) -> Witness:
    return Witness(joined.observations)


@pytest.fixture
def engine(joined: Lab, witness: Witness) -> process.ProcessId:
    """A healthy VM on host 1: the one that runs there, or a new one."""
    if witness.world.running and not witness.wait(lambda world: world.healthy, 5):
        faults.kill_vm(joined.host(1))  # a test before this one failed and left it hung
        assert witness.wait(lambda world: not world.running, 10)
    if not witness.world.running:
        in_host(joined, 1, ["virsh", "create", str(joined.etc / "engine.xml")])
    assert witness.wait(lambda world: world.healthy and world.hosts_running() == [1], 60)
    writes_on(joined)
    (found,) = process.engines(joined.identity.vm, cluster.namespace(joined.host(1)))
    return found


def writes_on(lab: Lab) -> None:
    before = guest.diary(lab)
    end = time.monotonic() + 20
    while guest.diary(lab) == before:
        assert time.monotonic() < end
        time.sleep(0.05)


class Seen(NamedTuple):
    """Over the watch, or over its last seconds where it waited for a guest to stand still. ``cpu``: of one virtual
    CPU, waiting for a real one included. ``stalled``: what the product's second signal makes of it."""

    cpu: float
    blocks: int
    stalled: bool


def watch(lab: Lab, engine: process.ProcessId, stands: bool = False) -> Seen:
    """For 2.7 s, longer while the second signal cannot tell. ``stands``: until it says that the guest stands still, or
    for 20 s: a kernel that panics writes its last words first, on a busy machine for seconds."""
    times, progress = ProcessTimes(), GuestProgress()
    looks: List[Look] = []
    blocks: List[int] = []
    begun = time.monotonic()
    stalled: Optional[float] = None
    while time.monotonic() < begun + 2.7 or stalled is None or (stands and stalled < WINDOW):
        if time.monotonic() > begun + 20:
            break
        used = times.used(engine.pid)
        requests = block_requests(lab)
        now = time.monotonic()
        demand = times.vcpu_demand(engine.pid)
        written = guest.diary(lab)
        assert demand is not None and written is not None
        looks.append(Look(now, engine.pid, demand, float(used[1]) if used else None, now, requests))
        blocks.append(written.blocks)
        progress.observe(looks[-1])
        stalled = progress.stalled_for(now)
        time.sleep(0.3)  # the sampling period
    assert stalled is not None
    last = looks[-1]
    first = max(index for index, look in enumerate(looks) if look.at <= last.at - WINDOW) if stands else 0
    before = looks[first]
    assert before.demand is not None and last.demand is not None
    cpu = (last.demand[0] - before.demand[0]) / (last.at - before.at)
    return Seen(cpu, blocks[-1] - blocks[first], stalled >= WINDOW)


def block_requests(lab: Lab) -> Optional[int]:
    """None: libvirt cannot tell, since the process does not answer it."""
    words = ["timeout", "1", "virsh", "domblkstat", ENGINE_NAME, "vda"]
    done = in_host(lab, 1, words, check=False)
    if done.returncode:
        return None
    numbers = {line.split()[1]: int(line.split()[2]) for line in done.stdout.splitlines() if line.strip()}
    return numbers["rd_req"] + numbers["wr_req"]


def test_an_idle_guest_is_not_stalled(joined: Lab, engine: process.ProcessId, command: HeLab) -> None:
    seen = watch(joined, engine)
    assert seen.blocks >= 1
    assert not seen.stalled
    assert in_force(command) == NOTHING


def test_the_page_hangs_and_the_guest_works(
    joined: Lab, witness: Witness, engine: process.ProcessId, command: HeLab
) -> None:
    for how in ("health", "error", "page"):
        command("hang", "vm", "--how", how)
        assert witness.wait(lambda world: world.healthy is False, 10)
        assert in_force(command) == {**NOTHING, "guest": [how]}
        if how == "page":
            seen = watch(joined, engine)
            assert seen.blocks >= 1
            assert not seen.stalled
        else:
            writes_on(joined)
        command("hang", "vm", "--how", "ok")
        assert witness.wait(lambda world: world.healthy, 10)
    assert in_force(command) == NOTHING


def test_its_process_stops(joined: Lab, witness: Witness, engine: process.ProcessId, command: HeLab) -> None:
    command("hang", "vm", "--how", "qemu")
    assert witness.wait(lambda world: world.healthy is False, 10)
    assert in_force(command)["guest"] == ["qemu"]
    seen = watch(joined, engine, stands=True)
    assert (seen.cpu, seen.blocks) == (0.0, 0)
    assert seen.stalled
    command("hang", "vm", "--how", "ok")
    assert witness.wait(lambda world: world.healthy, 10)
    assert in_force(command) == NOTHING


def test_suspended_and_resumed_by_hand(
    joined: Lab, witness: Witness, engine: process.ProcessId, command: HeLab
) -> None:
    command("pause", "vm")
    assert witness.wait(lambda world: world.healthy is False and world.owner == 0, 10)
    assert in_force(command)["guest"] == ["paused"]
    command("resume", "vm", "--host", "1")
    assert witness.wait(lambda world: world.healthy and world.owner == 1, 10)
    assert command("pause", "vm", "--host", "2", check=False).returncode == 1


def test_the_control_page_obeys_the_desk_only(joined: Lab, engine: process.ProcessId) -> None:
    url = f"http://{joined.engine_address}:{guest.CONTROL_PORT}{guest.CONTROL_PATH}?panic"
    code = "import sys; from ovirt_he_ha.lab.guest import ask; print(ask(sys.argv[1])['error'])"
    assert in_host(joined, 2, [services.python(joined.host(2)), "-c", code, url]).stdout.strip() == "HTTP 403"
    assert process.alive(engine)


def test_the_management_cable(joined: Lab, witness: Witness, engine: process.ProcessId, command: HeLab) -> None:
    host, peer = joined.host(1), joined.host(2)
    command("network", "down", "--host", "1")
    assert witness.wait(lambda world: world.healthy is False, 10)
    assert not pings(joined, 1, joined.gateway)
    assert pings(joined, 1, peer.second_address)
    assert in_force(command) == {**NOTHING, "network": {"1": ["management"]}}
    done = command("hang", "vm", "--how", "health", check=False)  # nobody reaches the guest
    assert done.returncode == 1
    assert done.stderr.startswith("he-lab: ")
    command("network", "down", "--host", "1", "--all")
    assert not pings(joined, 1, peer.second_address)
    assert in_force(command)["network"] == {"1": ["management", "second"]}
    command("network", "up", "--host", "1")
    assert witness.wait(lambda world: world.healthy, 10)
    assert pings(joined, 2, host.second_address)
    assert in_force(command) == NOTHING


def pings(lab: Lab, host_id: int, address: str) -> bool:
    return in_host(lab, host_id, ["ping", "-c1", "-W1", address], check=False).returncode == 0


def pings_again(lab: Lab, host_id: int, address: str) -> bool:
    """The kernel asks anew for a neighbour that it had given up, once a second; until it answers, `ping` ends with the
    first word that the address is unreachable."""
    end = time.monotonic() + 10
    while not pings(lab, host_id, address):
        if time.monotonic() > end:
            return False
    return True


def test_the_gateway(joined: Lab, witness: Witness, engine: process.ProcessId, command: HeLab) -> None:
    begun = time.monotonic()
    for _ in range(2):  # again is as once
        command("network", "down", "--gateway")
    with ThreadPoolExecutor() as everywhere:
        reached = list(everywhere.map(lambda host_id: pings(joined, host_id, joined.gateway), joined.host_ids))
    assert reached == [False] * 3
    assert pings(joined, 2, joined.host(1).address)
    assert in_force(command) == {**NOTHING, "gateway": True}
    assert witness.read().healthy
    assert not [record for record in witness.since(begun) if record["kind"] == "health"]
    command("network", "up")
    assert pings_again(joined, 3, joined.gateway)
    assert in_force(command) == NOTHING


def test_a_reboot_plugs_the_cables_in(joined: Lab, command: HeLab) -> None:
    command("network", "down", "--host", "3", "--all")
    command("kill", "host", "--host", "3")
    assert command("network", "up", "--host", "3", check=False).returncode == 1
    command("start-host", "--host", "3")
    assert in_force(command) == NOTHING
    assert pings(joined, 3, joined.gateway)
    assert pings(joined, 3, joined.host(2).second_address)


def test_one_hosts_storage(joined: Lab, command: HeLab) -> None:
    path = str(joined.volume_path(joined.identity.metadata))
    read = ["timeout", "5", "dd", f"if={path}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]
    command("storage", "error", "--host", "3")
    assert in_host(joined, 3, read, check=False).returncode == 1
    assert in_force(command) == {**NOTHING, "storage": {"3": "error"}}
    assert in_host(joined, 2, read).returncode == 0
    assert command("storage", "ok", "--host", "3", "--ms", "5", check=False).returncode == 1
    begun = time.monotonic()
    command("storage", "slow", "--host", "3", "--ms", "700")
    assert in_host(joined, 3, read).returncode == 0
    assert time.monotonic() - begun > 0.7
    command("storage", "ok", "--host", "3")
    assert in_force(command) == NOTHING


def test_the_power_button(joined: Lab, witness: Witness, engine: process.ProcessId, command: HeLab) -> None:
    command("hang", "vm", "--how", "acpi")
    in_host(joined, 1, ["virsh", "shutdown", ENGINE_NAME])
    assert witness.wait(lambda world: not world.running, 2) is None
    assert witness.world.healthy
    assert in_force(command)["guest"] == ["acpi"]
    command("hang", "vm", "--how", "ok")  # and the press that it did not hear comes through
    in_host(joined, 1, ["virsh", "shutdown", ENGINE_NAME], check=False)
    assert witness.wait(lambda world: not world.running, 5)
    assert in_force(command) == NOTHING
    assert command("hang", "vm", check=False).returncode == 1


def kernel_stops(lab: Lab, witness: Witness, engine: process.ProcessId, command: HeLab, how: str) -> Seen:
    """As in its life: no page, no write, the power button ignored, and libvirt calls it running."""
    command("hang", "vm", "--how", how)
    assert witness.wait(lambda world: world.healthy is False, 10)
    in_host(lab, 1, ["virsh", "shutdown", ENGINE_NAME])
    seen = watch(lab, engine, stands=True)
    assert seen.stalled
    assert seen.blocks == 0
    assert in_force(command)["guest"] == [how]
    assert in_host(lab, 1, ["virsh", "domstate", ENGINE_NAME]).stdout.strip() == "running"
    return seen


def test_its_kernel_panics(joined: Lab, witness: Witness, engine: process.ProcessId, command: HeLab) -> None:
    assert kernel_stops(joined, witness, engine, command, "panic").cpu == pytest.approx(1.0, abs=0.1)
    in_host(joined, 1, ["virsh", "destroy", ENGINE_NAME])
    assert witness.wait(lambda world: not world.running and world.owner == 0, 10)
    assert in_force(command) == NOTHING


def test_its_kernel_halts_and_down_ends_everything(
    joined: Lab, witness: Witness, engine: process.ProcessId, command: HeLab
) -> None:
    assert kernel_stops(joined, witness, engine, command, "guest").cpu <= 0.05
    command("hang", "vm", "--how", "qemu")
    command("storage", "hang", "--host", "1")
    command("network", "down", "--gateway")
    command("network", "down", "--host", "2", "--all")
    line = command("status").stdout.splitlines()[-1]
    for word in ("gateway", "guest", "qemu", "h2: management and second", "h1: storage hang"):
        assert word in line
    powered = control.call(joined.control, "status")["on"]
    spaces = [cluster.namespace(joined.host(host_id)) for host_id in powered]
    assert spaces
    command("down")
    assert not any(process.in_namespace(space) for space in spaces)
    assert not process.alive(engine)
    assert not joined.root.exists()
