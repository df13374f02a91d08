"""A host that loses its guard or its storage is powered off by its own watchdog, completely and in time; nothing of a
hang survives the lab."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Callable, List, Sequence

import pytest

from ovirt_he_ha.lab import cluster, control, process, services, state, view, watchdog
from ovirt_he_ha.lab.definition import domain_xml
from ovirt_he_ha.lab.layout import Lab, LabHost
from ovirt_he_ha.lab.testimony import Witness

HeLab = Callable[..., "subprocess.CompletedProcess[str]"]

# Product seconds. sanlock renews every 20 s; wdmd pings until 70 s after the last renewal; then the device's 60.
LATEST = 20 + 70 + 60
# From that renewal on: wdmd's last sign of life is up to 10 s old by then, 20 when a busy machine made it miss one.
EARLIEST = 50 + 60


def in_host(host: LabHost, *words: str) -> str:
    done = cluster.inside(host, words, limit=60, capture_output=True, text=True, check=True)
    return str(done.stdout)


def join(hosts: Sequence[LabHost]) -> None:
    running: List[subprocess.Popen[bytes]] = []
    for host in hosts:
        domain = host.lab.identity.domain
        path = host.lab.storage / domain / "dom_md" / "ids"
        words = ["sanlock", "client", "add_lockspace", "-s", f"{domain}:{host.host_id}:{path}:0"]
        running.append(subprocess.Popen(cluster.nsenter(host, words), env=services.environment(host)))
    assert [one.wait(60) for one in running] == [0] * len(hosts)


def last_renewal(host: LabHost) -> float:
    """Wall seconds (monotonic) at which sanlock last renewed this host's id, or earlier: the daemon tells whole
    seconds. On a busy machine it is older than the 20 s after which the next one is due."""
    asked_at = time.monotonic()
    text = in_host(host, "sanlock", "client", "status", "-D")
    now, renewed = (re.search(rf"{name}=(\d+)", text) for name in ("monotime", "renewal_last_success"))
    assert now and renewed
    return asked_at - (int(now[1]) - int(renewed[1]) + 1) / host.lab.scale


def await_firing(witness: Witness, host: LabHost, since: float) -> float:
    """Product seconds after ``since``, once the host is off as well."""
    limit = (LATEST + 20) / host.lab.scale + 5
    fired = witness.wait(lambda world: world.fired.get(host.host_id, 0) > since, limit)
    assert fired, "the watchdog did not fire"
    end = time.monotonic() + 2
    while host.host_id in control.call(host.lab.control, "status")["on"]:
        assert time.monotonic() < end
        time.sleep(0.02)
    return (witness.world.fired[host.host_id] - since) * host.lab.scale


@pytest.fixture
def witness(bare_lab: Lab) -> Witness:
    return Witness(bare_lab.observations)


@pytest.fixture
def fenced(bare_lab: Lab) -> LabHost:
    """A host that has just been switched on and has joined."""
    host = bare_lab.host(1)
    if host.host_id in control.call(bare_lab.control, "status")["on"]:
        control.call(bare_lab.control, "power-off", hosts=[host.host_id])
    control.call(bare_lab.control, "power-on", hosts=[host.host_id])
    cluster.wait_services(bare_lab, [host.host_id])
    join([host])
    return host


def test_a_killed_sanlock_dooms_its_host_though_it_comes_back(fenced: LabHost, witness: Witness) -> None:
    """The restarted one lives by the same clock as wdmd, and does not save the host: wdmd remembers the dead one."""
    assert "use_watchdog=1" in in_host(fenced, "sanlock", "client", "status", "-D")
    before = control.call(fenced.control, "status")["sanlock"]["starts"]
    renewed = last_renewal(fenced)
    at = float(control.call(fenced.control, "kill", service="sanlock")["at"])
    end = time.monotonic() + 10
    while control.call(fenced.control, "status")["sanlock"]["starts"] == before:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert time.monotonic() - at >= services.RESTART_DELAY
    cluster.wait_services(fenced.lab, [fenced.host_id])
    code = "wdmd -d; sanlock client status -D"
    text = in_host(fenced, "sh", "-c", code)
    of_wdmd, of_sanlock = (re.search(pattern, text) for pattern in (r"now (\d+)", r"monotime=(\d+)"))
    assert of_wdmd and of_sanlock
    assert abs(int(of_wdmd[1]) - int(of_sanlock[1])) <= 1, "one clock"
    assert EARLIEST - (at - renewed) * fenced.lab.scale <= await_firing(witness, fenced, at) <= LATEST


def test_hung_storage_ends_in_a_complete_power_off(fenced: LabHost, witness: Witness) -> None:
    definition = fenced.lab.etc / "engine.xml"
    definition.write_text(domain_xml(fenced.lab))
    in_host(fenced, "virsh", "create", str(definition))
    assert witness.wait(lambda world: world.healthy, 60)
    inside = process.in_namespace(cluster.namespace(fenced))
    renewed = last_renewal(fenced)
    at = view.set_storage(fenced, view.HANG)
    assert view.storage_mode(fenced) == "hang"
    assert EARLIEST - (at - renewed) * fenced.lab.scale <= await_firing(witness, fenced, at) <= LATEST
    assert witness.wait(lambda world: not world.running, 5)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in inside), "qemu hung in the kernel, and yet it is gone"
    with pytest.raises(control.Refused):
        view.storage_mode(fenced)


def test_a_failing_storage_kills_no_host(fenced: LabHost, witness: Witness) -> None:
    at = view.set_storage(fenced, view.ERROR)
    assert not witness.wait(lambda world: world.fired.get(fenced.host_id, 0) > at, LATEST / fenced.lab.scale + 1)
    assert in_host(fenced, "sanlock", "client", "gets").strip() == ""
    assert view.set_storage(fenced, view.OK) > at
    join([fenced])


def test_a_killed_wdmd_cannot_come_back(fenced: LabHost, witness: Witness) -> None:
    at = float(control.call(fenced.control, "kill", service="wdmd")["at"])
    assert 40 <= await_firing(witness, fenced, at) <= 60 + 5


def test_a_host_without_a_watchdog(bare_lab: Lab, witness: Witness, command: HeLab) -> None:
    host = bare_lab.host(2)
    watchdog.set_present(host, False)
    try:
        control.call(bare_lab.control, "power-off", hosts=[2])
        command("start-host", "--host", "2")
        told = json.loads(command("status", "--json").stdout)["hosts"]
        assert told[1]["watchdog"] == {"present": False, "armed": False}
        assert told[2]["watchdog"]["armed"]
        assert "wdmd" not in told[1]["services"]
        assert "NO WATCHDOG" in command("status").stdout
        join([host])
        assert "use_watchdog=0" in in_host(host, "sanlock", "client", "status", "-D")
        at = float(control.call(host.control, "kill", service="sanlock")["at"])
        assert not witness.wait(lambda world: world.fired.get(2, 0) > at, LATEST / bare_lab.scale + 1)
    finally:
        watchdog.set_present(host, True)


@pytest.mark.parametrize("crash", [False, True])
def test_a_hang_does_not_outlive_the_lab(bare_lab: Lab, command: HeLab, crash: bool) -> None:
    """With processes that cannot be killed in every host; ``crash``: nobody tells the lab to go."""
    lab = bare_lab
    on = control.call(lab.control, "status")["on"]
    try:
        hosts = [lab.host(host_id) for host_id in on]
        for host in hosts:
            view.set_storage(host, view.HANG)
        waiting = [
            subprocess.Popen(cluster.nsenter(host, ["stat", str(lab.storage)]), stderr=subprocess.DEVNULL)
            for host in hosts
        ]
        spaces = [cluster.namespace(host) for host in hosts]
        keeper = state.keeper_of(lab.directory)
        assert keeper is not None
        spaces.append(process.pid_namespace(keeper.pid))
        if crash:
            process.kill(keeper)
    finally:
        command("down")
    for one in waiting:
        assert one.wait(10) != 0
    assert not any(process.in_namespace(space) for space in spaces)
    assert not os.path.exists(lab.directory)
    assert "he-lab" not in Path("/proc/self/mountinfo").read_text()
    command("up", "--no-daemons", "--hosts", "2")  # for the next one, and for the fixture to take down
