"""The judge against simulated truth: copies that run by turns are never convicted, those that overlap always are."""

from typing import Any, Dict, List, Tuple

from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.lab.judge import judge

Span = Tuple[float, float]
PERIOD = 0.05


def sampled(host: int, span: Span, ticks: List[float]) -> List[Dict[str, Any]]:
    """One record per window in which this copy ran, as the observer without merging would write."""
    windows = [(a, b) for a, b in zip(ticks, ticks[1:]) if a < span[1] and b > span[0]]
    common = {"kind": "ran", "host": host, "pid": host * 100, "started": 1}
    return [{**common, "at": w[1], "first": list(w), "last": list(w)} for w in windows]


def ticks_with(jitter: List[float], lag: float) -> List[float]:
    """Sampling moments of one process: the second one is looked at a little after the first."""
    return [number * PERIOD + lag + extra for number, extra in enumerate(jitter)]


jitters = st.lists(st.floats(0, 0.02), min_size=400, max_size=400)


@given(jitters, st.floats(0, 0.02), st.floats(1, 9), st.floats(0, 5), st.floats(0.5, 9))
def test_by_turns(jitter: List[float], lag: float, end: float, pause: float, length: float) -> None:
    """A runs until ``end``, then B: however short the pause, and wherever the windows lie."""
    records = sampled(1, (0.0, end), ticks_with(jitter, 0.0))
    records += sampled(2, (end + pause, end + pause + length), ticks_with(jitter, lag))
    assert not judge(records).two_ran


@given(jitters, st.floats(0, 0.02), st.floats(2, 9), st.floats(0.25, 1.5))
def test_side_by_side(jitter: List[float], lag: float, end: float, overlap: float) -> None:
    """B begins before A ends, by a quarter of a second or more."""
    records = sampled(1, (0.0, end), ticks_with(jitter, 0.0))
    records += sampled(2, (end - overlap, end + 3), ticks_with(jitter, lag))
    assert judge(records).two_ran
