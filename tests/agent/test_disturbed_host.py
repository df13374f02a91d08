"""A host whose disk is full or read-only and whose clocks jump: a named state, a bounded cost, and the VM untouched."""

import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List

import pytest

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.guard import host_sleep
from ovirt_he_ha.agent.state_file import StateFile
from ovirt_he_ha.agent.state_writer import StateWriter
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    ActionKind,
    Carried,
    Decision,
    EngineFacts,
    Health,
    LeaseOwner,
    Outcome,
    Reading,
    Reason,
    Snapshot,
    State,
)
from ovirt_he_ha.core.states import decide
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.lab.layout import Lab
from tests.agent.test_cycle import Parts
from tests.agent.test_definition_source import Bench as DefinitionBench
from tests.agent.test_guard import Bench as GuardBench
from tests.config.own_mounts import SmallDisk, with_small_disk
from tests.core.world import UP, World, codes, extra
from tests.own_time import OwnTime

# --- the disk -----------------------------------------------------------------------------------------------------


class Host(Parts):
    """A cycle whose budgets go to a real file."""

    def __init__(self, world: Any, path: Path) -> None:
        super().__init__(world)
        self.writer = StateWriter(StateFile(path, "boot"))
        self.cycle = Cycle(self, self, self, self, self._keep, Timers(), world.carried)  # type: ignore[arg-type]

    def _keep(self, carried: Carried) -> None:
        self.writer.save(carried.budgets)

    def collect(self, carried: Carried, stopping: bool = False) -> Snapshot:
        return replace(super().collect(carried, stopping), state_problem=self.writer.problem)


@pytest.mark.parametrize("how, word", [("full", "full"), ("read-only", "read-only")])
def test_a_state_directory_that_takes_nothing_is_named_and_holds_nothing_up(
    tmp_path: Path, how: str, word: str
) -> None:
    def story(disk: SmallDisk) -> None:
        world = World(state=State.ENGINE_UP).runs()
        host = Host(world, disk.path / "agent-state.json")
        disk.fill() if how == "full" else disk.read_only()
        took = OwnTime()
        decisions: List[Decision] = []
        for _ in range(5):
            world.now += 10.0
            world.runs(bad_for=None)
            world.budget(moves=(world.now,))
            host.cycle.carried = replace(host.cycle.carried, budgets=world.carried.budgets)
            decisions.append(host.cycle.run_one_cycle())
        assert took.seconds < 2.5
        assert all((each.state, each.action, each.fence) == (State.ENGINE_UP, None, None) for each in decisions)
        assert "state-file" in codes(decisions[-1])
        assert Reason("state-file", {"problem": word}) in decisions[-1].reasons
        assert "state-file" in extra(decisions[-1])["problem"]
        disk.read_only(False)
        disk.empty()
        world.now += 10.0
        world.budget(moves=(world.now,))
        host.cycle.carried = replace(host.cycle.carried, budgets=world.carried.budgets)
        host.cycle.run_one_cycle()
        assert "state-file" not in codes(host.cycle.run_one_cycle())
        assert StateFile(disk.path / "agent-state.json", "boot").load(world.now).moves == (world.now,)

    with_small_disk(tmp_path, story)


def test_a_full_disk_forbids_no_start_and_the_failures_still_count(tmp_path: Path) -> None:
    def story(disk: SmallDisk) -> None:
        disk.fill()
        world = World()
        host = Host(world, disk.path / "agent-state.json")
        host.cycle.run_one_cycle()
        assert host.ordered() == [ActionKind.START]
        assert host.report is not None
        host.report = replace(host.report, outcome=Outcome.FAILED, finished_at=world.now)
        world.now += 1.0
        decision = host.cycle.run_one_cycle()
        assert "start-backoff" in codes(decision)
        assert host.ordered() == [ActionKind.START]

    with_small_disk(tmp_path, story)


def test_what_was_saved_before_the_disk_became_read_only_is_read(tmp_path: Path) -> None:
    def story(disk: SmallDisk) -> None:
        path = disk.path / "agent-state.json"
        budgets = World().carried.budgets
        StateFile(path, "boot").save(replace(budgets, start_failures=2))
        disk.read_only()
        assert StateFile(path, "boot").load(10_000.0).start_failures == 2

    with_small_disk(tmp_path, story)


def test_without_room_for_vm_conf_the_vm_can_be_started_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lab = Lab(str(tmp_path / "lab"), 1, 1.0, "10.77.0.0/24", "10.77.1.0/24", "python3", "")

    def story(disk: SmallDisk) -> None:
        disk.fill()
        source = DefinitionBench(disk.path, lab).source()
        source.refresh()
        assert source.current.problem == ""
        assert source.definition().xml
        assert [each.name for each in disk.path.iterdir()] == ["ballast"]

    with_small_disk(tmp_path / "run", story)


# --- the wall clock -----------------------------------------------------------------------------------------------


