"""``he-sim replay``: what an agent recorded, decided again by this version's policy, and every difference.

Each cycle is decided from its own recorded snapshot, so that one difference does not make a hundred. A recording is
only read.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, TextIO, Tuple

from ovirt_he_ha.config.recordings import RecordingError, load
from ovirt_he_ha.core import reasons
from ovirt_he_ha.core.frames import Damage
from ovirt_he_ha.core.model import Decision, Snapshot
from ovirt_he_ha.core.recording import RecordedCycle, published_crc
from ovirt_he_ha.core.shapes import SAME, noun_of
from ovirt_he_ha.core.states import decide
from ovirt_he_ha.core.timers import Timers

EXIT_SAME = 0
EXIT_DIFFERENT = 1
EXIT_BAD_FILE = 2

Decide = Callable[[Snapshot, Timers], Decision]

_NOTHING = "(nothing)"
_TIME_OF_DAY = ("%H:%M:%S", "%H:%M")
_MOMENTS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d")


@dataclass(frozen=True)
class Difference:
    """One field of a decision: its place, and its plain value then and now."""

    field: str
    recorded: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field}: recorded {_shown(self.recorded)}, now {_shown(self.now)}"


def _shown(value: Any) -> str:
    return value if value is _NOTHING else json.dumps(value)


# --- deciding again --------------------------------------------------------------------------------------------------


def differences(cycle: RecordedCycle, timers: Optional[Timers] = None, policy: Decide = decide) -> List[Difference]:
    """What ``policy`` decides otherwise than was recorded; ``timers``: instead of the recorded ones. An exception of
    the policy is a difference too, or of what would be published."""
    try:
        decision = policy(cycle.snapshot, cycle.timers if timers is None else timers)
        published = published_crc(cycle.snapshot, decision)
    except Exception as error:  # a policy that raises is a finding, not the end of the replay
        return [Difference("exception", _NOTHING, f"{type(error).__name__}: {error}")]
    found = _fields(cycle.decision, decision)
    if not found and published != cycle.published:
        found.append(Difference("published bytes (CRC-32)", cycle.published, published))
    return found


def _fields(recorded: Decision, now: Decision) -> List[Difference]:
    if noun_of(Decision).patch(recorded, now) is SAME:
        return []
    before, after = _plain(recorded), _plain(now)
    return [
        Difference(place, before.get(place, _NOTHING), after.get(place, _NOTHING))
        for place in sorted({**before, **after})
        if not _identical(before.get(place, _NOTHING), after.get(place, _NOTHING))
    ]


def _plain(decision: Decision) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    _collect(noun_of(Decision).plain(decision), "", found)
    return found


def _collect(value: Any, place: str, into: Dict[str, Any]) -> None:
    """Every scalar by its place, such as ``reasons[0].code``; what is empty stands for itself."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _collect(item, f"{place}.{key}" if place else str(key), into)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            _collect(item, f"{place}[{index}]", into)
    else:
        into[place] = value


def _identical(one: Any, other: Any) -> bool:
    """To the last bit: 0, 0.0, -0.0 and False are four values."""
    return type(one) is type(other) and repr(one) == repr(other)


# --- which cycles ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """``clock``: a time of day, the first one after the recording begins; else ``at``, the whole moment."""

    at: datetime
    clock: bool

    def wall(self, first: float, zone: Optional[timezone]) -> float:
        """Seconds since the epoch; ``first``: those of the first cycle."""
        if not self.clock:
            return self.at.replace(tzinfo=zone).timestamp()
        begin = datetime.fromtimestamp(first, zone)
        moment = begin.replace(hour=self.at.hour, minute=self.at.minute, second=self.at.second, microsecond=0)
        if moment < begin.replace(microsecond=0):
            moment += timedelta(days=1)
        return moment.timestamp()


def moment(text: str) -> Moment:
    """Raises argparse.ArgumentTypeError."""
    for form in (*_TIME_OF_DAY, *_MOMENTS):
        try:
            return Moment(datetime.strptime(text, form), form in _TIME_OF_DAY)
        except ValueError:
            continue
    raise argparse.ArgumentTypeError(f"expected HH:MM, HH:MM:SS or YYYY-MM-DDTHH:MM:SS, found {text!r}")


