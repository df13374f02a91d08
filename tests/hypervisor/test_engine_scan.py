from ovirt_he_ha.hypervisor.engine_scan import FULL, YOUNG, EngineScan
from ovirt_he_ha.hypervisor.process import EngineProcess


class Table:
    """What the scan asks for, and what is an engine."""

    def __init__(self):
        self.engines = {}
        self.asked = []

    def find(self, vmid, pids=None):
        self.asked = list(pids)
        return [self.engines[pid] for pid in pids if pid in self.engines]

    def runs(self, process):
        return self.engines.get(process.pid) == process


class Bench:
    def __init__(self, tmp_path):
        self.proc = tmp_path
        self.table = Table()
        self.now = 0.0
        self.scan = EngineScan("vm", self.table, str(tmp_path), lambda: self.now)
        for pid in (1, 2, 3):
            self.born(pid)
        (tmp_path / "meminfo").touch()

    def born(self, pid):
        (self.proc / str(pid)).mkdir()

    def ends(self, pid):
        (self.proc / str(pid)).rmdir()

    def find(self, after=0.0):
        self.now += after
        return [process.pid for process in self.scan.find()]


def test_old_processes_are_not_looked_at_again(tmp_path):
    bench = Bench(tmp_path)
    assert bench.find() == []
    assert bench.table.asked == [1, 2, 3]
    bench.find(after=YOUNG)
    assert bench.table.asked == []


def test_a_process_that_becomes_qemu_is_found(tmp_path):
    bench = Bench(tmp_path)
    bench.find()
    bench.born(4)
    assert bench.find(after=YOUNG) == []
    bench.table.engines[4] = EngineProcess(4, 99)
    assert bench.find(after=2) == [4]


def test_an_engine_is_looked_at_each_time_until_it_is_gone(tmp_path):
    bench = Bench(tmp_path)
    bench.table.engines[2] = EngineProcess(2, 99)
    assert bench.find() == [2]
    assert bench.find(after=2 * YOUNG) == [2]
    assert 2 not in bench.table.asked  # a process that hangs may not even tell its name
    assert [process.pid for process in bench.scan.known(2)] == [2]
    bench.ends(2)
    del bench.table.engines[2]
    assert bench.find(after=2) == []
    assert bench.scan.known(2) == []


def test_a_pid_that_was_used_again_is_found_by_the_full_look(tmp_path):
    bench = Bench(tmp_path)
    bench.find()
    bench.table.engines[3] = EngineProcess(3, 1234)
    assert bench.find(after=YOUNG) == []
    assert bench.find(after=FULL - YOUNG) == [3]