def told(world: Any, wall: Callable[[], float]) -> List[Decision]:
    """The decisions of a course of events: start, health, illness, hang, crash, a lost race, maintenance."""
    found: List[Decision] = []
    snapshot = world.snapshot
    world.snapshot = lambda: replace(snapshot(), wall_offset=wall())

    def step(after: float, times: int = 1) -> None:
        for _ in range(times):
            found.append(world.step(after))

    step(0.0)
    world.report = replace(world.report, outcome=Outcome.OK, finished_at=world.now)
    step(1.0)
    world.runs()
    step(10.0, 40)
    world.facts = replace(world.facts, status=replace(UP, health=Health.BAD), bad_for=0.0, uptime=1000.0)
    step(10.0, 40)
    world.report = None
    world.gone()
    step(5.0, 10)
    world.local()
    step(10.0, 5)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_no_decision_depends_on_the_wall_clock(seed: int) -> None:
    chance = random.Random(seed)
    jumping = told(World(), lambda: chance.choice([-1e9, 0.0, 1.6e9, 4e9, 1e11]) + chance.random() * 1e6)
    steady = told(World(), lambda: 1.6e9)
    assert jumping == steady
    assert {each.action.kind for each in steady if each.action} >= {ActionKind.START, ActionKind.STOP}


@pytest.mark.parametrize("wall", [-1e15, -1e9, 0.0, 1e9, 1e11, 1e15])
def test_whatever_the_wall_clock_says_the_slot_is_written_and_read(wall: float) -> None:
    record = World(state=State.ENGINE_UP).runs().step().record
    assert record is not None
    found = slot.decode(1, slot.encode(record, wall))
    assert (found.score, found.timestamp, found.extra_ok) == (record.score, record.timestamp, True)  # type: ignore[union-attr]


def test_the_wall_clock_is_read_for_people_only() -> None:
    """By the clock, for the readable lines of a slot; by the server, for the date in an answer's head; by the
    history, for what its reader calls an hour ago; by the console, for the moment until which QEMU takes a password; by
    the description of a living cluster, for when it was taken; by what is known of a storage domain, since when."""
    package = Path(slot.__file__).parents[1]
    product = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in ("lab", "sim")]
    readers = {
        path.name for path in product if re.search(r"\btime\.time\(|\bdatetime\.(now|utcnow|today)\(", path.read_text())
    }
    assert readers <= {"clock.py", "rpc.py", "history.py", "console.py", "live_cluster.py", "identity.py"}


def test_the_sleep_of_the_host_is_not_measured_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = host_sleep()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert host_sleep() == pytest.approx(before, abs=0.05)


# --- the clocks that count ----------------------------------------------------------------------------------------


def test_s12_two_clocks_that_drift_apart_are_no_sleep() -> None:
    bench = GuardBench()
    bench.run(10)
    for _ in range(600):
        bench.asleep += 0.1
        assert bench.run(1) == "guarded"
    assert not bench.killed


@pytest.mark.parametrize("slept, killed", [(19.0, False), (21.0, True)])
def test_s12_a_jump_of_two_io_timeouts_between_the_clocks_kills(slept: float, killed: bool) -> None:
    bench = GuardBench()
    bench.run(10)
    bench.asleep += slept
    bench.run(3)
    assert bench.killed is killed


def frozen(world: Any, seconds: float) -> Any:
    """This host stood still: nobody read or measured anything for so long."""
    world.now += seconds
    world.slots_age = world.hosts_age = seconds
    world.owner = replace(world.owner, age=seconds)
    world.lockspace = replace(world.lockspace, age=seconds)
    world.whiteboard = replace(world.whiteboard, age=seconds)
    world.engine = Reading.of(world.facts, seconds)
    return world


@pytest.mark.parametrize("seconds", [60.0, 1000.0, 1e6])
def test_after_a_standstill_nothing_is_done_on_what_was_known_before(seconds: float) -> None:
    for world in (World(), World(state=State.ENGINE_UP).runs(), World(state=State.ENGINE_STARTING, own_start_at=1.0)):
        decision = frozen(world, seconds).step()
        assert (decision.action, decision.fence) == (None, None)
        assert decision.state is State.UNKNOWN_LOCAL_VM
        assert decision.record is None  # the id may be another host's by now


def test_after_a_standstill_the_vm_that_runs_elsewhere_by_now_is_seen() -> None:
    world = frozen(World(), 1000.0)
    world.step()
    world.slots_age = world.hosts_age = 0.0
    world.edit(2, engine=UP)
    world.owner = Reading.of(LeaseOwner(2, 1))
    world.lockspace = world.whiteboard = Reading.of(world.lockspace.value)
    world.engine = Reading.of(EngineFacts(world.facts.status))
    for _ in range(20):
        decision = world.step(2.0)
        assert decision.action is None
    assert 2 in decision.alive


def test_a_clock_that_goes_back_decides_nothing_wrong() -> None:
    """It cannot; a snapshot that was made later and looked at first can look like it."""
    world = World(state=State.ENGINE_UP).runs()
    world.step(10.0)
    world.now -= 100.0
    decision = decide(world.snapshot(), Timers())
    assert (decision.action, decision.fence, decision.state) == (None, None, State.ENGINE_UP)
