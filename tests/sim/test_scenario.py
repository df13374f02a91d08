"""The format: what is written is read again, and what is malformed is named in one line."""

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from ovirt_he_ha.sim.faults import KINDS
from ovirt_he_ha.sim.main import main
from ovirt_he_ha.sim.scenario import FILE, README, ScenarioError, document, load, parse

GOOD: Dict[str, Any] = {
    "length": 60,
    "cluster": {"hosts": 2, "each": {"2": {"start": 3, "watchdog": True}}},
    "faults": [{"at": 10, "kind": "bit-rot", "host": 2, "with": {"bits": 5}}, {"at": 5, "kind": "host-off", "for": 9}],
    "expect": [{"what": "healthy", "at": 50}],
}


def changed(**changes: Any) -> Dict[str, Any]:
    return {**GOOD, **changes}


def test_a_scenario_is_read_and_written_again() -> None:
    scenario = parse("name", "about", GOOD)
    assert parse("name", "about", json.loads(json.dumps(document(scenario)))) == scenario
    assert scenario.cluster.each[2] == {"start": 3.0, "watchdog": True}
    assert scenario.faults[0].parameters == {"bits": 5.0}


@pytest.mark.parametrize(
    "bad, place",
    [
        ([], "the file"),
        (changed(lenght=3), "lenght"),
        (changed(length="long"), "length"),
        (changed(length=True), "length"),
        (changed(seed=-1), "seed"),
        (changed(cluster={"hosts": 251}), "cluster.hosts"),
        (changed(cluster={"engine_on": 4}), "cluster.engine_on"),
        (changed(cluster={"each": {"9": {}}}), "cluster.each.9"),
        (changed(cluster={"hosts": 2, "each": {"2": {"rate": 2}}}), "cluster.each.2.rate"),
        (changed(faults=[{"at": 1, "kind": "nothing"}]), "faults[0].kind"),
        (changed(faults=[{"at": 1, "kind": "vm-crash", "for": 3}]), "faults[0].for"),
        (changed(faults=[{"at": 1, "kind": "vm-crash", "host": 3}]), "faults[0].host"),
        (changed(faults=[{"at": 1, "kind": "vm-crash", "host": "any"}]), "faults[0].host"),
        (changed(faults=[{"kind": "vm-crash"}]), "faults[0].at"),
        (changed(faults=[{"at": 1, "kind": "bit-rot", "with": {"bits": 0}}]), "faults[0].with.bits"),
        (changed(faults=[{"at": 1, "kind": "bit-rot", "with": {"bytes": 1}}]), "faults[0].with.bytes"),
        (changed(faults={}), "faults"),
        (changed(expect=[{"what": "luck"}]), "expect[0].what"),
        (changed(expect=[{"what": "healthy"}]), "expect[0].at"),
        (changed(expect=[{"what": "healthy", "at": 1, "on": 3}]), "expect[0].on"),
        (changed(expect=[{"what": "back", "after": 1}]), "expect[0]"),
        (changed(expect=[{"what": "state", "host": 1, "state": "Up"}]), "expect[0].state"),
        (changed(expect=[{"what": "reason", "host": 1, "reason": "bad-mood"}]), "expect[0].reason"),
        (changed(expect=[{"what": "explains", "host": 1, "reason": "unfenced"}]), "expect[0].at"),
        (changed(expect=[{"what": "runs", "at_most": "1"}]), "expect[0].at_most"),
        (changed(cluster={"hosts": "three"}), "cluster.hosts"),
        (changed(cluster={"each": {"1": {"conditions": {"network": "all"}}}}), "cluster.each.1.conditions.network"),
        (changed(cluster={"each": {"1": {"conditions": {"unknown": ["cpu"]}}}}), "cluster.each.1.conditions.unknown"),
        (changed(cluster={"each": {"1": {"conditions": {"mood": 1}}}}), "cluster.each.1.conditions.mood"),
        (changed(progress=1), "progress"),
    ],
)
def test_what_is_malformed_is_named(bad: Any, place: str) -> None:
    with pytest.raises(ScenarioError) as error:
        parse("name", "about", bad, "a/scenario.json")
    assert str(error.value).startswith(f"a/scenario.json: {place}: expected ")
    assert "\n" not in str(error.value)


def folder(tmp_path: Path, name: str, text: str, readme: str = "A story.") -> Path:
    made = tmp_path / name
    made.mkdir()
    (made / README).write_text(readme)
    (made / FILE).write_text(text)
    return made


def test_a_folder_without_readme_or_with_broken_json_is_named(tmp_path: Path) -> None:
    for name, text, readme in (("a", json.dumps(GOOD), " "), ("b", "{", "x")):
        with pytest.raises(ScenarioError):
            load(folder(tmp_path, name, text, readme))
    with pytest.raises(ScenarioError):
        load(tmp_path / "missing")


def test_the_command_counts_and_its_exit_status_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = folder(tmp_path, "good", json.dumps(changed(faults=[])))
    assert main(["run", str(good)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"
    failing = folder(tmp_path, "failing", json.dumps(changed(faults=[], expect=[{"what": "away", "at": 50}])))
    assert main(["run", str(good), str(failing)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 1 failed"
    assert main(["run", str(tmp_path)]) == 1


def test_malformed_input_is_one_line_and_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = folder(tmp_path, "bad", json.dumps(changed(length=0)))
    for arguments in (["run", str(bad)], ["run"], ["run", str(tmp_path / "missing")]):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    mute = folder(tmp_path, "mute", json.dumps(GOOD))
    (mute / README).unlink()
    words = folder(tmp_path, "words", '{"length": 6')
    strange = folder(tmp_path, "strange", json.dumps(changed(mood="good")))
    for each, told in ((mute, f"{mute / README}: the file: "), (words, f"{words / FILE}: "), (strange, ": mood: ")):
        assert main(["run", str(each)]) == 2
        line = capsys.readouterr().err
        assert told in line and "expected" in line and line.count("\n") == 1
    with pytest.raises(SystemExit) as error:
        main(["run", "--seed", "x", str(bad)])
    assert error.value.code == 2


def test_the_trace_tells_the_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crash = {**GOOD, "faults": [{"at": 20, "kind": "vm-crash", "host": "engine"}], "expect": []}
    assert main(["run", "--trace", str(folder(tmp_path, "crash", json.dumps(crash)))]) == 0
    assert "fault: vm-crash" in capsys.readouterr().out


def test_there_are_enough_kinds_of_faults_and_each_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(KINDS) >= 25
    assert sum(1 for kind in KINDS.values() if kind.area == "storage") >= 10
    assert all(kind.meaning for kind in KINDS.values())
    assert main(["faults"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(KINDS)
