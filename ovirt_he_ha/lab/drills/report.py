"""What a drill reports."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from ovirt_he_ha.lab.judge import Judgement


@dataclass(frozen=True)
class Limit:
    """``seconds`` from the fault to the end state, the guest's own boot not counted. ``clock``: ``product`` where
    sanlock's and our timers rule, which the lab accelerates until the new QEMU appears; ``wall`` where processes,
    libvirt and QEMU do."""

    seconds: float
    clock: str = "product"


@dataclass
class Course:
    """How one drill went; moments in wall seconds (monotonic). ``ended_at``: the end state, or when the wait for it
    was given up. ``appeared_at``, ``started_at``: the new copy's process, and its first instruction.
    ``judged_from``: who ran the VM is judged from here on, where that is before the fault that is timed.
    ``leaseless``: wall seconds that a copy may run without the lease, because the drill itself started it so."""

    fault_at: float
    ended_at: float
    recovered: bool
    detected_at: Optional[float] = None
    appeared_at: Optional[float] = None
    started_at: Optional[float] = None
    healthy_at: Optional[float] = None
    bound: Optional[float] = None
    judged_from: Optional[float] = None
    leaseless: float = 0.0
    problem: str = ""
    more: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    name: str
    course: Course
    limit: Limit
    judgement: Judgement
    scale: float

    @property
    def seconds(self) -> float:
        return self.course.ended_at - self.course.fault_at

    @property
    def boot_seconds(self) -> float:
        """The guest's share: from the new copy's first instruction to its page. 0 where nothing boots."""
        course = self.course
        if course.started_at is None or course.healthy_at is None:
            return 0.0
        return max(0.0, course.healthy_at - course.started_at)

    @property
    def measured(self) -> float:
        """What the limit is held against, on its own clock."""
        wall = self.seconds - self.boot_seconds
        if self.limit.clock == "wall":
            return wall
        course = self.course
        scaled = wall if course.appeared_at is None else min(wall, course.appeared_at - course.fault_at)
        return scaled * self.scale + (wall - scaled)

    @property
    def within(self) -> bool:
        return self.course.recovered and self.measured <= self.limit.seconds

    @property
    def passed(self) -> bool:
        return self.within and not self.judgement.two_ran and self.judgement.unleased <= self.course.leaseless

    def as_json(self) -> Dict[str, Any]:
        course = self.course
        return {
            "name": self.name,
            "passed": self.passed,
            "recovered": course.recovered,
            "seconds": round(self.seconds, 2),
            "boot_seconds": round(self.boot_seconds, 2),
            "detected_seconds": self._after(course.detected_at),
            "started_seconds": self._after(course.started_at),
            "product_seconds": round((self.seconds - self.boot_seconds) * self.scale, 1),
            "appeared_seconds": self._after(course.appeared_at),
            "time_scale": self.scale,
            "bound": course.bound,
            "limit": self.limit.seconds,
            "limit_clock": self.limit.clock,
            "measured": round(self.measured, 2),
            "within": self.within,
            "two_ran": self.judgement.two_ran,
            "unleased_seconds": round(self.judgement.unleased, 2),
            "unleased_allowed": round(course.leaseless, 2),
            "owners": self.judgement.owners_as_json(course.fault_at),
            "problem": course.problem,
            **course.more,
        }

    def _after(self, moment: Optional[float]) -> Optional[float]:
        return None if moment is None else round(moment - self.course.fault_at, 2)

    def as_text(self) -> str:
        course = self.course
        lines: List[str] = [
            f"{self.name}: {'passed' if self.passed else 'FAILED'}"
            + ("" if course.recovered else f", not recovered: {course.problem}"),
            f"  {self.seconds:.1f} s to the end state, {self.boot_seconds:.1f} s of them the guest's boot",
            f"  held against the limit: {self.measured:.1f} of {self.limit.seconds:g} {self.limit.clock} seconds"
            + (f"; the product announced {course.bound:g}" if course.bound is not None else ""),
            f"  ran twice: {'YES' if self.judgement.two_ran else 'no'};"
            f" without its lease: {self.judgement.unleased:.1f} s",
        ]
        for owner in self.judgement.owners_as_json(course.fault_at):
            lines.append(f"  h{owner['host']} ran it from {owner['from']:+.1f} to {owner['to']:+.1f} s")
        lines += [f"  {key}: {value}" for key, value in course.more.items()]
        return "\n".join(lines)
