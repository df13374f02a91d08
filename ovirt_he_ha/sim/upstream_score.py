"""oVirt's own score, computed as it computes it: the same doubles in the same order, the same truncation.

Apart from core/score.py on purpose: in a mixed cluster the two must agree on the same facts, and a test says so.
"""

from dataclasses import dataclass
from typing import Iterable, Optional, Tuple

MAX_RETRIES = 3
HISTORY = 900


@dataclass(frozen=True)
class Weights:
    base: int = 3400
    network: int = 1600
    not_uptodate: int = 1000
    bridge: int = 600
    memory: int = 400
    cpu: int = 1000
    retry: int = 50
    cpu_min: float = 0.4
    cpu_max: float = 0.9


def mean_load(samples: Iterable[Tuple[int, Optional[float]]]) -> float:
    """Time-weighted trapezoidal mean. ``samples``: (second, load or None), newest first; a missing value breaks the
    chain on both sides. 0.0 where no time was accumulated."""
    duration = 0.0
    area = 0.0
    newer: Optional[Tuple[int, Optional[float]]] = None
    for sample in samples:
        if newer is not None and newer[1] is not None and sample[1] is not None:
            step = newer[0] - sample[0]
            duration += step
            area += step * (newer[1] + sample[1]) / 2
        newer = sample
    return area / duration if duration else 0.0


def score(
    weights: Weights,
    network: float,
    bridge: bool,
    load: float,
    mem_free: Optional[float],
    mem_needed: int,
    counts_memory: bool,
    retries: int,
    uptodate: bool = True,
) -> int:
    """Points. ``load`` as :func:`mean_load`; ``mem_free`` and ``mem_needed`` in MiB (None free counts as none)."""
    points = weights.base
    if not uptodate:
        points -= weights.not_uptodate
    if network < 1.0:
        points -= int((1.0 - network) * weights.network)
    if not bridge:
        points -= weights.bridge
    points -= _load_penalty(weights, load)
    if counts_memory and (mem_free or 0) < mem_needed:
        points -= weights.memory
    if retries > MAX_RETRIES:
        return 0
    points -= weights.retry * max(0, retries)
    return max(0, points)


def _load_penalty(weights: Weights, load: float) -> int:
    low, high = weights.cpu_min, weights.cpu_max
    if high == low:
        return 0 if load < low else weights.cpu
    share = int((load - low) / (high - low) * weights.cpu)
    return min(max(share, 0), weights.cpu)
