"""One figure: what was measured, how, and the budget it is held against."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Optional, Sequence

AT_LEAST = ">="
AT_MOST = "<="


@dataclass(frozen=True)
class Figure:
    """``budget`` None: measured for the reader, held against nothing. ``how``: by which counter, so that nobody takes
    a wall clock on a busy machine for a cost."""

    name: str
    value: float
    unit: str
    how: str
    budget: Optional[float] = None
    rule: str = AT_MOST

    @property
    def ok(self) -> Optional[bool]:
        if self.budget is None:
            return None
        return self.value <= self.budget if self.rule == AT_MOST else self.value >= self.budget

    def said(self) -> str:
        """One line for a person."""
        return f"{self.name} is {rounded(self.value):g} {self.unit}, expected {self.rule} {self.budget:g}"

    def line(self) -> str:
        struct = asdict(self)
        struct["value"] = rounded(self.value)
        struct["ok"] = self.ok
        if self.budget is None:
            del struct["rule"]
        return json.dumps(struct)


def rounded(value: float) -> float:
    """Four digits that count."""
    return float(f"{value:.4g}")


def show(figures: Sequence[Figure]) -> None:
    for figure in figures:
        sys.stdout.write(figure.line() + "\n")
        sys.stdout.flush()


def percentile(values: Sequence[float], share: float) -> float:
    """``share`` 0.99: 1 % of the values are above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
