"""The lab's own parts: hosts, leases, the VM and the observer, without our daemons."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import pytest

from ovirt_he_ha.lab import cluster, control, judge, process, services, state
from ovirt_he_ha.lab.definition import domain_xml
from ovirt_he_ha.lab.layout import ENGINE_NAME, Lab
from ovirt_he_ha.lab.testimony import Witness

HeLab = Callable[..., "subprocess.CompletedProcess[str]"]


def traces() -> Dict[str, Any]:
    """What a lab could leave behind on the machine."""
    return {
        "links": sorted(os.listdir("/sys/class/net")),
        "mounts": sorted(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()),
        "named namespaces": sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
        "hostname": socket.gethostname(),
        "cgroups": sorted(str(p) for p in Path("/sys/fs/cgroup").glob("*/*") if p.is_dir()),
        "run": sorted(name for name in os.listdir("/run") if "he-lab" in name or name in ("libvirt", "sanlock")),
        "libvirt": sorted(os.listdir("/var/lib/libvirt")) + sorted(os.listdir("/etc/libvirt")),
        "routes": subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout,
    }


def in_host(lab: Lab, host_id: int, words: Sequence[str], check: bool = True) -> "subprocess.CompletedProcess[str]":
    return cluster.inside(lab.host(host_id), words, capture_output=True, text=True, check=check)


def join(lab: Lab, host_ids: Sequence[int]) -> None:
    """The storage domain's lockspace, as the broker does it."""
    domain = lab.identity.domain
    path = lab.storage / domain / "dom_md" / "ids"
    running: List[subprocess.Popen[bytes]] = []
    for host_id in host_ids:
        words = ["sanlock", "client", "add_lockspace", "-s", f"{domain}:{host_id}:{path}:0"]
        running.append(
            subprocess.Popen(cluster.nsenter(lab.host(host_id), words), env=services.environment(lab.host(host_id)))
        )
    assert [one.wait(60) for one in running] == [0] * len(host_ids)


def definition_file(lab: Lab) -> str:
    path = lab.etc / "engine.xml"
    path.write_text(domain_xml(lab))
    return str(path)


def half_made(directory: str) -> None:
    """`up` is killed at any moment: `down` still finds all of it."""
    for moment in (0.1, 0.2, 0.3, 0.4, 0.6):
        words = [sys.executable, "-m", "ovirt_he_ha.lab.main", "up", "--no-daemons", "--hosts", "2", "--dir", directory]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as making:
            time.sleep(moment)  # the point is the moment, not an event
            making.kill()
        subprocess.run([*words[:3], "down", "--dir", directory], check=True, capture_output=True)
        assert not os.path.exists(directory)
        # The first process waits for a word of the one that made it: end of file, and it is gone within an instant.
        end = time.monotonic() + 5
        while any(directory in process.command_line(pid) for pid in process.pids()):
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def witness(bare_lab: Lab) -> Witness:
    return Witness(bare_lab.observations)


@pytest.fixture(scope="module")
def joined(bare_lab: Lab) -> Lab:
    join(bare_lab, bare_lab.host_ids)
    return bare_lab


def test_a_host_is_a_host_of_its_own(bare_lab: Lab) -> None:
    name = socket.gethostname()
    for host_id in bare_lab.host_ids:
        host = bare_lab.host(host_id)
        assert in_host(bare_lab, host_id, ["hostname"]).stdout.strip() == host.hostname
        assert in_host(bare_lab, host_id, ["cat", "/proc/1/comm"]).stdout.startswith("python")
        in_host(bare_lab, host_id, ["ping", "-c1", "-W2", bare_lab.gateway])
        peer = bare_lab.host(host_id % bare_lab.hosts + 1)
        in_host(bare_lab, host_id, ["ping", "-c1", "-W2", peer.second_address])
        assert set(in_host(bare_lab, host_id, ["ls", "/sys/class/net"]).stdout.split()) == {
            "lo",
            "eth0",
            "eth1",
            "ovirtmgmt",
        }
    assert socket.gethostname() == name
    boots = {
        in_host(bare_lab, host_id, ["cat", "/proc/sys/kernel/random/boot_id"]).stdout for host_id in bare_lab.host_ids
    }
    assert len(boots | {Path("/proc/sys/kernel/random/boot_id").read_text()}) == 4


