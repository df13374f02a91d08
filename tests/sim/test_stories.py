"""The named scenarios as a whole: how many, each one told, every rule and difference shown, and what of the policy is
seen in none of them."""

import re
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from ovirt_he_ha.core import reasons
from ovirt_he_ha.core.model import Action, ActionKind, State
from ovirt_he_ha.sim.coverage import TRANSITIONS, UNIVERSE, UNSHOWN, Coverage
from ovirt_he_ha.sim.main import main
from ovirt_he_ha.sim.scenario import FILE, README, load

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "tests" / "scenarios"
TABLE = ROOT / "docs" / "scenarios.md"
NAMES = sorted(path.name for path in FOLDER.iterdir())
ROW = re.compile(r"^\| ([A-Z0-9.-]+) \| .* \| (.*) \|$")


def rows() -> Dict[str, List[str]]:
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        row = ROW.match(line)
        if row is not None:
            found[row.group(1)] = re.findall(r"`([a-z0-9-]+)`", row.group(2))
    return found


def test_there_are_enough_of_them() -> None:
    assert len(NAMES) >= 120
    assert sum(1 for name in NAMES if name.startswith("mixed-")) >= 30


@pytest.mark.parametrize("name", NAMES)
def test_each_is_valid_and_told_and_expects_something(name: str) -> None:
    assert sorted(path.name for path in (FOLDER / name).iterdir()) == sorted((README, FILE))
    assert re.fullmatch(r"[a-z0-9-]+", name)
    scenario = load(FOLDER / name)
    assert len(scenario.about) >= 30
    assert scenario.expect, "nothing is expected"
    assert all(fault.at < scenario.length for fault in scenario.faults)


def test_no_story_is_told_twice() -> None:
    told: Dict[str, str] = {}
    for name in NAMES:
        about = load(FOLDER / name).about
        assert about not in told, f"{name} and {told.get(about)}"
        told[about] = name


def test_no_world_is_simulated_twice() -> None:
    seen: Dict[Tuple[object, ...], str] = {}
    for name in NAMES:
        scenario = load(FOLDER / name)
        world = (repr(scenario.cluster), repr(scenario.faults), scenario.seed, repr(scenario.expect))
        assert world not in seen, f"{name} and {seen.get(world)}"
        seen[world] = name


def test_every_rule_and_every_difference_is_shown_by_a_scenario_that_exists() -> None:
    table = rows()
    wanted = [f"S{number}" for number in range(1, 14)] + [f"D{number}" for number in range(1, 18)]
    assert [key for key in wanted if not table.get(key)] == []
    assert {name for names in table.values() for name in names} - set(NAMES) == set()


# --- coverage ---------------------------------------------------------------------------------------------------------


def test_what_is_said_to_be_unshowable_is_in_the_tables() -> None:
    everything = {f"{what} {item}" for what, items in UNIVERSE.items() for item in items}
    assert set(UNSHOWN) <= everything
    assert all(UNSHOWN.values())
    assert {before for before, _ in TRANSITIONS} | {State.AGENT_STOPPED} == set(State)


def test_one_run_is_noted_link_by_link() -> None:
    coverage = Coverage()
    result = coverage.run(load(FOLDER / "vm-crash"))
    assert result.passed
    assert coverage.seen["transition", "EngineDown -> EngineStart"] == 1  # within one step: nobody saw EngineDown
    assert coverage.seen["action", "start: ok"] == 1
    assert coverage.seen["reason", "crash-restart"] >= 1
    assert ("fault", "vm-crash") in coverage.seen
    assert coverage.surplus() == ()
    assert ("state", "EngineForceStop") in coverage.missing()


def test_the_command_says_what_was_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--coverage", str(FOLDER / "vm-crash")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 0 failed"
    assert f"state: 6 of {len(State)}" in lines
    assert "         0 EngineForceStop  NOT SEEN" in lines


def test_the_tables_are_the_codes_own() -> None:
    assert set(UNIVERSE["reason"]) == set(reasons.REASONS)
    assert "fence-stuck" in UNIVERSE["problem"] and "no-target" in UNIVERSE["problem"]
    assert f"{Action(ActionKind.MIGRATE).kind.value}: ok" in UNIVERSE["action"]


def test_stories_that_show_less_than_they_did_fail_the_run_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vm-crash").symlink_to(FOLDER / "vm-crash")
    monkeypatch.setattr("ovirt_he_ha.sim.main.SCENARIOS", tmp_path)
    assert main(["run", "--all"]) == 0
    assert main(["run", "--all", "--coverage"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 0 failed"
    assert "NOT COVERED: no scenario shows state EngineForceStop" in lines
    monkeypatch.setattr(Coverage, "missing", lambda coverage: ())
    assert main(["run", "--all", "--coverage"]) == 0
    monkeypatch.setattr(Coverage, "surplus", lambda coverage: (("state", "Elsewhere"),))
    assert main(["run", "--all", "--coverage"]) == 1
    assert "NOT COVERED: state Elsewhere is shown, and not in the tables" in capsys.readouterr().out
