"""The agents of a simulated cluster record, and what they recorded is decided again to the last bit."""

from pathlib import Path
from typing import Dict, List

import pytest

from ovirt_he_ha.config.recordings import load
from ovirt_he_ha.core.model import ActionKind
from ovirt_he_ha.core.recording import RecordedCycle
from ovirt_he_ha.sim import main, replay
from ovirt_he_ha.sim.faults import Fault, schedule
from ovirt_he_ha.sim.recordings import record
from ovirt_he_ha.sim.run import laboratory
from ovirt_he_ha.sim.world import ClusterSpec, World

SCENARIO = Path(__file__).parent.parent / "scenarios"


def run(directory: Path, seed: int, warm: bool = True, faults: int = 1, length: float = 400.0) -> World:
    with laboratory():
        world = World(ClusterSpec(warm=warm), seed)
        record(world, directory)
        if faults:
            schedule(world, Fault(60.0, "host-off", "engine"))
            schedule(world, Fault(90.0, "agent-kill", 2))
        world.run(length)
    assert world.crash is None
    return world


def cycles(directory: Path) -> List[RecordedCycle]:
    found = [item for _, item in load(directory)]
    assert all(isinstance(item, RecordedCycle) for item in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("warm", [True, False])
def test_what_a_simulated_host_recorded_is_decided_again_to_the_last_bit(tmp_path: Path, seed: int, warm: bool) -> None:
    world = run(tmp_path, seed, warm)
    recorded = {host: cycles(tmp_path / host) for host in ("host1", "host2", "host3")}
    assert sum(map(len, recorded.values())) == world.decisions
    for host in recorded:
        assert replay.main([str(tmp_path / host)]) == replay.EXIT_SAME
    orders = {cycle.decision.action.kind for each in recorded.values() for cycle in each if cycle.decision.action}
    assert ActionKind.START in orders
    assert all(cycle.raw.keys() == cycle.snapshot.slots.keys() for each in recorded.values() for cycle in each)


def test_each_life_of_an_agent_has_a_segment_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, 1)
    assert len(list((tmp_path / "host2").iterdir())) == 2


def test_the_same_seed_makes_the_same_recording_byte_for_byte(tmp_path: Path) -> None:
    def files(directory: Path) -> Dict[str, bytes]:
        return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.rec")}

    worlds = [run(tmp_path / name, 3) for name in ("one", "two")]
    assert worlds[0].decisions == worlds[1].decisions
    assert len(files(tmp_path / "one")) >= 3
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_he_sim_records_a_scenario_and_replays_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = sorted(path.parent for path in SCENARIO.glob("*/scenario.json"))[0]
    assert main.main(["run", "--record", str(tmp_path), str(scenario)]) == main.EXIT_OK
    hosts = sorted((tmp_path / scenario.name).iterdir())
    assert hosts
    for host in hosts:
        capsys.readouterr()
        assert main.main(["replay", str(host)]) == replay.EXIT_SAME
        assert capsys.readouterr().out.endswith(" cycles, 0 differences\n")
    assert main.main(["replay", str(tmp_path / "none")]) == main.EXIT_INPUT