def test_the_daemons_user_reaches_libvirt_and_sanlock(bare_lab: Lab) -> None:
    user = ["setpriv", "--reuid=36", "--regid=36", "--clear-groups"]
    assert in_host(bare_lab, 1, [*user, "virsh", "-c", "qemu:///system", "list"]).returncode == 0
    assert in_host(bare_lab, 1, [*user, "sanlock", "client", "gets"]).returncode == 0
    code = "import ovirt_he_ha, os; open(os.environ['OVIRT_HE_ROOT'] + '/etc/ovirt-hosted-engine/hosted-engine.conf')"
    assert in_host(bare_lab, 1, [*user, services.python(bare_lab.host(1)), "-c", code]).returncode == 0


def test_a_second_lab_is_refused(bare_lab: Lab, command: HeLab, request: pytest.FixtureRequest) -> None:
    parent = tempfile.mkdtemp(prefix="he-")  # tmp_path is longer than a lab's sockets allow
    request.addfinalizer(lambda: shutil.rmtree(parent))
    os.chmod(parent, 0o755)  # the daemons run as another user
    other = Path(parent) / "lab"
    for words in (["up"], ["up", "--dir", str(other)]):
        done = command(*words, check=False)
        assert done.returncode == 1
        assert bare_lab.directory in done.stderr
    assert not other.exists()
    assert state.running_lab(bare_lab.directory) == bare_lab


