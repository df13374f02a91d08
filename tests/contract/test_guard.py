"""The guard against real sanlock daemons, twenty times as fast; a registered child process stands in for qemu."""

import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from ovirt_he_ha.broker.join_rule import JoinRule
from ovirt_he_ha.hypervisor.process import ProcessTable
from ovirt_he_ha.lease.daemon_status import Space, ask
from tests.contract.sanlock_cluster import KEY, NAME, REAL_SCALE, SD, RealCluster, missing

pytestmark = pytest.mark.contract

IO_TIMEOUT = 10
LIMIT = 8 * IO_TIMEOUT / REAL_SCALE
ROOT = Path(__file__).resolve().parents[2]

# Registers, takes the lease when told to, and lives on: what libvirt's lock manager does around qemu.
STAND_IN = """
import sys
if "register" in sys.argv:
    import sanlock
    descriptor = sanlock.register()
print("up", flush=True)
for line in sys.stdin:
    sanlock.acquire(sys.argv[1].encode(), sys.argv[2].encode(), [(sys.argv[3], 0)], slkfd=descriptor)
    print("held", flush=True)
"""


class Site:
    """One host with the lockspace joined, and a second one beside it."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.places = cluster.places
        self.vmid = str(uuid.uuid4())
        self.processes = []
        self.host = cluster.host(1)
        self.host.start()
        cluster.format(self.host)
        self.host.api("add_lockspace", NAME, 1, self.places.ids)

    @property
    def env(self):
        return {
            **os.environ,
            "SANLOCK_RUN_DIR": str(self.host.run_dir),
            "HE_TIME_SCALE": f"{REAL_SCALE:g}",
            "PYTHONPATH": str(ROOT),
        }

    @property
    def socket(self):
        return str(self.host.run_dir / "sanlock.sock")

    def engine(self, *options, hold=True):
        process = subprocess.Popen(
            ["qemu-system-x86_64", "-c", STAND_IN, SD, KEY, self.places.lease.path, "-uuid", self.vmid, *options],
            executable=sys.executable,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout.readline() == "up\n"
        if hold:
            process.stdin.write("acquire\n")
            process.stdin.flush()
            assert process.stdout.readline() == "held\n"
        return process

    def guard(self):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.guard_process", self.vmid, self.places.lease.path],
            env=self.env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return Reports(process)

    def guarded(self):
        engine, reports = self.engine("register"), self.guard()
        reports.until("guarded")
        return engine, reports

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait(10)


class Reports:
    def __init__(self, process):
        self.seen = []
        self.lines = queue.Queue()
        threading.Thread(target=self.read, args=(process.stdout,), daemon=True).start()

    def read(self, stream):
        for line in stream:
            self.lines.put(line.strip())

    def until(self, wanted, seconds=20):
        end = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {wanted!r} within {seconds} s, but {self.seen}") from None
            self.seen.append(line)
            if line == wanted:
                return


@pytest.fixture
def site(tmp_path):
    if missing():
        pytest.skip(missing())
    cluster = RealCluster(tmp_path)
    made = Site(cluster)
    yield made
    made.close()
    cluster.close()


def died_after(engine, since, limit=20):
    engine.wait(limit)
    assert engine.returncode == -9
    return time.monotonic() - since


def test_what_the_daemon_says_of_itself(site):
    engine = site.engine("register")
    status = ask(site.socket)
    assert status.watchdog is False  # it was started with -w 0
    space = status.spaces[SD]
    assert space == Space(1, 1, IO_TIMEOUT, space.renewed_ago)
    assert 0 <= space.renewed_ago <= 41
    assert engine.pid in status.clients
    assert status.held == ((SD, KEY, engine.pid),)
    assert site.host.api("inquire", pid=engine.pid)[0]["resource"] == KEY.encode()
    engine.kill()
    engine.wait(10)
    site.cluster.eventually(lambda: not ask(site.socket).held, 20)


def test_a_guarded_engine_lives(site):
    engine, _ = site.guarded()
    with pytest.raises(subprocess.TimeoutExpired):
        engine.wait(9 * IO_TIMEOUT / REAL_SCALE)


def test_s11_sanlock_is_killed(site):
    engine, reports = site.guarded()
    killed = time.monotonic()
    site.host.kill()
    assert died_after(engine, killed) < LIMIT
    reports.until("killing guard-gone")


def test_s11_sanlock_hangs(site):
    """No answer, no renewal: dead between the 6th and the 8th io_timeout after the last renewal."""
    engine, reports = site.guarded()
    renewed_ago = ask(site.socket).spaces[SD].renewed_ago / REAL_SCALE
    site.host.hang()
    hung = time.monotonic()
    try:
        silent = died_after(engine, hung) + renewed_ago
    finally:
        site.host.hang(False)
    assert 5.5 * IO_TIMEOUT / REAL_SCALE < silent < LIMIT
    reports.until("killing guard-unconfirmed")


def test_s11_sanlock_was_started_again(site):
    """The new daemon does not know the process: no join before it is gone, and it goes at once."""
    may_join = JoinRule(ProcessTable(), site.vmid, lambda: ask(site.socket))
    engine = site.engine("register")
    assert may_join()
    site.host.kill()
    assert not may_join()
    site.host.start()
    assert not may_join()
    restarted = time.monotonic()
    site.guard().until("killing guard-unknown-process")
    assert died_after(engine, restarted) < LIMIT
    assert may_join()


def test_s12_somebody_else_owns_the_lease(site):
    """The resource was written anew, and another host took it."""
    engine, reports = site.guarded()
    other = site.cluster.host(2)
    other.start()
    other.api("add_lockspace", NAME, 2, site.places.ids)
    other.api("write_resource", NAME, KEY.encode(), site.places.disks)
    stolen = time.monotonic()
    other.take()
    # read within 5 s of the product, confirmed within 2; wall seconds for a busy machine
    assert died_after(engine, stolen) < 7 / REAL_SCALE + 1.5
    reports.until("killing guard-other-owner")


def test_s12_an_engine_started_by_hand_without_a_guard(site):
    site.guard()
    engine = site.engine(hold=False)
    assert died_after(engine, time.monotonic()) < 5


def test_s12_an_engine_started_without_the_lease(site):
    reports = site.guard()
    engine = site.engine("register", hold=False)
    assert died_after(engine, time.monotonic(), 30) > 4  # it may be without one while it starts
    reports.until("killing guard-no-lease")
