"""What is read from procfs and sysfs, on small trees of our own and on this machine's."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker.monitors.bridge import Bridge
from ovirt_he_ha.broker.monitors.cpu import CpuLoad, EngineCpu, EngineTicks, engine_share, one_minute_load, parse_system
from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.memory import FreeMemory, free_mib
from ovirt_he_ha.broker.monitors.options import OptionError
from ovirt_he_ha.broker.monitors.process_times import TICKS_PER_SECOND, ProcessTimes, parse_stat
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, GuestCounters, Health, Reading, Vm

MEMINFO = """MemTotal:       16384000 kB
MemFree:         1024000 kB
MemAvailable:    9000000 kB
Buffers:          102400 kB
Cached:          2048000 kB
SwapCached:       999999 kB
SReclaimable:     512511 kB
HugePages_Total:       0
"""


def test_free_memory_is_the_sum_of_four_lines_rounded_down():
    assert free_mib(MEMINFO) == (1024000 + 102400 + 2048000 + 512511) // 1024


def test_free_memory_of_this_machine():
    assert FreeMemory().measure() > 0


@pytest.mark.parametrize("line", ["MemFree", "Buffers", "Cached", "SReclaimable"])
def test_a_missing_line_is_unknown_not_zero(tmp_path, line):
    kept = [text for text in MEMINFO.splitlines() if not text.startswith(line + ":")]
    (tmp_path / "meminfo").write_text("\n".join(kept))
    with pytest.raises(Unmeasured) as problem:
        FreeMemory(tmp_path).measure()
    assert problem.value.why == "format"


def test_an_unreadable_meminfo_is_unknown(tmp_path):
    with pytest.raises(Unmeasured) as problem:
        FreeMemory(tmp_path).measure()
    assert problem.value.why == "unreadable"


@given(st.text())
def test_any_meminfo_gives_a_number_or_unknown(text):
    try:
        assert free_mib(text) >= 0
    except Unmeasured as problem:
        assert problem.why == "format"


# --- bridge -------------------------------------------------------------------------------------------------------


def bridge(root, operstate, carrier=None, name="ovirtmgmt"):
    directory = root / "class" / "net" / name
    directory.mkdir(parents=True)
    (directory / "operstate").write_text(operstate + "\n")
    if carrier is not None:
        (directory / "carrier").write_text(carrier + "\n")
    return Bridge("ovirtmgmt", root)


@pytest.mark.parametrize(
    ("operstate", "carrier", "up"),
    [
        ("up", None, True),
        ("down", "1", False),
        ("lowerlayerdown", None, False),
        ("dormant", None, False),
        ("unknown", "1", True),
        ("unknown", "0", False),
    ],
)
def test_bridge(tmp_path, operstate, carrier, up):
    assert bridge(tmp_path, operstate, carrier).measure() is up


def test_a_bridge_that_is_not_there_is_down(tmp_path):
    (tmp_path / "class" / "net").mkdir(parents=True)
    assert Bridge("ovirtmgmt", tmp_path).measure() is False


def test_without_sysfs_the_bridge_is_unknown(tmp_path):
    with pytest.raises(Unmeasured) as problem:
        Bridge("ovirtmgmt", tmp_path).measure()
    assert problem.value.why == "unreadable"


def test_an_unreadable_state_is_unknown(tmp_path):
    (tmp_path / "class" / "net" / "ovirtmgmt" / "operstate").mkdir(
        parents=True
    )  # reading a directory fails for root, too
    with pytest.raises(Unmeasured) as problem:
        Bridge("ovirtmgmt", tmp_path).measure()
    assert problem.value.why == "unreadable"


def test_this_machines_loopback_is_up_by_its_carrier():
    assert Path("/sys/class/net/lo/operstate").read_text().strip() == "unknown"
    assert Bridge("lo").measure() is True


@pytest.mark.parametrize("name", ["", "a/b", "..", "with space", "x" * 16, "tab\t"])
def test_a_bridge_name_that_is_none_names_the_key(name):
    with pytest.raises(OptionError) as problem:
        Bridge(name)
    assert problem.value.key == "bridge"


# --- processor ----------------------------------------------------------------------------------------------------


def proc_stat(root, busy, idle, guest=0):
    (root / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 {guest} 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")


def process(root, pid, ticks, start=777, name="qemu (x) y"):
    (root / str(pid)).mkdir(exist_ok=True)
    fields = [
        "S",
        "1",
        "1",
        "1",
        "0",
        "-1",
        "0",
        "0",
        "0",
        "0",
        "0",
        str(ticks - 1),
        "1",
        "0",
        "0",
        "20",
        "0",
        "4",
        "0",
    ]
    (root / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join([*fields, str(start), '0', '0'])}\n")


UP = EngineFacts(EngineStatus(Vm.UP, Health.UNKNOWN, "Up"), pid=42)
DOWN = EngineFacts(EngineStatus(Vm.DOWN, Health.UNKNOWN, "Down"))


class Load:
    """A CpuLoad over a tree of its own, stepped by the test."""

    def __init__(self, root):
        self.root, self.now, self.facts = root, 0.0, Reading.of(DOWN)
        self.load = CpuLoad(EngineCpu(lambda: self.facts, ProcessTimes(root)), lambda: self.now, root)
        self.busy = self.idle = 0

    def step(self, busy, idle, seconds=10.0):
        self.busy += busy
        self.idle += idle
        self.now += seconds
        proc_stat(self.root, self.busy, self.idle, guest=10**9)  # guest time is in user time already
        return self.load.measure()


@pytest.fixture
def load(tmp_path):
    load = Load(tmp_path)
    with pytest.raises(Unmeasured) as problem:
        load.step(5000, 5000)
    assert problem.value.why == "not-yet"  # what happened since boot says nothing of now
    return load


def test_load_without_an_engine(load):
    assert load.step(400, 600) == pytest.approx(0.4)


def test_the_window_is_a_minute(load):
    assert load.step(1000, 0) == 1.0
    for _ in range(5):
        last = load.step(0, 1000)
    assert last == pytest.approx(1 / 6)
    assert load.step(0, 1000) == 0.0


def test_the_engines_part_by_its_process(load):
    load.step(0, 1)
    load.facts = Reading.of(UP)
    process(load.root, 42, 100)
    load.step(100, 100)  # it began in this step: all it used, it used now
    process(load.root, 42, 400)
    assert load.step(500, 500) == pytest.approx((0 + 200) / 1201)


def test_the_engines_part_by_libvirts_counter(tmp_path):
    load = Load(tmp_path)
    load.facts = Reading.of(EngineFacts(UP.status, counters=GuestCounters(1.0, 10.0)))
    with pytest.raises(Unmeasured):
        load.step(0, 0)
    load.facts = Reading.of(EngineFacts(UP.status, counters=GuestCounters(11.0, 12.0)))
    assert load.step(5 * TICKS_PER_SECOND, 5 * TICKS_PER_SECOND) == pytest.approx(0.3)


def test_an_engine_whose_part_is_unknown_makes_the_load_unknown(load):
    load.facts = Reading.of(EngineFacts(UP.status))
    with pytest.raises(Unmeasured) as problem:
        load.step(500, 500)
    assert problem.value.why == "no-data"


def test_time_with_an_unknown_engine_is_left_out(load):
    assert load.step(100, 900) == pytest.approx(0.1)
    load.facts = Reading.of(EngineFacts(UP.status))
    assert load.step(1000, 0) == pytest.approx(0.1)


def test_while_libvirt_is_away_the_last_process_is_followed(load):
    process(load.root, 42, 100)
    load.facts = Reading.of(UP)
    load.step(100, 0)
    load.facts = Reading.missing("no-libvirt")
    process(load.root, 42, 200)
    assert load.step(100, 100) == pytest.approx(0.0)


def test_another_process_with_the_same_pid_is_not_the_engine():
    assert engine_share(EngineTicks("42/1", 900), EngineTicks("42/2", 10)) is None
    assert engine_share(EngineTicks("42/1", 900), EngineTicks()) is None


def test_of_this_machine():
    busy, total = parse_system(Path("/proc/stat").read_text())
    assert 0 < busy < total
    assert one_minute_load() >= 0
    start, used = ProcessTimes().used(os.getpid())
    assert start > 0
    assert used >= 0
    assert ProcessTimes().used(2**22 + 1) is None
    assert ProcessTimes().vcpu_demand(os.getpid()) is None  # no thread of ours is a virtual CPU


def test_the_demand_of_virtual_cpus(tmp_path):
    for thread, name, times in (
        (5, "qemu-kvm", "9 9 9"),
        (10, "CPU 1/KVM", "3000000000 500000000 7"),
        (7, "CPU 0/TCG", "1 1 1"),
    ):
        directory = tmp_path / "42" / "task" / str(thread)
        directory.mkdir(parents=True)
        (directory / "comm").write_text(name + "\n")
        (directory / "schedstat").write_text(times + "\n")
    assert ProcessTimes(tmp_path).vcpu_demand(42) == (2e-9, 3.5)
    (tmp_path / "42" / "task" / "10" / "schedstat").write_text("nonsense\n")
    assert ProcessTimes(tmp_path).vcpu_demand(42) is None


@given(st.text())
def test_any_stat_is_parsed_or_refused(text):
    try:
        busy, total = parse_system(text)
        assert busy <= total
    except Unmeasured as problem:
        assert problem.why == "format"
    with contextlib.suppress(ValueError):
        parse_stat(text)


@given(st.text(st.characters(exclude_characters="\n")), st.integers(0, 2**60), st.integers(0, 2**60))
def test_a_process_may_have_any_name(name, start, ticks):
    text = f"42 ({name}) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 3 0 0 20 0 4 0 {start} 0 0"
    assert parse_stat(text) == (start, ticks + 3)
