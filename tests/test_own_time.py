"""The stopwatch of the other tests: what the machine took is taken off, what was waited for is not."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.own_time import OwnTime


class Kernel:
    """Of this process, as far as the stopwatch asks it."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        (proc / "pressure").mkdir()
        self.press(0.0, 0.0)
        self.queue(1, 0.0)

    def press(self, cpu: float, io: float) -> None:
        for name, seconds in (("cpu", cpu), ("io", io)):
            text = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={seconds * 1e6:.0f}\nfull avg10=1 total=99000000\n"
            (self.proc / "pressure" / name).write_text(text)

    def steal(self, seconds: float) -> None:
        ticks = round(seconds * os.sysconf("SC_CLK_TCK"))
        (self.proc / "stat").write_text(f"cpu  1 2 3 4 5 6 7 {ticks} 0 0\ncpu0 1 2 3 4 5 6 7 {ticks} 0 0\nintr 99\n")

    def queue(self, thread: int, seconds: float) -> None:
        task = self.proc / str(os.getpid()) / "task" / str(thread)
        task.mkdir(parents=True, exist_ok=True)
        (task / "schedstat").write_text(f"5000000000 {seconds * 1e9:.0f} 7\n")


def test_what_the_machine_was_busy_with_is_taken_off(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.press(1000.0, 500.0)
    took = OwnTime(proc=str(tmp_path))
    assert took.stolen == 0.0
    kernel.press(1030.0, 512.0)
    assert took.stolen == 42.0 and took.seconds == 0.0


def test_what_a_virtual_machine_was_not_given_is_taken_off(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.steal(7.0)
    took = OwnTime(proc=str(tmp_path))
    kernel.press(2.0, 0.0)
    kernel.steal(10.0)
    assert took.stolen == 5.0


def test_the_queues_of_the_threads_count_also_of_new_ones_and_not_of_ended_ones(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.queue(1, 7.0)
    kernel.queue(2, 100.0)
    took = OwnTime(proc=str(tmp_path))
    kernel.queue(1, 8.0)
    kernel.queue(3, 2.0)
    (tmp_path / str(os.getpid()) / "task" / "2" / "schedstat").unlink()
    assert took.stolen == 3.0


def test_a_kernel_that_counts_nothing_takes_nothing_off(tmp_path: Path) -> None:
    took = OwnTime(proc=str(tmp_path))
    threading.Event().wait(0.01)
    assert took.stolen == 0.0 and took.seconds >= 0.01


def test_what_is_waited_for_counts_in_full() -> None:
    """With what the threads themselves stood in the queue for: others may be at work here."""
    took = OwnTime()
    threading.Event().wait(0.2)
    assert took.wall >= 0.2 and took.seconds + took.stolen >= 0.2


def test_a_process_beside_a_busy_one_has_less_time_of_its_own_than_the_clock_shows() -> None:
    """Both on one processor: each stands in the queue for half of the time."""
    cpu = min(os.sched_getaffinity(0))
    busy = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy, str(cpu)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, [cpu])
            took, end = OwnTime(), time.monotonic() + 0.5
            while time.monotonic() < end:
                pass
            assert took.seconds < took.wall - 0.1
        finally:
            os.sched_setaffinity(0, before)
            other.kill()
