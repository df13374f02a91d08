"""he-sim swarm: many random worlds, each from a seed; what fails is made small and written as a scenario."""

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from ovirt_he_ha.sim import chance
from ovirt_he_ha.sim.coverage import UNIVERSE, Coverage
from ovirt_he_ha.sim.options import MOST_JOBS, MOST_SEED, whole
from ovirt_he_ha.sim.run import laboratory, workers
from ovirt_he_ha.sim.scenario import FILE, README, Scenario, ScenarioError, document
from ovirt_he_ha.sim.shrink import MOST_RUNS, Shrinker
from ovirt_he_ha.sim.trial import Outcome, attempt

ABOUT = "random worlds and faults by seed; exits with 1 if a rule is broken, with 2 for bad input"
MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Order:
    """What a worker is asked: one seed, and whether to shrink what fails."""

    seed: int
    shrink: bool
    most_runs: int = MOST_RUNS


@dataclass(frozen=True)
class Answer:
    """``small``: the smallest scenario that still fails, if it failed."""

    seed: int
    hosts: int
    outcome: Outcome
    small: Optional[Scenario] = None
    shown: Tuple[str, ...] = ()
    runs: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    seeds, first = whole(1, MOST_SEEDS), whole(0, MOST_SEED - MOST_SEEDS)
    parser.add_argument("--seeds", metavar="N", type=seeds, required=True, help="how many worlds")
    parser.add_argument("--first-seed", metavar="S", type=first, default=0, help="the first of them (default 0)")
    parser.add_argument("--jobs", metavar="J", type=whole(1, MOST_JOBS), default=1, help="processes (default 1)")
    parser.add_argument("--save", metavar="DIR", type=Path, help="write what failed as scenarios, one folder each")
    parser.add_argument("--digest", action="store_true", help="a line for each seed with a digest of its run")
    parser.add_argument("--no-shrink", action="store_true", help="show failures as they are")
    parser.add_argument("--coverage", action="store_true", help="each item of what was covered, with counts")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0: no rule broken. Raises ScenarioError where nothing can be written."""
    began, virtual, failed, coverage = time.perf_counter(), 0.0, 0, Coverage()
    orders = [
        Order(seed, not arguments.no_shrink)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ]
    for answer in answers(orders, arguments.jobs):
        virtual += answer.outcome.virtual
        coverage.add(answer.outcome.seen)
        if arguments.digest:
            print(f"seed {answer.seed}: {answer.outcome.digest} ({answer.hosts} hosts, {answer.outcome.events} events)")
        if answer.outcome.violations:
            failed += 1
            _report(answer, arguments.save)
        sys.stdout.flush()
    _summary(coverage, arguments.coverage)
    sys.stdout.flush()
    wall = time.perf_counter() - began
    sys.stderr.write(f"{virtual:.0f} virtual seconds in {wall:.1f} s: {virtual / max(wall, 1e-9):.0f} per second\n")
    print(f"{arguments.seeds} seeds, {failed} failed")
    return 1 if failed else 0


# --- the work ---------------------------------------------------------------------------------------------------------


def answers(orders: List[Order], jobs: int) -> Iterator[Answer]:
    """In the order of the seeds, however many processes there are."""
    if jobs == 1:
        with laboratory():
            yield from map(answer, orders)
        return
    with workers(jobs) as pool:
        yield from pool.imap(answer, orders, chunksize=1)


def answer(order: Order) -> Answer:
    scenario = chance.scenario(order.seed)
    outcome = attempt(scenario)
    if not outcome.violations:
        return Answer(order.seed, scenario.cluster.hosts, outcome)
    shrinker = Shrinker(scenario, outcome, order.most_runs if order.shrink else 0)
    small = shrinker.shrink()
    lines = tuple(str(each) for each in shrinker.outcome.violations)
    return Answer(order.seed, scenario.cluster.hosts, outcome, small, lines, shrinker.runs)


# --- what is shown ----------------------------------------------------------------------------------------------------


def _report(found: Answer, save: Optional[Path]) -> None:
    print(f"FAILED seed {found.seed}")
    for violation in found.outcome.violations:
        print(f"    {violation}")
    if found.small is None:
        return
    rule = found.outcome.violations[0].rule
    small = replace(found.small, name=f"swarm-{found.seed}-{rule}", about=_about(found))
    print(f"    after {found.runs} smaller worlds: {len(small.faults)} faults, {small.cluster.hosts} hosts")
    for name, text in folder(small):
        print(f"    --- {small.name}/{name}")
        print("".join(f"    {line}\n" for line in text.splitlines()), end="")
    if save is not None:
        print(f"    saved in {write(small, save)}")


def _about(found: Answer) -> str:
    return f"Found by the swarm, seed {found.seed}: {found.shown[0] if found.shown else 'nothing is wrong any more'}."


def folder(scenario: Scenario) -> Tuple[Tuple[str, str], ...]:
    """The files of a scenario's folder, as (name, text)."""
    found = document(scenario)
    lines = [f'  "{key}": {json.dumps(found[key])}' for key in ("seed", "length", "progress", "cluster")]
    for key in ("faults", "expect"):
        items = ",\n".join(f"    {json.dumps(item)}" for item in found[key])
        lines.append(f'  "{key}": [\n{items}\n  ]' if items else f'  "{key}": []')
    return (README, scenario.about + "\n"), (FILE, "{\n" + ",\n".join(lines) + "\n}\n")


def write(scenario: Scenario, directory: Path) -> Path:
    """Raises ScenarioError when the folder cannot be written."""
    made = directory / scenario.name
    try:
        made.mkdir(parents=True, exist_ok=True)
        for name, text in folder(scenario):
            (made / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ScenarioError(made, "the folder", "a place that can be written", error.strerror) from None
    return made


def _summary(coverage: Coverage, whole: bool) -> None:
    """Which of the policy's states, transitions, reasons, verdicts ... and of the kinds of faults were seen."""
    if whole:
        print("\n".join(coverage.lines()))
        return
    for what, items in UNIVERSE.items():
        counts = [coverage.seen.get((what, item), 0) for item in items]
        print(f"{what}: {sum(map(bool, counts))} of {len(items)}, {sum(counts)} times")


__all__ = ["ABOUT", "Answer", "Order", "add_arguments", "answer", "answers", "folder", "run", "write"]
