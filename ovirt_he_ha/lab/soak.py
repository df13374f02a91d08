"""Faults without end: one random drill each minute from a seed, judged as a whole.

The same seed gives the same faults in the same order; which host each hits follows from where the VM runs.
"""

import random
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

from ovirt_he_ha.lab.drills import DRILLS
from ovirt_he_ha.lab.drills.drill import Drill
from ovirt_he_ha.lab.drills.report import Report
from ovirt_he_ha.lab.drills.stage import Stage
from ovirt_he_ha.lab.footprint import Footprint
from ovirt_he_ha.lab.judge import judge
from ovirt_he_ha.lab.layout import Lab, LabError
from ovirt_he_ha.lab.testimony import Witness

PERIOD = 60.0  # wall seconds from one fault to the next, or longer where the cluster is not whole by then
LOOK = 10.0
# Wall seconds: a drill's own verdict begins and ends within one of the observer's records, which last a second.
UNLEASED_BETWEEN = 2.0
# In the life of one process, after it settled: more is a leak. Clients come and go by some descriptors.
DESCRIPTORS_GREW = 20
RSS_GREW_KIB = 16 * 1024

Say = Callable[[str], None]


def faults_of(seed: int, names: Sequence[str] = tuple(DRILLS)) -> Iterator[str]:
    """Names of drills, endless; every one once before any comes again."""
    chance = random.Random(seed)
    while True:
        yield from chance.sample(list(names), len(names))


class Soak:
    """``reports``: what has been held so far. ``failures``: one line each."""

    def __init__(self, lab: Lab, seed: int, say: Say, drills: Mapping[str, Drill] = DRILLS) -> None:
        self._lab, self._say, self._drills = lab, say, drills
        self._footprint = Footprint(lab)
        self._names = faults_of(seed, list(drills))
        self.seed = seed
        self.reports: List[Report] = []
        self.failures: List[str] = []

    def run(self, seconds: float) -> Dict[str, Any]:
        """Until ``seconds`` (wall) have gone and the last fault is over; returns the figures."""
        stage = Stage(self._lab)
        stage.await_whole(self._say)
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            started = time.monotonic()
            if not self._fault(next(self._names)):
                break  # the cluster does not become whole again: everything after it would only say the same
            self._rest(min(started + PERIOD, begun + seconds))
        return self.figures(begun, time.monotonic())

    def _fault(self, name: str) -> bool:
        try:
            report = self._drills[name].hold(Stage(self._lab), say=lambda _: None)
        except LabError as e:
            self.failures.append(f"{name}: {e}")
            self._say(self.failures[-1])
            return False
        self.reports.append(report)
        self._say(line(report))
        if not report.passed:
            self.failures.append(line(report))
        return True

    def _rest(self, until: float) -> None:
        self._footprint.look()
        while time.monotonic() < until:
            time.sleep(max(0.0, min(LOOK, until - time.monotonic())))
            self._footprint.look()

    def figures(self, begun: float, ended: float) -> Dict[str, Any]:
        records = Witness(self._lab.observations, whole=True).evidence(begun)
        judgement = judge(records)
        down = unavailable(records, begun, ended)
        daemons = self._footprint.trends()
        between = max(0.0, judgement.unleased - sum(report.judgement.unleased for report in self.reports))
        if between > UNLEASED_BETWEEN:
            self.failures.append(f"the VM ran without its lease for {between:.1f} s between two drills")
        self.failures += grown(daemons)
        return {
            "seed": self.seed,
            "time_scale": self._lab.scale,
            "seconds": round(ended - begun),
            "faults": len(self.reports),
            "failed": self.failures,
            "two_ran": sum(report.judgement.two_ran for report in self.reports),
            "two_ran_overall": judgement.two_ran,
            "unleased_between_drills": round(between, 1),
            "unavailable_seconds": round(down, 1),
            "availability": round(1.0 - down / max(1e-9, ended - begun), 4),
            "boot_seconds": round(sum(report.boot_seconds for report in self.reports), 1),
            "worst": worst(self.reports),
            "worst_announced": worst_announced(self.reports),
            "daemons": daemons,
        }


def line(report: Report) -> str:
    bound = "" if report.course.bound is None else f", announced {report.course.bound:g}"
    word = "ok" if report.passed else f"FAILED {report.course.problem}"
    return (
        f"{report.name}: {word}; {report.measured:.1f} of {report.limit.seconds:g} {report.limit.clock} seconds{bound}"
    )


def worst(reports: Sequence[Report]) -> Optional[Dict[str, Any]]:
    """The recovery that came nearest to its limit, or was farthest beyond it."""
    if not reports:
        return None
    found = max(reports, key=lambda report: report.measured / report.limit.seconds)
    share = found.measured / found.limit.seconds
    return {
        "drill": found.name,
        "measured": round(found.measured, 1),
        "limit": found.limit.seconds,
        "share": round(share, 3),
    }


def worst_announced(reports: Sequence[Report]) -> Dict[str, Dict[str, Any]]:
    """The recovery that came nearest to what the product itself had announced before the fault, or was farthest beyond
    it; one for each clock: what is measured in wall seconds shrinks with the lab's scale, and the announcement does
    not."""
    found: Dict[str, Dict[str, Any]] = {}
    for report in reports:
        if not report.course.bound:
            continue
        share, clock = report.measured / report.course.bound, report.limit.clock
        if clock not in found or share > found[clock]["share"]:
            found[clock] = {
                "drill": report.name,
                "measured": round(report.measured, 1),
                "announced": report.course.bound,
                "share": round(share, 3),
            }
    return found


def grown(daemons: Mapping[str, Mapping[str, Any]]) -> List[str]:
    """Of each kind of daemon, what grew beyond its bounds; one line each."""
    found = []
    for kind, trend in daemons.items():
        for key, limit in (("rss_grew_kib", RSS_GREW_KIB), ("descriptors_grew", DESCRIPTORS_GREW)):
            if trend[key] > limit:
                found.append(f"{kind}: {key} {trend[key]}, expected at most {limit}")
    return found


def unavailable(records: Sequence[Mapping[str, Any]], begun: float, ended: float) -> float:
    """Wall seconds between a good answer of the health page and the next one: a page that hangs is noticed a second
    after it was last seen well."""
    total, since = 0.0, None
    for record in records:
        if record["kind"] != "health":
            continue
        if record["ok"]:
            total += record["at"] - since if since is not None else 0.0
            since = None
        elif since is None:
            since = max(begun, record["at"] if record["since"] is None else record["since"])
    return total + (ended - since if since is not None else 0.0)
