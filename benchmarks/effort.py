"""How much is measured: enough for a figure, or just enough to see that a benchmark works."""

from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class Effort:
    """``rpc_hosts``: slots that the broker serves; ``sizes``: clusters for the cycle; ``cycles`` measured for each;
    ``window``: wall seconds of a steady state; ``settle``: before it; ``calls``: of everything that is called in turn;
    ``peers``: hosts of the large cluster whose volume is measured; ``joined``: sanlock's join is waited for."""

    rpc_hosts: int
    rpc_seconds: float
    sizes: Tuple[int, ...]
    cycles: int
    window: float
    settle: float
    calls: int
    peers: int
    joined: bool


FULL = Effort(250, 3.0, (3, 64, 250, 2000), 200, 121.0, 25.0, 20, 64, True)
# Its figures mean nothing; the budgets are not held against them.
QUICK = Effort(12, 0.2, (3, 12), 5, 3.0, 1.0, 2, 8, False)
