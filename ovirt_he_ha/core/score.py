"""How fit this host is to run the engine VM: 3400 points, less what is wrong.

The numbers and their rounding are those of every other host in the cluster, upstream's included: scores are compared
across hosts, so a formula that is off by one point moves the VM. IEEE doubles, ``int`` truncates toward zero, the
expressions are evaluated in the order written.
"""

import math
from operator import attrgetter
from typing import List, Optional, Sequence, Tuple

from ovirt_he_ha.core.model import LoadSample, Monitors, Penalty, Reading, ScoreCard, ScoreConfig
from ovirt_he_ha.core.timers import Timers

# More failed starts than this in a row: score 0, whatever else is right.
MAX_RETRIES = 3
TOO_MANY_RETRIES = "retries"

CONF = "conf"
NETWORK = "network"
BRIDGE = "bridge"
CPU_LOAD = "cpu-load"
MEMORY = "memory"
RETRIES = "retries"


def remember_load(
    loads: Sequence[LoadSample], now: float, reading: Reading[float], history: float = Timers.load_history
) -> Tuple[LoadSample, ...]:
    """The samples of the last ``history`` seconds, with the one of this cycle; an unknown is a sample too (it breaks
    the chain of the mean). ``loads`` and the result: oldest first."""
    oldest = now - history
    first, end = 0, len(loads)
    while first < end and loads[first].at <= oldest:
        first += 1
    while first < end and loads[end - 1].at >= now:
        end -= 1
    return (*loads[first:end], LoadSample(now, _known(reading)))


def mean_load(loads: Sequence[LoadSample], now: float, history: float = Timers.load_history) -> Optional[float]:
    """Time-weighted trapezoidal mean over pairs of neighbouring known samples not older than ``history`` seconds.

    Newest to oldest, because the order of additions decides the last bit. None when no pair has a duration.
    """
    oldest = now - history
    duration = area = newer_at = 0.0
    newer: Optional[float] = None
    for sample in sorted(loads, key=attrgetter("at"), reverse=True):
        at, load = sample.at, sample.load
        if at <= oldest:
            break
        if newer is not None and load is not None:
            step = newer_at - at
            duration += step
            area += step * (newer + load) / 2
        newer_at, newer = at, load
    return area / duration if duration > 0 else None


def score_card(
    config: ScoreConfig,
    monitors: Monitors,
    load: Optional[float],
    memory_needed: int,
    counts_memory: bool,
    retries: int,
    conf_uptodate: bool = True,
    zero_reason: str = "",
) -> ScoreCard:
    """The score with each penalty that makes it up.

    ``load``: its mean (:func:`mean_load`). ``memory_needed`` in MiB; ``counts_memory`` is False while the VM runs here
    and has its memory already. ``retries``: failed starts in a row. ``zero_reason`` (a code) forces 0 and keeps the
    penalties for the reader. A reading that is unknown costs nothing, and leaves a penalty of 0 points whose value is
    ``unknown:<why>``.
    """
    found: List[Optional[Penalty]] = [
        None if conf_uptodate else Penalty(CONF, config.not_uptodate_penalty, "not-up-to-date"),
        _network(config, monitors.network),
        _bridge(config, monitors.bridge),
        _load(config, monitors.cpu_load, load),
        _memory(config, monitors.mem_free, memory_needed) if counts_memory else None,
        Penalty(RETRIES, config.retry_penalty * retries, str(retries)) if retries > 0 else None,
    ]
    penalties = tuple(penalty for penalty in found if penalty is not None)
    why_zero = zero_reason or (TOO_MANY_RETRIES if retries > MAX_RETRIES else "")
    score = max(0, config.base_score - sum(penalty.points for penalty in penalties))
    return ScoreCard(config.base_score, penalties, 0 if why_zero else score, why_zero)


def _known(reading: Reading[float]) -> Optional[float]:
    """The value, if it is a number at all: a NaN is no measurement."""
    value = reading.value
    return value if value is not None and math.isfinite(value) else None


def _unknown(code: str, why: str) -> Penalty:
    return Penalty(code, 0, f"unknown:{why or 'not-a-number'}")


def _network(config: ScoreConfig, reading: Reading[float]) -> Optional[Penalty]:
    share = _known(reading)
    if share is None:
        return _unknown(NETWORK, reading.unknown)
    if share < 1.0:
        return Penalty(NETWORK, int((1.0 - share) * config.network_penalty), f"{share:g}")
    return None


def _bridge(config: ScoreConfig, reading: Reading[bool]) -> Optional[Penalty]:
    if reading.value is None:
        return _unknown(BRIDGE, reading.unknown)
    return None if reading.value else Penalty(BRIDGE, config.bridge_penalty, "down")


def _load(config: ScoreConfig, reading: Reading[float], mean: Optional[float]) -> Optional[Penalty]:
    if mean is None and _known(reading) is None:
        return _unknown(CPU_LOAD, reading.unknown)
    # One sample spans no time: as upstream, that is load 0 for one cycle.
    load = mean if mean is not None else 0.0
    if config.cpu_max == config.cpu_min:
        points = 0 if load < config.cpu_min else config.cpu_penalty
    else:
        share = (load - config.cpu_min) / (config.cpu_max - config.cpu_min)
        points = min(max(int(share * config.cpu_penalty), 0), config.cpu_penalty)
    return Penalty(CPU_LOAD, points, f"{load:.4f}") if points else None


def _memory(config: ScoreConfig, reading: Reading[int], needed: int) -> Optional[Penalty]:
    if reading.value is None:
        return _unknown(MEMORY, reading.unknown)
    if reading.value < needed:
        return Penalty(MEMORY, config.memory_penalty, f"{reading.value}/{needed}")
    return None
