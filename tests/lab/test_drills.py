"""What a drill concludes from what the observer wrote."""

import json
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

from ovirt_he_ha.core.model import SLOT_SIZE
from ovirt_he_ha.lab import state
from ovirt_he_ha.lab.drills import DRILLS
from ovirt_he_ha.lab.drills.drill import Drill, follow_return
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import NotWhole, Stage
from ovirt_he_ha.lab.judge import Copy
from ovirt_he_ha.lab.layout import Lab, LabError
from ovirt_he_ha.lab.main import main

OLD = {"pid": 7, "started": 70, "host": 2}
NEW = {"pid": 8, "started": 80, "host": 3}
Write = Callable[..., None]


@pytest.fixture
def ground(tmp_path: Path) -> Tuple[Lab, Write]:
    lab = Lab(str(tmp_path), 3, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")
    path = lab.volume_path(lab.identity.metadata)
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(16 * SLOT_SIZE))
    lab.observations.touch()

    def write(kind: str, at: float, **values: Any) -> None:
        with open(lab.observations, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"kind": kind, "at": at, **values}) + "\n")

    return lab, write


def test_the_drills_asked_for_are_there() -> None:
    assert list(DRILLS) == [
        *("vm-crash", "agent-kill", "broker-kill", "libvirtd-kill", "host-loss", "cold-start"),
        *("migration", "clean-agent-stop", "two-brokers", "hand-start", "hand-start-no-lease"),
        *("paused-vm", "hung-engine", "health-only-hang", "sanlock-kill", "sanlock-restart", "watchdog-missing"),
        *("network-loss", "network-loss-all", "migration-cut", "storage-hang", "storage-error", "storage-slow"),
        *("double-fault", "libvirtd-kill-during-start"),
    ]
    assert all(name == drill.name for name, drill in DRILLS.items())
    assert all(drill.about and drill.limit.clock in ("wall", "product") for drill in DRILLS.values())


def test_the_vm_comes_back(ground: Tuple[Lab, Write]) -> None:
    lab, write = ground
    write("ran", 99.0, **OLD, first=[97.0, 97.1], last=[98.9, 99.0])
    stage = Stage(lab)
    write("gone", 100.1, **OLD)
    write("seen", 101.0, **NEW)
    write("ran", 101.6, **NEW, first=[101.5, 101.6], last=[101.5, 101.6])
    write("health", 104.0, ok=True, since=100.0)
    course = follow_return(stage, 100.0, 5.0, 162.0)
    assert (course.recovered, course.bound, course.more) == (True, 162.0, {"host": 3})
    assert (course.appeared_at, course.started_at, course.ended_at) == (101.0, 101.6, 104.0)
    assert course.detected_at == 101.6


def test_a_copy_that_ended_while_nobody_looked_is_no_new_one(ground: Tuple[Lab, Write]) -> None:
    """A drill may do other things between the fault and the wait for the return."""
    lab, write = ground
    write("ran", 99.0, **OLD, first=[97.0, 97.1], last=[98.9, 99.0])
    stage = Stage(lab)
    write("ran", 100.3, **OLD, first=[100.0, 100.1], last=[100.2, 100.3])
    write("gone", 100.4, **OLD)
    stage.witness.read()
    assert stage.world.running == {}
    write("health", 100.5, ok=True, since=99.0)
    assert not follow_return(stage, 99.5, 0.2, None).recovered


def test_a_page_of_the_old_copy_is_no_recovery(ground: Tuple[Lab, Write]) -> None:
    """The last answer of the dying copy may come after the fault."""
    lab, write = ground
    write("seen", 90.0, **OLD)
    stage = Stage(lab)
    write("ran", 100.2, **OLD, first=[100.0, 100.1], last=[100.1, 100.2])
    write("health", 100.3, ok=True, since=99.0)
    course = follow_return(stage, 100.0, 0.2, None)
    assert not course.recovered
    assert course.started_at is None
    assert course.ended_at > course.fault_at
    assert course.problem


def test_a_cluster_that_is_not_whole_says_why(ground: Tuple[Lab, Write]) -> None:
    lab, write = ground
    stage = Stage(lab)
    now = time.monotonic()

    def problem() -> str:
        stage.witness.read()
        return stage.problem(now)

    assert "health page" in problem()
    write("health", 1.0, ok=True, since=None)
    assert problem().startswith("0 copies")
    with pytest.raises(NotWhole):
        stage.engine()
    write("seen", 2.0, **OLD)
    assert "nobody" in problem()
    write("lease", 3.0, owner=2, generation=1, since=None)
    assert problem() == "h1 publishes nothing"
    assert stage.engine() == Copy(2, 7, 70)
    write("seen", 4.0, **NEW)
    assert problem().startswith("2 copies")


