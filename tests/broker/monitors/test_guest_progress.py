import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker.monitors.guest_progress import GuestProgress, Look, crash_like, crash_like_sum
from ovirt_he_ha.broker.monitors.process_times import ProcessTimes


def looks(rates, requests_per_second, count=10, every=5.0, copy=1, counted=True):
    for number in range(count):
        at = 100.0 + number * every
        passed = number * every
        yield Look(
            at,
            copy,
            demand=tuple(rate * passed for rate in rates),
            used=sum(rates) * passed * 100,
            counted_at=at - 0.5 if counted else None,
            requests=int(requests_per_second * passed) if counted else None,
        )


def fed(sequence):
    progress, last = GuestProgress(), None
    for look in sequence:
        progress.observe(look)
        last = look
    return progress.stalled_for(last.at)


@pytest.mark.parametrize(
    ("name", "rates", "requests", "stalled"),
    [
        ("healthy appliance", (0.03,), 1, False),
        ("idle guest with its disk writer stopped", (0.0,), 0, True),
        ("panic, one processor spins", (1.0,), 0, True),
        ("panic, the others halted", (1.0, 0.001, 0.0, 0.0), 0, True),
        ("computes without disk", (0.5, 0.2), 0, False),
        ("spins and writes", (1.0,), 1, False),
        ("one pinned, one half busy", (1.0, 0.5), 0, False),
    ],
)
def test_stories(name, rates, requests, stalled):
    assert fed(looks(rates, requests)) == (45.0 if stalled else 0.0)


def test_a_crowded_host_does_not_hide_a_spinning_guest():
    # It ran 60 % and waited 40 %: the demand is what counts.
    assert crash_like((0.6 + 0.39,))
    assert not crash_like((0.6,))


def test_one_request_starts_the_clock_anew():
    sequence = list(looks((0.0,), 0))
    sequence[6:] = [Look(look.at, 1, look.demand, look.used, look.counted_at, 1) for look in sequence[6:]]
    assert fed(sequence) == 15.0


def test_another_copy_starts_anew():
    first = list(looks((0.0,), 0))
    progress = GuestProgress()
    for look in first:
        progress.observe(look)
    progress.observe(Look(200.0, 2, (0.0,), 0.0, 200.0, 0))
    assert progress.stalled_for(200.0) is None


def test_counters_read_by_a_slower_watch():
    """Looks every second, counters every 5 s: the same counters twice prove nothing, neither way."""
    progress = GuestProgress()
    for second in range(31):
        counted = second // 5 * 5.0
        progress.observe(Look(100.0 + second, 1, (0.0,), second * 2.0, 100.0 + counted, int(counted)))
        assert progress.stalled_for(100.0 + second) in (None, 0.0)


def test_without_any_counters_a_process_that_runs_is_not_known_to_stand():
    assert fed(looks((0.01,), 0, counted=False)) is None


def test_without_any_counters_a_process_without_cpu_time_stands():
    assert fed(looks((0.0,), 0, counted=False)) > 30


def test_by_libvirts_sum_alone():
    def sequence(rate):
        for number in range(5):
            at = 100.0 + 5 * number
            yield Look(at, 1, None, None, at, 7, rate * 5 * number)

    assert fed(sequence(0.0)) == 20.0
    assert fed(sequence(2.0)) == 20.0
    assert fed(sequence(0.5)) == 0.0
    assert fed(sequence(1.5)) == 0.0


def test_old_comparisons_say_nothing():
    progress = GuestProgress()
    for look in looks((0.0,), 0):
        progress.observe(look)
    assert progress.stalled_for(145.0 + 29) == 45.0
    assert progress.stalled_for(145.0 + 31) is None
    progress.forget()
    assert progress.stalled_for(145.0) is None


RATES = st.floats(0, 1)


@given(st.lists(RATES, min_size=1, max_size=4), st.integers(0, 3), st.floats(2.0, 8.0), st.booleans())
def test_whatever_is_seen_the_stall_is_not_longer_than_the_watch(rates, requests, every, counted):
    stalled = fed(looks(tuple(rates), requests, 8, every, counted=counted))
    assert stalled is None or 0 <= stalled <= 7 * every + 1e-6
    if requests and counted:
        assert stalled == 0.0


@given(st.floats(0, 8))
def test_a_sum_is_crash_like_near_whole_numbers_only(rate):
    assert crash_like_sum(rate) == (abs(rate - round(rate)) <= 0.05 and not 0.5 < rate < 0.95)


SPIN = """
import ctypes, threading
ctypes.CDLL(None).prctl(15, b"CPU 0/TCG", 0, 0, 0)
print("ready", flush=True)
while True:
    pass
"""


def test_a_real_thread_that_spins_is_pinned_and_one_that_is_stopped_is_idle():
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            times = ProcessTimes(Path("/proc"))

            def rate():
                before, at = times.vcpu_demand(process.pid)[0], time.monotonic()
                time.sleep(1.0)
                return (times.vcpu_demand(process.pid)[0] - before) / (time.monotonic() - at)

            assert crash_like((rate(),))
            os.kill(process.pid, signal.SIGSTOP)
            assert rate() <= 0.05
            used = times.used(process.pid)
            assert rate() == 0.0
            assert times.used(process.pid) == used
        finally:
            process.kill()
