"""The product's promises, held by the observer: every drill on three hosts with real daemons."""

import json
import subprocess
from typing import Callable

import pytest

from ovirt_he_ha.lab import cluster
from ovirt_he_ha.lab.drills import DRILLS
from ovirt_he_ha.lab.layout import Lab

HeLab = Callable[..., "subprocess.CompletedProcess[str]"]


def test_every_host_sees_three_live_hosts(lab: Lab, command: HeLab) -> None:
    told = json.loads(command("status", "--json").stdout)
    assert told["engine"]["healthy"]
    assert [host["product"]["live"] for host in told["hosts"]] == [True] * 3
    for host_id in lab.host_ids:
        words = ["hosted-engine", "--vm-status", "--json"]
        done = cluster.inside(lab.host(host_id), words, capture_output=True, text=True, check=True)
        blocks = {key: block for key, block in json.loads(done.stdout).items() if key.isdigit()}
        assert {key: block["live-data"] for key, block in blocks.items()} == {"1": True, "2": True, "3": True}
        up = [key for key, block in blocks.items() if block["engine-status"]["vm"] == "up"]
        assert up == [str(told["engine"]["running_on"][0])]


@pytest.mark.parametrize("name", DRILLS)
def test_drill(lab: Lab, command: HeLab, name: str) -> None:
    done = command("drill", name, "--json", check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["name"] == name
    assert report["two_ran"] is False, report
    assert report["unleased_seconds"] <= report["unleased_allowed"], report
    assert (report["unleased_allowed"] > 0) == (name == "hand-start-no-lease")  # started so by the drill itself
    assert report["recovered"], report
    assert report["within"], report
    assert done.returncode == 0
