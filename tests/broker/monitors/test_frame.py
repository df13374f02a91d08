import threading

import pytest

from ovirt_he_ha.broker.monitors.frame import Monitor, Unmeasured, wall_seconds


@pytest.fixture
def made():
    """Monitors of a test, ended after it."""
    monitors = []

    def make(measure, clock, bell, interval=3600.0, limit=5.0, **how):
        monitor = Monitor("test", measure, clock, interval, limit, bell, **how)
        monitors.append(monitor)
        return monitor

    yield make
    assert [m.name for m in monitors if not m.stop(5)] == []


def test_before_the_first_measurement_nothing_is_known(made, real_clock, bell):
    reading = made(lambda: 1, real_clock(), bell).reading()
    assert (reading.known, reading.unknown, reading.age) == (False, "not-yet", None)


def test_a_value_has_an_age_and_rings_once(made, real_clock, bell):
    monitor = made(lambda: 7, real_clock(), bell)
    monitor.start()
    assert bell.wait_until(lambda: monitor.reading().known)
    reading = monitor.reading()
    assert reading.value == 7
    assert 0 <= reading.age < 5
    for _ in range(3):
        monitor.wake()
    assert monitor.stop(5)
    assert bell.rung == 1


@pytest.mark.parametrize(("problem", "code"), [(Unmeasured("unreadable", "x"), "unreadable"), (KeyError("x"), "error")])
def test_a_failed_measurement_is_unknown_and_the_next_may_work(made, real_clock, bell, problem, code):
    outcomes = [problem, None]

    def measure():
        outcome = outcomes.pop(0) if outcomes else None
        if outcome:
            raise outcome
        return 5

    monitor = made(measure, real_clock(), bell)
    monitor.start()
    assert bell.wait_until(lambda: monitor.reading().unknown == code)
    assert monitor.reading().value is None
    monitor.wake()
    assert bell.wait_until(lambda: monitor.reading().value == 5)


def test_a_hung_measurement_is_overdue_with_its_age_and_others_do_not_wait(made, hand_clock, bell):
    entered, release = threading.Event(), threading.Event()
    calls = []

    def measure():
        calls.append(1)
        if len(calls) == 2:
            entered.set()
            assert release.wait(20)
        return len(calls)

    monitor = made(measure, hand_clock, bell)
    monitor.start()
    assert bell.wait_until(lambda: monitor.reading().value == 1)
    monitor.wake()
    assert entered.wait(10)
    assert monitor.reading().value == 1  # not yet too long
    hand_clock.now += 6
    reading = monitor.reading()
    assert (reading.value, reading.unknown, reading.age) == (None, "overdue", 6.0)
    assert not monitor.stop(0.01)  # says so instead of waiting
    release.set()
    assert monitor.stop(10)


def test_a_value_nobody_renewed_is_overdue(made, hand_clock, bell):
    monitor = made(lambda: 1, hand_clock, bell, interval=10.0, limit=5.0)
    monitor.start()
    assert bell.wait_until(lambda: monitor.reading().known)
    assert monitor.stop(10)
    hand_clock.now += 15
    assert monitor.reading().value == 1
    hand_clock.now += 0.1
    assert monitor.reading().unknown == "overdue"


def test_the_interval_is_a_grid_that_slow_rounds_do_not_shift(made, real_clock, bell):
    clock, began, done = real_clock(scale=10.0), [], threading.Event()

    def measure():
        began.append(clock.monotonic())
        if len(began) == 2:
            threading.Event().wait(0.14)  # 1.4 product seconds: one point of the grid is missed
        if len(began) == 20:
            done.set()
        return len(began)

    monitor = made(measure, clock, bell, interval=1.0)
    monitor.start()
    assert done.wait(30)
    steps = [each - began[0] for each in began]
    assert all(later - earlier > 0.02 for earlier, later in zip(steps, steps[1:]))
    assert steps[2] > 2.9  # the point after the missed one, or a later one
    # A busy machine makes any round late, none early; a grid that had shifted would make all of them 0.4 late.
    late = [step % 1.0 if step % 1.0 < 0.98 else 0.0 for step in steps[2:]]
    assert min(late) < 0.3


def test_wake_measures_at_once_although_the_interval_is_long(made, real_clock, bell):
    seen = []
    monitor = made(lambda: seen.append(1) or len(seen), real_clock(), bell)
    monitor.start()
    assert bell.wait_until(lambda: monitor.reading().value == 1)
    monitor.wake()
    assert bell.wait_until(lambda: monitor.reading().value == 2)


def test_only_a_significant_change_rings(made, real_clock, bell):
    values, measured = [1, 2, 30], threading.Semaphore(0)

    def measure():
        measured.release()
        return values.pop(0) if len(values) > 1 else values[0]

    monitor = made(measure, real_clock(), bell, significant=lambda old, new: (new.value or 0) > 10)
    monitor.start()
    for _ in range(3):
        assert measured.acquire(timeout=10)
        monitor.wake()
    assert bell.wait_until(lambda: bell.rung >= 1)
    assert monitor.reading().value == 30


def test_started_twice_is_refused(made, real_clock, bell):
    monitor = made(lambda: 1, real_clock(), bell)
    monitor.start()
    with pytest.raises(RuntimeError):
        monitor.start()


@pytest.mark.parametrize(("scale", "floor", "expected"), [(1, 2, 5), (10, 2, 2), (10, 0, 0.5), (2, 2, 2.5)])
def test_wall_seconds(hand_clock, scale, floor, expected):
    hand_clock.scale = scale
    assert wall_seconds(hand_clock, 5, floor) == expected


def test_a_short_duration_is_not_stretched_by_the_floor(hand_clock):
    assert wall_seconds(hand_clock, 1, 2) == 1