class _Source:
    """The cycles of the files, between two moments; damage goes to ``complain``."""

    def __init__(self, arguments: argparse.Namespace, complain: Callable[[str], None]) -> None:
        self._arguments = arguments
        self._complain = complain
        self.seen = 0
        self.damaged = ""

    def __iter__(self) -> Iterator[RecordedCycle]:
        for path in self._arguments.file:
            yield from self._of_file(path)

    def _of_file(self, path: str) -> Iterator[RecordedCycle]:
        first: Optional[float] = None
        for file, item in load(path):
            if isinstance(item, Damage):
                self._say(f"{file}: {item}")
                continue
            self.seen += 1
            first = item.wall if first is None else first
            if self._wanted(item.wall, first):
                yield item

    def _say(self, problem: str) -> None:
        self.damaged = self.damaged or problem
        self._complain(problem)

    def _wanted(self, wall: float, first: float) -> bool:
        since, until, zone = self._arguments.since, self._arguments.until, _zone(self._arguments)
        begin = first if since is None else since.wall(first, zone)
        return begin <= wall and (until is None or wall <= until.wall(max(first, begin), zone))


def _zone(arguments: argparse.Namespace) -> Optional[timezone]:
    return timezone.utc if arguments.utc else None


# --- what is said ----------------------------------------------------------------------------------------------------


class _Report:
    """Text or JSON lines."""

    def __init__(self, arguments: argparse.Namespace, out: TextIO) -> None:
        self.json: bool = arguments.json
        self._zone = _zone(arguments)
        self._out = out

    def line(self, text: str) -> None:
        self._out.write(text + "\n")

    def struct(self, **members: Any) -> None:
        self.line(json.dumps(members))

    def when(self, cycle: RecordedCycle) -> str:
        try:
            moment_ = datetime.fromtimestamp(cycle.wall, self._zone)
        except (ValueError, OverflowError, OSError):
            return f"{cycle.snapshot.now:.3f}"  # a clock that is out of this world
        return moment_.replace(tzinfo=None).isoformat(" ", "milliseconds")

    def head(self, cycle: RecordedCycle) -> Dict[str, Any]:
        return {
            "time": self.when(cycle),
            "now": cycle.snapshot.now,
            "host": cycle.snapshot.host.host_id,
            "cycle": cycle.number,
            "state": cycle.decision.state.value,
        }


def replay(source: _Source, arguments: argparse.Namespace, out: TextIO, policy: Decide = decide) -> int:
    report = _Report(arguments, out)
    timers = Timers() if arguments.own_timers else None
    cycles = differing = 0
    for cycle in source:
        cycles += 1
        found = differences(cycle, timers, policy)
        if not found:
            continue
        differing += 1
        if report.json:
            fields = [{"field": each.field, "recorded": each.recorded, "now": each.now} for each in found]
            report.struct(**report.head(cycle), differences=fields)
            continue
        report.line(f"{report.when(cycle)}  cycle {cycle.number}  {cycle.decision.state.value}")
        for each in found:
            report.line(f"    {each}")
    if not source.seen:
        return EXIT_BAD_FILE
    if report.json:
        report.struct(cycles=cycles, differences=differing)
    else:
        report.line(f"{cycles} cycles, {differing} differences")
    return EXIT_DIFFERENT if differing else EXIT_SAME


# --- the timeline ----------------------------------------------------------------------------------------------------


def show(source: _Source, arguments: argparse.Namespace, out: TextIO) -> int:
    """One entry per cycle in which something was ordered, or changed that matters."""
    report = _Report(arguments, out)
    before: Optional[RecordedCycle] = None
    cycles = 0
    for cycle in source:
        cycles += 1
        if not report.json and (gap := _gap(before, cycle)):
            report.line(gap)
        if before is None or cycle.decision.action is not None or _essence(before) != _essence(cycle):
            _entry(report, cycle)
        before = cycle
    if not source.seen:
        return EXIT_BAD_FILE
    if not report.json:
        report.line(f"{cycles} cycles")
    return EXIT_SAME


