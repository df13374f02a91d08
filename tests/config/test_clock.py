import time

import pytest

from ovirt_he_ha.config.clock import SystemClock, TimeScaleError, time_scale


def test_scale_from_the_environment():
    assert time_scale({}) == 1.0
    assert time_scale({"HE_TIME_SCALE": ""}) == 1.0
    assert time_scale({"HE_TIME_SCALE": "20"}) == 20.0


@pytest.mark.parametrize("text", ["0.5", "21", "nan", "inf", "fast", "-1"])
def test_a_scale_out_of_range_is_an_error(text):
    with pytest.raises(TimeScaleError) as caught:
        time_scale({"HE_TIME_SCALE": text})
    assert caught.value.found == text
    assert repr(text) in str(caught.value)


def test_product_time_runs_faster():
    clock = SystemClock(20.0)
    before = time.monotonic()
    reading = clock.monotonic()
    assert before * 20 <= reading <= time.monotonic() * 20
    assert abs(clock.wall() - time.time()) < 5


def test_waits():
    clock = SystemClock(20.0)
    assert clock.wall_seconds(10) == 0.5
    assert clock.wall_seconds(-1) == 0.0
    assert clock.wait_floor(5) == 2.0
    assert clock.wait_floor(100) == 5.0
    assert clock.wait_floor(1) == 1.0
    assert SystemClock(1.0).wait_floor(5) == 5.0


def test_the_environment_counts_by_default(monkeypatch):
    monkeypatch.setenv("HE_TIME_SCALE", "3")
    assert SystemClock().scale == 3.0
