"""Upstream's score: its own worked examples, and agreement with ours on every fact."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.core.model import LoadSample, Monitors, Reading, ScoreConfig
from ovirt_he_ha.core.score import mean_load as our_mean
from ovirt_he_ha.core.score import score_card
from ovirt_he_ha.sim.upstream_score import Weights, mean_load, score

STEADY = {"network": 1.0, "bridge": True, "mem_free": 16384.0, "mem_needed": 4096}


def points(loads=0.1, weights=None, **changes):
    values = {**STEADY, "counts_memory": True, "retries": 0, **changes}
    samples = [(120, loads), (110, loads)] if isinstance(loads, float) else loads
    return score(weights or Weights(), load=mean_load(samples), **values)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, 3400),
        ({"network": 0.8}, 3081),
        ({"network": 0.4}, 2440),
        ({"network": 0.0}, 1800),
        ({"bridge": False}, 2800),
        ({"mem_free": 4095}, 3000),
        ({"mem_free": 4096}, 3400),
        ({"mem_free": None}, 3000),
        ({"loads": 0.65}, 2900),
        ({"loads": 0.5}, 3201),
        ({"loads": [(120, 0.9), (110, 0.7), (90, 0.5)]}, 2867),
        ({"loads": [(130, 0.9), (120, None), (110, 0.7), (90, 0.5)]}, 3001),
        ({"network": 0.8, "mem_free": 1, "loads": 0.5, "retries": 1}, 2432),
        ({"network": 0.0, "bridge": False, "mem_free": 1, "loads": 1.0, "uptodate": False}, 0),
        ({"retries": 1}, 3350),
        ({"retries": 2}, 3300),
        ({"retries": 3}, 3250),
        ({"retries": 4}, 0),
        ({"weights": Weights(cpu_min=0.5, cpu_max=0.5), "loads": 0.5}, 2400),
        ({"weights": Weights(cpu_min=0.5, cpu_max=0.5), "loads": 0.49}, 3400),
        ({"loads": [(120, 0.9)]}, 3400),
        ({"loads": 0.4}, 3400),
        ({"loads": 0.401}, 3399),
        ({"loads": 0.41}, 3381),
        ({"loads": 0.7}, 2801),
        ({"loads": 0.899}, 2402),
        ({"loads": 0.9}, 2400),
        ({"loads": 1.0}, 2400),
        ({"mem_free": 1, "counts_memory": False}, 3400),
    ],
)
def test_worked_examples(case, expected):
    assert points(**case) == expected


loads = st.none() | st.floats(0.0, 1.0)


@given(
    network=st.floats(0.0, 1.0),
    bridge=st.booleans(),
    mem_free=st.integers(0, 10000),
    history=st.lists(st.tuples(st.integers(1, 40), loads), min_size=1, max_size=30),
    counts_memory=st.booleans(),
    retries=st.integers(0, 5),
    uptodate=st.booleans(),
)
def test_both_kinds_of_host_score_the_same(network, bridge, mem_free, history, counts_memory, retries, uptodate):
    now, samples = 10_000, []
    for step, load in history:
        samples.append((now, load))
        now -= step
    if 10_000 - samples[-1][0] >= 900:
        samples = [sample for sample in samples if sample[0] > 10_000 - 900]
    theirs = score(
        Weights(), network, bridge, mean_load(samples), float(mem_free), 4096, counts_memory, retries, uptodate
    )
    monitors = Monitors(
        network=Reading.of(network),
        bridge=Reading.of(bridge),
        mem_free=Reading.of(mem_free),
        cpu_load=Reading.of(0.0),
    )
    mine = score_card(
        ScoreConfig(),
        monitors,
        our_mean(tuple(LoadSample(float(at), load) for at, load in samples), 10_000.0),
        4096,
        counts_memory,
        retries,
        uptodate,
    )
    assert mine.score == theirs
