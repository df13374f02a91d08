"""he-sim: the simulated cluster's command line."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Iterator, List, Optional

from ovirt_he_ha import __version__
from ovirt_he_ha.sim import replay, swarm, what_if_command
from ovirt_he_ha.sim.batch import Order, Report, reports
from ovirt_he_ha.sim.coverage import Coverage
from ovirt_he_ha.sim.faults import KINDS
from ovirt_he_ha.sim.options import MOST_JOBS, MOST_SEED, Parser, whole
from ovirt_he_ha.sim.scenario import FILE, ScenarioError, load

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130
SCENARIOS = Path("tests/scenarios")
WHAT_IF = "what-if"


def main(argv: Optional[List[str]] = None) -> int:
    """Exit status: 0, 1 (failed, or standard output cannot be written), 2 (malformed input), 130 (Ctrl-C)."""
    words = sys.argv[1:] if argv is None else argv
    _open_what_is_closed()
    try:
        status = _run_command(words)
        sys.stdout.flush()
        return status
    except ScenarioError as problem:
        sys.stderr.write(f"he-sim: {problem}\n")
        return EXIT_INPUT
    except BrokenPipeError:  # whoever read our output has gone (a pager, head)
        _drop_output()
        return EXIT_FAILED
    except OSError as error:  # what cannot be read, or recorded, is named as a ScenarioError
        _drop_output()
        sys.stderr.write(f"he-sim: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\nhe-sim: interrupted\n")
        return EXIT_INTERRUPTED


def _run_command(words: List[str]) -> int:
    if words[:1] == [WHAT_IF]:
        return what_if_command.main(words[1:])
    arguments = _parse(words)
    return int(arguments.command(arguments))


def _open_what_is_closed() -> None:
    """Whoever started us may have closed one of the three; what is printed there is lost, and the work is done."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the program ends


def _drop_output() -> None:
    """What is left in the buffer would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _parse(argv: List[str]) -> argparse.Namespace:
    parser = Parser(
        prog="he-sim", description="Runs the product's own code in a simulated cluster that can fail in every way."
    )
    parser.add_argument("--version", action="version", version=f"he-sim {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    runs = commands.add_parser("run", help="run scenarios; exits with 1 if one fails, with 2 for one that is malformed")
    runs.add_argument("paths", metavar="PATH", nargs="*", help="a scenario's folder, or a folder of such folders")
    runs.add_argument("--all", action="store_true", help=f"every scenario of {SCENARIOS}")
    runs.add_argument("--jobs", metavar="J", type=whole(1, MOST_JOBS), default=1, help="processes (default 1)")
    runs.add_argument("--seed", metavar="S", type=whole(0, MOST_SEED), help="instead of the scenario's own")
    runs.add_argument("--trace", action="store_true", help="print what happened, second by second")
    runs.add_argument(
        "--coverage",
        action="store_true",
        help="print what of the policy was seen, and what was not, which fails with --all",
    )
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


def folders(paths: List[str], everything: bool) -> List[Path]:
    """The scenarios' folders. Raises ScenarioError for a path without any."""
    asked = [Path(path) for path in paths] + ([SCENARIOS] if everything else [])
    if not asked:
        raise ScenarioError("he-sim run", "PATH", "a scenario's folder, or --all", None)
    found: List[Path] = []
    for path in asked:
        inside = [path] if os.path.exists(path / FILE) else _inside(path)
        if not inside:
            raise ScenarioError(path, "the folder", f"{FILE}, or folders that hold one", None)
        found += inside
    return list(dict.fromkeys(found))


def _inside(path: Path) -> List[Path]:
    try:
        return sorted(each.parent for each in path.glob(f"*/{FILE}"))
    except OSError as error:
        raise ScenarioError(path, "the folder", "a folder that can be read", error.strerror) from None


def _run(arguments: argparse.Namespace) -> int:
    scenarios = [load(folder) for folder in folders(arguments.paths, arguments.all)]
    began, virtual, failed = time.perf_counter(), 0.0, 0
    covered = Coverage()
    orders = [
        Order(each, arguments.seed, arguments.trace, arguments.coverage, _writable(arguments.record))
        for each in scenarios
    ]
    for report in _told(reports(orders, arguments.jobs), arguments.record):
        virtual += report.virtual
        failed += not report.passed
        covered.add(report.seen)
        print("\n".join(report.lines), flush=True)
    wall = time.perf_counter() - began
    gaps = _gaps(covered) if arguments.coverage and arguments.all else []
    if arguments.coverage:
        print("\n".join([*covered.lines(), *gaps]))
    sys.stdout.flush()
    sys.stderr.write(f"{virtual:.0f} virtual seconds in {wall:.1f} s: {virtual / max(wall, 1e-9):.0f} per second\n")
    print(f"{len(scenarios) - failed} passed, {failed} failed")
    return EXIT_FAILED if failed or gaps else EXIT_OK


def _gaps(covered: Coverage) -> List[str]:
    """A story that shows less than it did, or more than is known, is told: else its README would go on saying so."""
    return [
        *(f"NOT COVERED: no scenario shows {what} {item}" for what, item in covered.missing()),
        *(f"NOT COVERED: {what} {item} is shown, and not in the tables" for what, item in covered.surplus()),
    ]


def _writable(directory: Optional[Path]) -> Optional[Path]:
    try:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error) from None
    return directory


def _told(found: Iterator[Report], record: Optional[Path]) -> Iterator[Report]:
    try:
        yield from found
    except OSError as error:
        if record is None:
            raise
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> ScenarioError:
    return ScenarioError("he-sim run", "--record", "a directory that can be made and written", error.strerror)


def _faults(arguments: argparse.Namespace) -> int:
    for name, kind in sorted(KINDS.items(), key=lambda item: (item[1].area, item[0])):
        given = " ".join(sorted(kind.parameters))
        print(f"{kind.area:<9} {name:<24} {kind.meaning}{f' [{given}]' if given else ''}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
