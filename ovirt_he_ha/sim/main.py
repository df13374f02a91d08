"""he-sim: the simulated cluster's command line."""

import argparse
import sys
import time
from pathlib import Path
from typing import List, Optional

from ovirt_he_ha import __version__
from ovirt_he_ha.sim import replay, swarm, what_if_command
from ovirt_he_ha.sim.clock import stamp
from ovirt_he_ha.sim.coverage import Coverage
from ovirt_he_ha.sim.faults import KINDS
from ovirt_he_ha.sim.recordings import recording_to
from ovirt_he_ha.sim.run import Result, run
from ovirt_he_ha.sim.scenario import FILE, ScenarioError, load

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INPUT = 2
SCENARIOS = Path("tests/scenarios")
WHAT_IF = "what-if"


def main(argv: Optional[List[str]] = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == [WHAT_IF]:
            return what_if_command.main(words[1:])
        arguments = _parse(words)
        return int(arguments.command(arguments))
    except ScenarioError as problem:
        sys.stderr.write(f"he-sim: {problem}\n")
        return EXIT_INPUT
    except BrokenPipeError:
        return EXIT_FAILED


def _parse(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="he-sim", description="Runs the product's own code in a simulated cluster that can fail in every way."
    )
    parser.add_argument("--version", action="version", version=f"he-sim {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    runs = commands.add_parser("run", help="run scenarios; exits with 1 if one fails, with 2 for one that is malformed")
    runs.add_argument("paths", metavar="PATH", nargs="*", help="a scenario's folder, or a folder of such folders")
    runs.add_argument("--all", action="store_true", help=f"every scenario of {SCENARIOS}")
    runs.add_argument("--seed", type=_seed, help="instead of the scenario's own")
    runs.add_argument("--trace", action="store_true", help="print what happened, second by second")
    runs.add_argument("--coverage", action="store_true", help="print what of the policy was seen, and what was not")
    runs.add_argument("--record", metavar="DIR", type=Path, help="what each agent saw and decided, for he-sim replay")
    runs.set_defaults(command=_run)
    replays = commands.add_parser("replay", help=replay.ABOUT)
    replay.add_arguments(replays)
    replays.set_defaults(command=replay.run)
    swarms = commands.add_parser("swarm", help=swarm.ABOUT)
    swarm.add_arguments(swarms)
    swarms.set_defaults(command=swarm.run)
    commands.add_parser(WHAT_IF, help=what_if_command.ABOUT)  # its words are those of hosted-engine --simulate
    faults = commands.add_parser("faults", help="list the kinds of faults")
    faults.set_defaults(command=_faults)
    return parser.parse_args(argv)


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= 1 << 62:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return seed


def folders(paths: List[str], everything: bool) -> List[Path]:
    """The scenarios' folders. Raises ScenarioError for a path without any."""
    asked = [Path(path) for path in paths] + ([SCENARIOS] if everything else [])
    if not asked:
        raise ScenarioError("he-sim run", "PATH", "a scenario's folder, or --all", None)
    found: List[Path] = []
    for path in asked:
        inside = [path] if (path / FILE).exists() else sorted(each.parent for each in path.glob(f"*/{FILE}"))
        if not inside:
            raise ScenarioError(path, "the folder", f"{FILE}, or folders that hold one", None)
        found += inside
    return list(dict.fromkeys(found))


def _run(arguments: argparse.Namespace) -> int:
    scenarios = [load(folder) for folder in folders(arguments.paths, arguments.all)]
    began, virtual, failed = time.perf_counter(), 0.0, 0
    covered = Coverage() if arguments.coverage else None
    for scenario in scenarios:
        record = recording_to(arguments.record, scenario.name)
        result = (
            run(scenario, arguments.seed, record) if covered is None else covered.run(scenario, arguments.seed, record)
        )
        virtual += result.world.now
        failed += not result.passed
        report(result, arguments.trace)
    wall = time.perf_counter() - began
    sys.stderr.write(f"{virtual:.0f} virtual seconds in {wall:.1f} s: {virtual / max(wall, 1e-9):.0f} per second\n")
    if covered is not None:
        print("\n".join(covered.lines()))
    print(f"{len(scenarios) - failed} passed, {failed} failed")
    return EXIT_FAILED if failed else EXIT_OK


def report(result: Result, trace: bool) -> None:
    """One line for each scenario, and one for each complaint; nothing of it depends on the machine."""
    world = result.world
    if trace:
        print(f"# {result.scenario.name}: {result.scenario.about.splitlines()[0]}")
        for note in world.notes:
            print(note)
    verdict = "passed" if result.passed else "FAILED"
    print(f"{verdict} {result.scenario.name} ({stamp(world.timeline.now)} s, {world.timeline.events} events)")
    for complaint in result.complaints:
        print(f"    {complaint}")


def _faults(arguments: argparse.Namespace) -> int:
    for name, kind in sorted(KINDS.items(), key=lambda item: (item[1].area, item[0])):
        given = " ".join(sorted(kind.parameters))
        print(f"{kind.area:<9} {name:<24} {kind.meaning}{f' [{given}]' if given else ''}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
