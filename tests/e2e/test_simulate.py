"""``hosted-engine --simulate`` held against what happens: it is asked on the lab, then that host really fails.

Compared is the time without the appliance's boot, which no time scale makes faster: from the fault until the VM's
processors run again. The simulated hosts and sanlock are what the lab accelerates; libvirt's and qemu's share is not.
"""

import json
import os
import subprocess
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import pytest

from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.lab import cluster
from ovirt_he_ha.lab.drills.stage import Stage
from ovirt_he_ha.lab.layout import Lab, LabHost
from ovirt_he_ha.lab.testimony import Witness
from tests.e2e.conftest import made

HeLab = Callable[..., "subprocess.CompletedProcess[str]"]
Note = Callable[[str, object], None]
# Half of the lab's usual: what a busy machine takes counts in the compared times by this scale.
SCALE = os.environ.get("HE_TEST_TIME_SCALE", "5")
WELL = 90.0  # wall seconds
LONGEST_GAP = 2.0  # "answers every second", asked four times a second with a time-out of one
ASKED = 120.0  # wall seconds: no further run begins after 60, and the last one has 10 s on a busy machine
BOOT = 20.0  # product seconds of the simulated appliance; taken off again
# The runs differ in the phases of clocks and renewals that nobody knows, and the lab's are among those they stand for:
# beyond the shortest and the longest of them one cycle of a host, as for every time that is announced.
TOLERANCE = Timers.cycle


class Predicted(NamedTuple):
    """Product seconds without the page, but for the boot: the shortest and the longest of the runs."""

    shortest: float
    longest: float
    whole: Dict[str, Any]

    @property
    def hosts(self) -> List[int]:
        return list(self.whole["engine_afterwards"])

    def misses(self, seconds: float) -> float:
        """By how much what was measured lies outside; below 0: before the shortest."""
        return min(0.0, seconds - self.shortest) + max(0.0, seconds - self.longest)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from made("--time-scale", SCALE)


@pytest.fixture
def here(lab: Lab) -> LabHost:
    """Where the healthy engine is, every host at rest."""
    Stage(lab).await_whole()
    witness = Witness(lab.observations)
    assert witness.wait(lambda world: world.healthy and len(world.running) == 1, WELL)
    return lab.host(witness.world.hosts_running()[0])


def simulate(lab: Lab, host: LabHost, *words: str) -> Predicted:
    """Asked on another host: the one that fails could not be asked afterwards why."""
    asked = lab.host(next(each for each in lab.host_ids if each != host.host_id))
    command = ["hosted-engine", "--simulate", "--json", f"--boot-time={BOOT:g}", *words]
    done = cluster.inside(asked, command, limit=ASKED, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: Dict[str, Any] = json.loads(done.stdout)
    assert found["engine_on"] == host.host_id, found
    assert found["violations"] == [], found
    assert found["outage"]["not_back"] == 0, found
    boot = found["outage"]["parts"].get("boot", {"min": 0.0, "max": 0.0})
    return Predicted(found["outage"]["min"] - boot["max"], found["outage"]["max"] - boot["min"], found)


def drill(command: HeLab, name: str, host: LabHost) -> Dict[str, Any]:
    """That fault on the host that was asked for."""
    done = command("drill", name, "--json", check=False)
    assert done.stdout, done.stderr
    report: Dict[str, Any] = json.loads(done.stdout)
    assert report["recovered"] and not report["two_ran"], report
    assert report["owners"][0]["host"] == host.host_id, report
    return report


def compare(note: Note, predicted: Predicted, report: Dict[str, Any]) -> None:
    note("predicted", [round(predicted.shortest, 1), round(predicted.longest, 1)])
    note("parts", predicted.whole["outage"]["parts"])
    note("certainty", predicted.whole["certainty"])
    note("measured", report["measured"])
    assert abs(predicted.misses(report["measured"])) <= TOLERANCE, (predicted, report)
    announced = predicted.whole["announced"]
    assert announced["kept"] and report["measured"] <= announced["seconds"] + TOLERANCE, (announced, report)


def test_a_power_loss_takes_as_long_as_it_said(lab: Lab, here: LabHost, command: HeLab, record_property: Note) -> None:
    predicted = simulate(lab, here, f"--fail-host={here.host_id}")
    assert here.host_id not in predicted.hosts
    assert set(predicted.whole["outage"]["parts"]) >= {"lease", "start", "boot"}
    report = drill(command, "host-loss", here)
    compare(record_property, predicted, report)
    assert report["owners"][-1]["host"] in predicted.hosts, (predicted.hosts, report["owners"])


def test_a_crash_takes_as_long_as_it_said(lab: Lab, here: LabHost, command: HeLab, record_property: Note) -> None:
    predicted = simulate(lab, here, "--crash-vm")
    # Which host has it then is not compared: libvirt's start is not accelerated, a peer looks ten times as often while
    # it lasts, and may begin its own; the lease decides.
    assert predicted.hosts == [here.host_id]
    compare(record_property, predicted, drill(command, "vm-crash", here))


def test_a_maintenance_costs_no_answer_of_the_page_as_it_said(
    lab: Lab, here: LabHost, command: HeLab, record_property: Note
) -> None:
    predicted = simulate(lab, here, f"--maintenance={here.host_id}")
    assert predicted.longest < LONGEST_GAP, predicted
    report = drill(command, "migration", here)
    record_property("longest_gap", report.get("longest_gap"))
    assert report["within"], report
    assert report["owners"][-1]["host"] in predicted.hosts, (predicted.hosts, report["owners"])


def test_the_cluster_is_simulated_as_it_stands(lab: Lab, here: LabHost) -> None:
    """Nothing fails, nothing happens; and a host that has the VM with its lease is told as that by every host."""
    for host_id in lab.host_ids:
        words = ["hosted-engine", "--simulate", "--json", "--runs=1"]
        done = cluster.inside(lab.host(host_id), words, limit=ASKED, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert (found["engine_on"], found["outage"]["max"]) == (here.host_id, 0.0), found
        assert [each["mode"] for each in found["hosts"]] == ["works"] * len(lab.host_ids), found
        assert not {"differs", "moves-by-itself"} & {each["code"] for each in found["assumptions"]}, found
