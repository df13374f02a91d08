"""The score: the worked examples that every host of a mixed cluster must agree on, to the point."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.core.model import LoadSample, Monitors, Penalty, Reading, ScoreConfig
from ovirt_he_ha.core.score import mean_load, remember_load, score_card

NOW = 1000.0
CONFIG = ScoreConfig()
GOOD = Monitors(
    network=Reading.of(1.0),
    bridge=Reading.of(True),
    mem_free=Reading.of(16384),
    cpu_load=Reading.of(0.1),
)


def steady(load):
    return tuple(LoadSample(NOW - age, load) for age in (20.0, 10.0, 0.0))


def card(config=CONFIG, loads=None, needed=4096, counts_memory=True, retries=0, uptodate=True, zero="", **monitors):
    monitors = replace(GOOD, **{name: Reading.of(value) for name, value in monitors.items()})
    return score_card(
        config, monitors, mean_load(steady(0.1) if loads is None else loads, NOW), needed, counts_memory, retries,
        uptodate, zero,
    )  # fmt: skip


def points(result):
    return [penalty.points for penalty in result.penalties]


def samples(*pairs):
    return tuple(LoadSample(NOW - 130 + at, load) for at, load in pairs)


@pytest.mark.parametrize(
    ("case", "penalties", "score"),
    [
        ({}, [], 3400),
        ({"network": 0.8}, [319], 3081),
        ({"network": 0.4}, [960], 2440),
        ({"network": 0.0}, [1600], 1800),
        ({"bridge": False}, [600], 2800),
        ({"mem_free": 4095}, [400], 3000),
        ({"mem_free": 4096}, [], 3400),
        ({"loads": steady(0.65)}, [500], 2900),
        ({"loads": steady(0.5)}, [199], 3201),
        ({"loads": samples((120, 0.9), (110, 0.7), (90, 0.5))}, [533], 2867),
        ({"loads": samples((130, 0.9), (120, None), (110, 0.7), (90, 0.5))}, [399], 3001),
        ({"network": 0.8, "mem_free": 1, "loads": steady(0.5), "retries": 1}, [319, 199, 400, 50], 2432),
        ({"network": 0.0, "bridge": False, "mem_free": 1, "loads": steady(1.0), "uptodate": False}, None, 0),
        ({"retries": 1}, [50], 3350),
        ({"retries": 2}, [100], 3300),
        ({"retries": 3}, [150], 3250),
        ({"retries": 4}, [200], 0),
        ({"config": ScoreConfig(cpu_min=0.5, cpu_max=0.5), "loads": steady(0.5)}, [1000], 2400),
        ({"config": ScoreConfig(cpu_min=0.5, cpu_max=0.5), "loads": steady(0.49)}, [], 3400),
        ({"loads": (LoadSample(NOW, 0.9),)}, [], 3400),
    ],
)
def test_worked_examples(case, penalties, score):
    result = card(**case)
    assert result.score == score
    if penalties is not None:
        assert points(result) == penalties


def test_everything_bad_sums_to_4600():
    result = card(network=0.0, bridge=False, mem_free=1, loads=steady(1.0), uptodate=False)
    assert sum(points(result)) == 4600
    assert [penalty.code for penalty in result.penalties] == ["conf", "network", "bridge", "cpu-load", "memory"]


@pytest.mark.parametrize(
    ("load", "score"), [(0.4, 3400), (0.401, 3399), (0.41, 3381), (0.7, 2801), (0.899, 2402), (0.9, 2400), (1.0, 2400)]
)
def test_load_boundaries(load, score):
    assert card(loads=steady(load)).score == score


def test_memory_does_not_count_while_the_vm_is_here():
    assert card(mem_free=1, counts_memory=False).penalties == ()


def test_a_reason_for_zero_keeps_the_penalties():
    result = card(bridge=False, zero="crashes")
    assert (result.score, result.zero_reason, points(result)) == (0, "crashes", [600])


def test_too_many_retries_say_so_unless_there_is_a_better_reason():
    assert card(retries=4).zero_reason == "retries"
    assert card(retries=4, zero="crashes").zero_reason == "crashes"
    assert card(retries=3).zero_reason == ""


def test_unknown_readings_cost_nothing_and_say_why():
    result = score_card(ScoreConfig(), Monitors(bridge=Reading.missing("error")), None, 4096, True, 0)
    assert result.score == 3400
    assert result.penalties == (
        Penalty("network", 0, "unknown:not-yet"),
        Penalty("bridge", 0, "unknown:error"),
        Penalty("cpu-load", 0, "unknown:not-yet"),
        Penalty("memory", 0, "unknown:not-yet"),
    )


def test_a_value_that_is_no_number_is_unknown():
    result = card(network=float("nan"), cpu_load=float("inf"), loads=())
    assert result.penalties == (
        Penalty("network", 0, "unknown:not-a-number"),
        Penalty("cpu-load", 0, "unknown:not-a-number"),
    )


def test_the_history_counts_while_the_load_of_this_cycle_is_unknown():
    monitors = replace(GOOD, cpu_load=Reading.missing("overdue"))
    loads = remember_load(steady(0.65)[:2], NOW, monitors.cpu_load)
    assert score_card(ScoreConfig(), monitors, mean_load(loads, NOW), 0, False, 0).score == 2900


def test_the_history_forgets_and_stays_in_order():
    loads = (LoadSample(99.0, 0.5), LoadSample(100.0, 0.5), LoadSample(100.5, 0.5), LoadSample(NOW, 0.7))
    kept = remember_load(loads, NOW, Reading.of(0.1))
    assert [sample.at for sample in kept] == [100.5, NOW]
    assert kept[-1].load == 0.1
    assert mean_load(loads[:2], NOW) is None
    assert remember_load((), NOW, Reading.of(float("nan")))[0].load is None


def test_order_of_samples_does_not_matter():
    loads = samples((120, 0.9), (110, 0.7), (90, 0.5))
    assert mean_load(loads[::-1], NOW) == mean_load(loads, NOW)


readings = st.one_of(st.just(Reading.missing("error")), st.floats(0, 1).map(Reading.of))


@given(
    readings, st.booleans(), readings, st.integers(0, 10**6), st.integers(0, 10), st.lists(st.floats(0, 1), max_size=5)
)
def test_the_score_is_between_zero_and_base(network, bridge, load, memory, retries, history):
    monitors = Monitors(network, Reading.of(bridge), Reading.of(memory), load)
    loads = tuple(LoadSample(NOW - 10 * n, value) for n, value in enumerate(history))
    result = score_card(ScoreConfig(), monitors, mean_load(loads, NOW), 4096, True, retries)
    assert 0 <= result.score <= result.base
    assert all(penalty.points >= 0 for penalty in result.penalties)
    if not result.zero_reason:
        assert result.score == max(0, result.base - sum(points(result)))
