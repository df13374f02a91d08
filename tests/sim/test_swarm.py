"""The swarm: a seed is a world, whatever runs it; what fails is found, made small, and can be run again."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Mapping

import pytest

from ovirt_he_ha.core import guards
from ovirt_he_ha.core.model import LeaseOwner
from ovirt_he_ha.sim import chance, trial
from ovirt_he_ha.sim.faults import KINDS, Fault, schedule
from ovirt_he_ha.sim.main import main
from ovirt_he_ha.sim.progress import left_by_theirs
from ovirt_he_ha.sim.scenario import Scenario, document, load, parse
from ovirt_he_ha.sim.shrink import Shrinker
from ovirt_he_ha.sim.trial import attempt
from ovirt_he_ha.sim.world import ClusterSpec, World

ROOT = Path(__file__).resolve().parent.parent.parent


# --- worlds -----------------------------------------------------------------------------------------------------------


def test_every_seed_is_a_scenario_that_a_folder_can_hold() -> None:
    for seed in range(400):
        scenario = chance.scenario(seed)
        text = json.dumps(document(scenario))
        assert parse(scenario.name, scenario.about, json.loads(text)) == scenario
        assert scenario.faults[-1].kind == "heal" and scenario.faults[-1].at == scenario.length


def test_everything_else_is_over_when_all_is_healed() -> None:
    for seed in range(400):
        scenario = chance.scenario(seed)
        assert all(fault.at + (fault.seconds or 0.0) <= scenario.length + 0.01 for fault in scenario.faults)


def test_worlds_are_of_all_sizes_and_have_faults_of_all_kinds() -> None:
    scenarios = [chance.scenario(seed) for seed in range(2000)]
    kinds = {fault.kind for scenario in scenarios for fault in scenario.faults}
    assert kinds == {*chance.HABITS, "heal"}
    assert len(kinds) >= 25 and sum(1 for kind in kinds if KINDS[kind].area == "storage") >= 10
    sizes = [scenario.cluster.hosts for scenario in scenarios]
    assert 0.8 < sum(2 <= size <= 4 for size in sizes) / len(sizes) < 0.9
    assert any(5 <= size <= 16 for size in sizes) and max(sizes) > 60
    mixed = sum(any(spec.get("upstream") for spec in each.cluster.each.values()) for each in scenarios)
    assert 0.15 < mixed / len(scenarios) < 0.35


# --- determinism ------------------------------------------------------------------------------------------------------


def digests(jobs: int, **environment: str) -> List[str]:
    found = subprocess.run(
        [sys.executable, "-m", "ovirt_he_ha.sim.main", "swarm", "--seeds", "3", "--first-seed", "16", "--digest",
         "--jobs", str(jobs)],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return found.stdout.splitlines()


def test_a_seed_is_the_same_run_whatever_is_around_it_and_however_many_processes_run() -> None:
    one = digests(1, PYTHONHASHSEED="0")
    assert digests(1, PYTHONHASHSEED="4242", LC_ALL="tr_TR.UTF-8", TZ="Asia/Kathmandu") == one
    assert digests(2, PYTHONHASHSEED="random", TZ="America/St_Johns") == one
    assert len({line.split()[2] for line in one if line.startswith("seed ")}) == 3


# --- failures ---------------------------------------------------------------------------------------------------------

# A copy that nobody kills while it is paused, another one meanwhile, and somebody who resumes the first; and much else.
BROKEN = Scenario(
    name="swarm-7",
    about="broken on purpose",
    cluster=ClusterSpec(hosts=4, engine_on=2, io_timeout=10, guest_boot=20.0, each={3: {"jitter": 1.5}}),
    faults=(
        Fault(20.5, "wall-clock", 3, None, {"seconds_each": 3600.0}),
        Fault(40.25, "agent-stop", 3),
        Fault(41.0, "agent-stop", 4),
        Fault(60.75, "vm-pause", 2, None, {"reason": "user"}),
        Fault(61.0, "agent-kill", 2, 100.0),
        Fault(70.0, "cpu-load", 4, 20.0, {"share": 0.8}),
        Fault(90.0, "hand-start", 1),
        Fault(130.0, "vm-crash", 1),
        Fault(130.5, "agent-stop", 1),
        Fault(140.0, "vm-resume", 2),
        Fault(200.0, "heal", "all"),
    ),
    expect=(),
    length=200.0,
    seed=7,
)


@pytest.fixture
def unfenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "fence", lambda sit, d: None)
    monkeypatch.setattr(chance, "scenario", lambda seed: replace(BROKEN, seed=seed))


def test_a_failure_is_made_small(unfenced: None) -> None:
    shrinker = Shrinker(BROKEN, attempt(BROKEN))
    assert shrinker.signature == "resumed"
    small = shrinker.shrink()
    assert attempt(small, complete=True).signature == "resumed"
    assert small.cluster.hosts <= 2 and len(small.faults) <= 5
    assert {"vm-pause", "vm-resume"} <= {fault.kind for fault in small.faults}
    again = Shrinker(BROKEN, attempt(BROKEN))
    assert again.shrink() == small


def test_what_fails_is_printed_and_saved_as_a_scenario_that_fails(
    unfenced: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["swarm", "--seeds", "1", "--first-seed", "7", "--save", str(tmp_path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "FAILED seed 7" and printed[-1] == "1 seeds, 1 failed"
    saved = tmp_path / "swarm-7-resumed"
    assert load(saved).about.startswith("Found by the swarm, seed 7: ")
    assert main(["run", str(saved)]) == 1


THEIRS: Mapping[str, Any] = {"upstream": True}
# A failed release leaves the lease to a living host of upstream's that is not the best one: the better one tries for
# ever, and sanlock refuses it.
LEFT = replace(
    BROKEN,
    cluster=ClusterSpec(hosts=3, engine_on=3, each={1: THEIRS, 3: {**THEIRS, "conditions": {"cpu_load": 0.76}}}),
    faults=(Fault(1.0, "lease-error", "engine", 5.0), Fault(1.5, "vm-crash", 3), Fault(22.0, "heal", "all")),
    length=22.0,
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LATEST", 300.0)


def test_what_upstream_hosts_left_among_themselves_is_not_ours_to_end(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(LEFT).violations == ()
    monkeypatch.setattr(trial, "left_by_theirs", lambda world: False)
    assert attempt(LEFT).signature == "progress"


def test_only_a_lease_of_a_living_upstream_host_without_a_copy_is_left_by_theirs() -> None:
    world = World(LEFT.cluster, 1)
    world.run(10.0)
    assert world.disk.owner.host_id == 3 and world.copies() and not left_by_theirs(world)
    for kind in ("lease-error", "vm-crash"):
        schedule(world, Fault(10.5 if kind == "lease-error" else 11.0, kind, 3, None))
    world.run(12.0)
    assert world.disk.owner.host_id == 3 and not world.copies() and left_by_theirs(world)
    for owner in (0, 2):
        world.disk.set_owner(LeaseOwner(owner, 1, 1, 1))
        assert not left_by_theirs(world)
    world.disk.set_owner(LeaseOwner(3, 1, 1, 1))
    schedule(world, Fault(12.5, "host-off", 3, None))
    world.run(13.0)
    assert not left_by_theirs(world)


def test_a_smaller_world_keeps_a_host_of_ours(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "left_by_theirs", lambda world: False)
    small = Shrinker(LEFT, attempt(LEFT)).shrink()
    theirs = [number for number, spec in small.cluster.each.items() if spec.get("upstream")]
    assert len(theirs) < small.cluster.hosts and attempt(small, complete=True).signature == "progress"


def test_without_the_break_it_is_clean(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(chance, "scenario", lambda seed: replace(BROKEN, seed=seed))
    assert main(["swarm", "--seeds", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 seeds, 0 failed"


@pytest.mark.parametrize(
    "arguments",
    [["--seeds", "0"], ["--seeds", "1", "--first-seed", "-1"], ["--seeds", "1", "--jobs", "0"]],
)
def test_bad_numbers_cost_one_line_and_exit_status_2(arguments: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["swarm", *arguments])
    assert end.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_a_place_that_cannot_be_written_costs_one_line(
    unfenced: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["--seeds", "1", "--first-seed", "7", "--no-shrink"]
    assert main(["swarm", *arguments, "--save", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