def _gap(before: Optional[RecordedCycle], cycle: RecordedCycle) -> str:
    if before is None or cycle.number == before.number + 1:
        return ""
    if cycle.number <= before.number:
        return "--- the agent, or its host, was started again"
    return f"--- {cycle.number - before.number - 1} cycles are not in the recording"


def _essence(cycle: RecordedCycle) -> Tuple[object, ...]:
    decision = cycle.decision
    return (
        decision.state,
        decision.action,
        decision.score.score,
        _vm(cycle),
        None if decision.fence is None else decision.fence.reason,
        cycle.snapshot.report,
        frozenset(why.code for why in decision.reasons),
    )


def _vm(cycle: RecordedCycle) -> str:
    engine = cycle.snapshot.monitors.engine
    if engine.value is None:
        return f"unknown ({engine.unknown})"
    status = engine.value.status
    try:
        return f"{status.vm.value}/{status.health.value}/{status.detail}"
    except AttributeError:  # as below
        return "?"


def _done(cycle: RecordedCycle) -> List[str]:
    decision, last = cycle.decision, cycle.snapshot.report
    found = []
    if last is not None and last.outcome is not None:
        found.append(f"{last.action.kind.value}: {last.outcome.value} {last.detail}".rstrip())
    if decision.fence is not None:
        found.append(f"KILL ({decision.fence.reason})")
    if decision.action is not None:
        target = f" to host {decision.action.target_id}" if decision.action.target_id else ""
        found.append(f"ORDER {decision.action.kind.value}{target}")
    return found


def _entry(report: _Report, cycle: RecordedCycle) -> None:
    decision = cycle.decision
    try:
        done = _done(cycle)
        why = [reasons.describe(each) for each in decision.reasons]
        ahead = [reasons.describe_countdown(each, cycle.snapshot.now) for each in decision.countdowns]
    except (TypeError, ValueError, AttributeError) as error:  # what no agent of ours records, and a checksum that fits
        done, why, ahead = [], [f"cannot be told: {type(error).__name__}: {error}"], []
    if report.json:
        entry = {"score": decision.score.score, "vm": _vm(cycle), "done": done}
        report.struct(**report.head(cycle), **entry, reasons=why, countdowns=ahead)
        return
    report.line(f"{report.when(cycle)}  {decision.state.value}  score {decision.score.score}  vm {_vm(cycle)}")
    for each in [*done, *why, *ahead]:
        report.line(f"    {each}")


# --- the command -----------------------------------------------------------------------------------------------------


ABOUT = "decide what an agent recorded again, by this version's policy, and show every difference"
EXIT_STATUS = "Exit status: 0 every decision is the same, 1 some differ, 2 a recording cannot be read."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = ABOUT[0].upper() + ABOUT[1:] + "."
    parser.epilog = EXIT_STATUS
    parser.add_argument("file", nargs="+", metavar="FILE", help="a recording, or a directory of its segments")
    parser.add_argument("--show", action="store_true", help="print what was decided and why; decide nothing again")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    when = "HH:MM[:SS] (the first after the recording begins) or YYYY-MM-DDTHH:MM[:SS]"
    parser.add_argument("--since", type=moment, metavar="TIME", help=when)
    parser.add_argument("--until", type=moment, metavar="TIME", help="as --since; HH:MM is the first after it")
    parser.add_argument("--utc", action="store_true", help="times in UTC, not in this machine's zone")
    parser.add_argument("--own-timers", action="store_true", help="this version's timers, not the recorded ones")


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit status; what cannot be read is named on standard error. Raises BrokenPipeError."""
    source = _Source(arguments, _complain)
    try:
        status = show(source, arguments, sys.stdout) if arguments.show else replay(source, arguments, sys.stdout)
    except RecordingError as error:
        _complain(str(error))
        return EXIT_BAD_FILE
    if not source.seen and not source.damaged:
        _complain(f"{arguments.file[0]}: expected at least one cycle, found none")
    return status


def _complain(problem: str) -> None:
    sys.stderr.write(f"he-sim replay: {problem}\n")


def main(argv: Sequence[str]) -> int:
    """The exit status. Raises SystemExit for a wrong command line (status 2)."""
    parser = argparse.ArgumentParser(prog="he-sim replay")
    add_arguments(parser)
    return run(parser.parse_args(list(argv)))
