"""The same drills again and again: a fault that is survived once may be luck."""

from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Sequence

from ovirt_he_ha.lab.drills.drill import Drill
from ovirt_he_ha.lab.drills.report import Report
from ovirt_he_ha.lab.drills.stage import Stage
from ovirt_he_ha.lab.layout import Lab, LabError

Say = Callable[[str], None]


@dataclass
class Tally:
    """``measured``: what each run was held against its limit with. ``problems``: one line for each that failed."""

    limit: float
    clock: str
    held: int = 0
    measured: List[float] = field(default_factory=list)
    problems: List[str] = field(default_factory=list)

    def count(self, report: Report) -> None:
        self.held += 1
        self.measured.append(report.measured)
        if not report.passed:
            self.problems.append(_problem(report))

    def text(self) -> str:
        passed = self.held - len(self.problems)
        if not self.measured:
            return f"{passed}/{self.held}"
        middle = sorted(self.measured)[len(self.measured) // 2]
        worst = max(self.measured)
        return f"{passed}/{self.held}, median {middle:.1f}, worst {worst:.1f} of {self.limit:g} {self.clock} seconds"


def _problem(report: Report) -> str:
    if report.judgement.two_ran:
        return "two copies ran"
    if report.judgement.unleased > report.course.leaseless:
        return f"ran without its lease for {report.judgement.unleased:.1f} s"
    return report.course.problem or f"took {report.measured:.1f} {report.limit.clock} seconds"


class Series:
    """``tallies``: by drill, in the order asked for. Ends early when the cluster does not become whole again."""

    def __init__(self, lab: Lab, drills: Mapping[str, Drill], say: Say) -> None:
        self._lab, self._drills, self._say = lab, drills, say
        self.tallies: Dict[str, Tally] = {}

    def run(self, names: Sequence[str], times: int, told: Callable[[Report], None]) -> bool:
        """Hold each drill ``times`` times in a row; whether all passed. ``told`` gets every report."""
        for name in names:
            drill = self._drills[name]
            tally = self.tallies.setdefault(name, Tally(drill.limit.seconds, drill.limit.clock))
            for _ in range(times):
                try:
                    report = drill.hold(Stage(self._lab), say=self._say)
                except LabError as e:
                    tally.held += 1
                    tally.problems.append(str(e))
                    return False
                tally.count(report)
                told(report)
        return not any(tally.problems for tally in self.tallies.values())
