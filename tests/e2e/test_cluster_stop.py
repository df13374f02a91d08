"""--cluster-stop, all hosts without power, --cluster-start: on the lab, with an interruption on the way."""

import json
import os
import signal
import subprocess
import time
from functools import partial
from typing import Any, Dict, List

import pytest

from ovirt_he_ha.lab import cluster, faults, judge, process, services
from ovirt_he_ha.lab.layout import Lab, LabHost
from ovirt_he_ha.lab.testimony import Witness

LIMIT = 180  # wall seconds for a command that waits by itself
GUEST = 90  # wall seconds for the guest's boot or end
CYCLES = 60.0  # product seconds: six cycles of every agent


def command(host: LabHost, *words: str) -> "subprocess.CompletedProcess[str]":
    done = cluster.inside(host, ["hosted-engine", *words], limit=LIMIT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def answer(done: "subprocess.CompletedProcess[str]") -> Dict[str, Any]:
    return dict(json.loads(done.stdout))


def states(found: Dict[str, Any]) -> List[str]:
    return [one["state"] for one in found["steps"]]


def await_maintenance(lab: Lab, host: LabHost, wanted: bool) -> None:
    """As another host sees it, which reads the flag every 10 product seconds."""
    until = time.monotonic() + 20.0 / lab.scale + 5.0
    while answer(command(host, "--vm-status", "--json"))["global_maintenance"] is not wanted:
        assert time.monotonic() < until, f"maintenance is not {wanted}"


def interrupted(host: LabHost, at: str) -> "subprocess.CompletedProcess[str]":
    """--cluster-stop, and Ctrl-C when it has shown a line that begins with ``at``."""
    argv = cluster.nsenter(host, ["hosted-engine", "--cluster-stop"])
    environment = {**services.environment(host), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        argv,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores it, and all that it starts does, too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stdout is not None
        shown = ""
        for line in running.stdout:
            shown += line
            if line.startswith(at):
                for child in process.children(running.pid):
                    os.kill(child, signal.SIGINT)
                break
        rest, told = running.communicate(timeout=LIMIT)
        return subprocess.CompletedProcess(argv, running.returncode, shown + rest, told)


@pytest.fixture
def witness(lab: Lab) -> Witness:
    return Witness(lab.observations)


def test_the_whole_cluster_is_stopped_switched_off_and_started_again(lab: Lab, witness: Witness) -> None:
    assert witness.wait(lambda world: world.healthy and len(world.running) == 1, GUEST)
    begun = time.monotonic()
    here = faults.engine_host(lab)
    elsewhere = next(lab.host(h) for h in lab.host_ids if h != here.host_id)

    refused = command(elsewhere, "--cluster-stop", "--json")
    found = answer(refused)
    assert (refused.returncode, found["state"], found["error"]["code"]) == (1, "looking", "not-here"), found
    assert f"host {here.host_id} (" in found["error"]["message"]
    await_maintenance(lab, elsewhere, False)

    broken = interrupted(here, "3/5")
    assert broken.returncode == 130, broken
    assert "acknowledging" in broken.stderr or "shutting-down" in broken.stderr
    await_maintenance(lab, elsewhere, True)

    stopped = command(here, "--cluster-stop", "--json")
    found = answer(stopped)
    assert (stopped.returncode, found["state"], set(states(found))) == (0, "stopped", {"done"}), stopped
    assert {each["state"] for each in found["hosts"]} == {"seen"} and len(found["hosts"]) == 3
    assert witness.wait(lambda world: not world.running and not world.owner, 10) is not None
    # From any host, once it has read that the lease is nobody's: the VM is nowhere.
    limit = time.monotonic() + CYCLES / lab.scale + 5
    again = answer(command(elsewhere, "--cluster-stop", "--json"))
    while again["state"] != "stopped" and time.monotonic() < limit:
        assert again["error"]["code"] == "not-here", again
        again = answer(command(elsewhere, "--cluster-stop", "--json"))
    assert again["state"] == "stopped", again

    every = [lab.host(host_id) for host_id in lab.host_ids]
    faults.power_off(every)
    faults.power_on(every)
    cluster.wait_services(lab, lab.host_ids)
    assert witness.wait(lambda world: bool(world.running), CYCLES / lab.scale + 5) is None, "started in maintenance"

    started = command(elsewhere, "--cluster-start", "--json")
    found = answer(started)
    assert (started.returncode, found["state"], set(states(found))) == (0, "started", {"done"}), started
    assert {each["state"] for each in found["hosts"]} == {"present"}
    assert witness.wait(lambda world: world.healthy and len(world.running) == 1, GUEST)
    await_maintenance(lab, here, False)
    assert answer(command(here, "--cluster-start", "--json"))["state"] == "started"
    judged = judge.judge(witness.since(begun))
    assert not judged.two_ran, judged
    print(json.dumps({"stop": answer(stopped)["steps"], "start": found["steps"]}))