def test_a_killed_service_is_supervised(bare_lab: Lab) -> None:
    host = bare_lab.host(3)
    before = control.call(host.control, "status")["libvirtd"]
    control.call(host.control, "kill", service="libvirtd")
    end = time.monotonic() + 20
    while control.call(host.control, "status")["libvirtd"]["starts"] == before["starts"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    cluster.wait_services(bare_lab, [3])


def test_start_move_and_power_loss(joined: Lab, witness: Witness, command: HeLab) -> None:
    """The VM starts under its lease, is refused elsewhere, moves with its lease, and dies with its host."""
    xml = definition_file(joined)
    begun = time.monotonic()
    in_host(joined, 1, ["virsh", "create", xml])
    assert witness.wait(lambda world: world.healthy, 60)
    assert witness.world.owner == 1
    assert witness.world.hosts_running() == [1]

    refused = in_host(joined, 2, ["virsh", "create", xml], check=False)
    assert refused.returncode != 0

    target = joined.host(2).second_address
    uris = [f"qemu+tcp://{target}/system", "--migrateuri", f"tcp://{target}:49160"]
    in_host(joined, 1, ["virsh", "migrate", "--live", "--p2p", "--unsafe", ENGINE_NAME, *uris])
    assert witness.wait(lambda world: world.owner == 2 and world.hosts_running() == [2], 20)
    moved = time.monotonic()
    assert witness.wait(lambda world: world.at > moved + 1.2 and world.healthy, 20)
    assert judge.answered_every(witness.since(begun), begun + 20, moved) < 2

    answer = control.call(joined.control, "power-off", hosts=[2])
    assert answer["gone"] - answer["at"] < 2
    assert witness.wait(lambda world: not world.running and not world.healthy, 20)
    assert witness.world.owner == 2, "the lease of a dead host stays its own until sanlock declares it dead"

    judgement = judge.judge(witness.since(begun))
    assert [tenure.copy.host for tenure in judgement.owners] == [1, 2]
    assert not judgement.two_ran
    assert judgement.unleased == 0

    command("start-host", "--host", "2")
    join(joined, [2])


def test_faults_by_command(joined: Lab, witness: Witness, command: HeLab) -> None:
    assert witness.wait(lambda world: not world.running, 20)
    for words in (["vm", "--host", "2"], ["agent", "--host", "2"], ["vm", "--host", "9"]):
        done = command("kill", *words, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("he-lab: ")
    in_host(joined, 3, ["virsh", "create", definition_file(joined)])
    assert witness.wait(lambda world: world.hosts_running() == [3], 20)
    told = json.loads(command("status", "--json").stdout)
    assert [host["engine"] for host in told["hosts"]] == [False, False, True]
    assert told["engine"]["lease_owner"] == 3
    assert "ENGINE" in command("status").stdout
    command("kill", "vm", "--host", "3")
    assert witness.wait(lambda world: not world.running and world.owner == 0, 20)
    command("kill", "host", "--host", "3")
    assert command("exec", "--host", "3", "--", "true", check=False).returncode == 1
    assert command("kill", "host", "--host", "3", check=False).returncode == 1
    command("start-host", "--host", "3")
    assert command("exec", "--host", "3", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    assert "sanlock" in command("logs", "--host", "3", "--service", "init").stdout
    join(joined, [3])


def test_suspended_and_resumed_beside_another_is_seen(joined: Lab, witness: Witness) -> None:
    """The observer convicts: a VM that is suspended loses its lease, another host runs it, and then the first one is
    resumed."""
    xml = definition_file(joined)
    assert witness.wait(lambda world: not world.running, 20)
    begun = time.monotonic()
    in_host(joined, 1, ["virsh", "create", xml])
    assert witness.wait(lambda world: world.healthy, 60)
    in_host(joined, 1, ["virsh", "suspend", ENGINE_NAME])
    assert witness.wait(lambda world: world.owner == 0, 10)
    # The disk is locked by the suspended QEMU too: without it, as with any storage that knows no such locks, only the
    # lease counts.
    diskless = joined.etc / "diskless.xml"
    text = domain_xml(joined)
    diskless.write_text(text[: text.index("<disk ")] + text[text.index("</disk>") + len("</disk>") :])
    in_host(joined, 3, ["virsh", "create", str(diskless)])
    assert witness.wait(lambda world: world.owner == 3, 10)
    assert witness.wait(lambda world: any(c.host == 3 and at for c, at in world.running.items()), 20)
    assert not judge.judge(witness.since(begun)).two_ran
    resumed = time.monotonic()
    in_host(joined, 1, ["virsh", "resume", ENGINE_NAME], check=False)  # the lease is taken: libvirt refuses this one
    assert witness.wait(lambda world: world.at > resumed + 2, 20)
    assert not judge.judge(witness.since(begun)).two_ran
    in_host(joined, 3, ["virsh", "destroy", ENGINE_NAME])
    assert witness.wait(lambda world: world.owner == 0, 10)
    in_host(joined, 1, ["virsh", "resume", ENGINE_NAME])
    assert witness.wait(lambda world: world.owner == 1, 10)
    assert witness.wait(lambda world: judge.judge(witness.since(begun)).two_ran, 20)
    in_host(joined, 1, ["virsh", "destroy", ENGINE_NAME])


def test_nothing_is_left(bare_lab: Lab, command: HeLab) -> None:
    """After `down` in the middle of everything, with a crash of the lab's first process before it."""
    command("down")
    before = traces()
    try:
        command("up", "--no-daemons", "--hosts", "2")
        lab = state.load_lab(bare_lab.directory)
        spaces = {cluster.namespace(lab.host(host_id)) for host_id in lab.host_ids}
        keeper = state.keeper_of(bare_lab.directory)
        assert keeper is not None
        spaces.add(process.pid_namespace(keeper.pid))
        assert all(process.in_namespace(space) for space in spaces)
        join(lab, [1])
        in_host(lab, 1, ["virsh", "create", definition_file(lab)])
        process.kill(keeper)
        assert command("status", check=False).returncode == 1
    finally:
        command("down")
    assert not any(process.in_namespace(space) for space in spaces)
    assert not os.path.exists(bare_lab.directory)
    assert traces() == before
    command("down")
    half_made(bare_lab.directory)
    assert traces() == before
    command("up", "--no-daemons", "--hosts", "1")  # for the fixture to take down