def test_a_drill_that_does_not_become_whole_again_has_failed(
    ground: Tuple[Lab, Write], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(ground[0])
    calls = iter([0.0])

    def await_whole(*_: Any) -> float:
        for value in calls:
            return value
        raise NotWhole("h2 publishes nothing", 120)

    class Nothing(Drill):
        name = "nothing"
        limit = Limit(1000.0, "wall")
        restored = False

        def run(self, stage: Stage) -> Course:
            return Course(time.monotonic(), time.monotonic(), True)

        def restore(self, stage: Stage) -> None:
            self.restored = True

    monkeypatch.setattr(stage, "await_whole", await_whole)
    monkeypatch.setattr("ovirt_he_ha.lab.drills.drill.AFTER", 0.0)
    drill = Nothing()
    report = drill.hold(stage)
    assert drill.restored
    assert not report.passed
    assert "h2 publishes nothing" in report.course.problem


def test_a_copy_beside_a_record_that_nobody_touched_ran_without_its_lease(
    ground: Tuple[Lab, Write], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lost host's record was written long before the drill, and stands after it as it stood before."""
    lab, write = ground
    now = time.monotonic()
    write("lease", now - 500.0, owner=2, generation=1, since=None)
    stage = Stage(lab)

    class Lost(Drill):
        name = "lost"
        limit = Limit(1000.0, "wall")

        def run(self, stage: Stage) -> Course:
            write("ran", now + 2.0, **NEW, first=[now + 0.9, now + 1.0], last=[now + 2.0, now + 2.1])
            stage.witness.read()
            return Course(now, now + 2.0, True)

    monkeypatch.setattr(stage, "await_whole", lambda *_: 0.0)
    monkeypatch.setattr("ovirt_he_ha.lab.drills.drill.AFTER", 0.0)
    report = Lost().hold(stage)
    assert report.judgement.unleased == pytest.approx(1.0, abs=0.01)
    assert not report.passed


@pytest.mark.parametrize("announced, comes", [([120.0], True), ([1320.0, 1320.0, 120.0], True), ([None], False)])
def test_a_drill_waits_until_the_host_may_do_it_again(
    ground: Tuple[Lab, Write], monkeypatch: pytest.MonkeyPatch, announced: Any, comes: bool
) -> None:
    lab, _ = ground
    stage, left = Stage(lab), list(announced)
    monkeypatch.setattr(Stage, "engine_host", lambda _: lab.host(2))
    monkeypatch.setattr(stage, "await_whole", lambda: 0.0)
    monkeypatch.setattr("ovirt_he_ha.lab.drills.drill.AFTER", 0.0)
    monkeypatch.setattr("ovirt_he_ha.lab.drills.drill.HOUR", 20.0)

    def promise(fault: str, hosts: Any) -> Any:
        assert (fault, hosts) == ("hung-engine", [2])
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(stage.board, "promise", promise)

    class Budgeted(Drill):
        name, bound, limit, budgeted = "budgeted", "hung-engine", Limit(120.0), True
        runs = 0

        def run(self, stage: Stage) -> Course:
            self.runs += 1
            return Course(time.monotonic(), time.monotonic(), True)

    drill = Budgeted()
    if comes:
        assert drill.hold(stage).passed and left == [120.0]
    else:
        with pytest.raises(LabError):
            drill.hold(stage)
    assert drill.runs == int(comes)


def test_one_drill_at_a_time(ground: Tuple[Lab, Write]) -> None:
    lab, _ = ground
    state.save_plan(lab)
    with state.drilling(lab.directory), pytest.raises(state.DrillRuns), state.drilling(lab.directory):
        raise AssertionError("entered twice")


def test_a_drill_does_not_wait_for_a_host_that_is_off(
    ground: Tuple[Lab, Write], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, _ = ground
    state.save_plan(lab)
    monkeypatch.setattr(state, "running_lab", lambda _: lab)
    monkeypatch.setattr(Stage, "powered", lambda _: [1, 3])
    assert main(["drill", "vm-crash"]) == 1
    assert "h2 is powered off" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["drill", "nonsense"], ["nonsense"], ["kill", "vm"], ["drill", "all", "--times", "x"], []]
)
def test_a_wrong_word_is_one_line(words: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr()
    assert (ended.value.code, told.out, told.err.count("\n")) == (2, "", 1) and "he-lab" in told.err
