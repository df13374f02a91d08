"""Two hosts change the shared configuration: with real sanlock daemons, accelerated, and a process per host."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ovirt_he_ha.client.archive_lock import PLACE, RESOURCE
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.storage import io_process
from ovirt_he_ha.storage.archive import build_archive, read_archive
from tests.client.deployed import UUIDS
from tests.contract.sanlock_cluster import REAL_SCALE, RealCluster, missing

pytestmark = [pytest.mark.contract, pytest.mark.system_python]

LS = b"hosted-engine"
ROUNDS = 200
MEMBERS = {
    "version": b"0.1.0",
    "fhanswers.conf": b"",
    "hosted-engine.conf": b"fqdn=engine.example\ntcp_t_address=0\ngateway=0\n",
    "broker.conf": b"[email]\nsmtp-port=25\n",
    "vm.conf": b"vmId=x\n",
}


class Setter:
    """A host's process that changes settings."""

    def __init__(self, root, run_dir, seconds, *io_program):
        program = str(Path(__file__).with_name("setter.py"))
        env = {**os.environ, "SANLOCK_RUN_DIR": str(run_dir), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        self.process = subprocess.Popen(
            [sys.executable, program, str(root), str(seconds), *map(str, io_program)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def tell(self, *request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def set(self, *request):
        self.tell(*request)
        return self.answer()[0]

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=20)

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


class House:
    """Two deployed hosts with a sanlock each on one storage; joined, the place of the lock not yet formatted."""

    def __init__(self, root):
        self.root = root
        self.cluster = RealCluster(root)
        self.setters = []
        images = root / "storage" / UUIDS["sdUUID"] / "images"
        self.lockspace = self._volume(images, "lockspace", 16 << 20)
        self.archive = self._volume(images, "conf", 1 << 20)
        with self.archive.open("r+b") as file:
            file.write(build_archive(MEMBERS))
        metadata = root / "storage" / UUIDS["sdUUID"] / "dom_md" / "metadata"
        metadata.parent.mkdir()
        metadata.write_text("BLOCK_SIZE=512\n")
        self.hosts = [self.cluster.host(number) for number in (1, 2)]
        for number in (1, 2):
            self._deploy(number)
            self.hosts[number - 1].start()
        self.hosts[0].api("write_lockspace", LS, str(self.lockspace))

    def _volume(self, images, kind, size):
        path = images / UUIDS[f"{kind}_image_UUID"] / UUIDS[f"{kind}_volume_UUID"]
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def _deploy(self, number):
        paths = HostPaths(self.root / f"root{number}")
        for directory in (paths.hosted_engine_conf.parent, paths.state_dir, paths.run_dir):
            directory.mkdir(parents=True)
        lines = [f"{key}={value}" for key, value in UUIDS.items()]
        lines += ["fqdn=engine.example", f"host_id={number}", "domainType=local", f"storage={self.root / 'storage'}"]
        lines += ["bridge=br0", "gateway=192.0.2.1"]
        paths.hosted_engine_conf.write_text("\n".join(lines) + "\n")

    def join(self, *numbers):
        joining = [
            threading.Thread(target=self.hosts[n - 1].api, args=("add_lockspace", LS, n, str(self.lockspace)))
            for n in numbers
        ]
        for each in joining:
            each.start()
        for each in joining:
            each.join()

    def format(self):
        self.hosts[0].api("write_resource", LS, RESOURCE.encode(), [(str(self.lockspace), PLACE)])

    def owners(self):
        return self.hosts[0].api("read_resource_owners", LS, RESOURCE.encode(), [(str(self.lockspace), PLACE)])

    def setter(self, number, seconds=20.0):
        made = Setter(self.root / f"root{number}", self.hosts[number - 1].run_dir, seconds)
        self.setters.append(made)
        return made

    def value(self, key, kind):
        member = "hosted-engine.conf" if kind == "he_shared" else "broker.conf"
        lines = read_archive(self.archive)[member].decode().splitlines()
        return next(line.partition("=")[2] for line in lines if line.startswith(key.rpartition(".")[2] + "="))

    def close(self):
        for each in self.setters:
            each.close()
        self.cluster.close()


@pytest.fixture
def house(tmp_path):
    if missing():
        pytest.skip(missing())
    made = House(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(300)
def test_w31_two_hosts_change_settings_at_the_same_moment_and_no_change_is_lost(house):
    house.join(1, 2)
    house.format()
    one, two = house.setter(1), house.setter(2)
    took = []
    for number in range(1, ROUNDS + 1):
        # The same member for both in every other round.
        kinds = ("he_shared", "he_shared") if number % 2 else ("he_shared", "broker")
        second = "gateway" if kinds[1] == "he_shared" else "email.smtp-port"
        one.tell("tcp_t_address", str(number), kinds[0])
        two.tell(second, str(number), kinds[1])
        for each in (one, two):
            answer, seconds = each.answer()
            assert answer == "done"
            took.append(seconds)
        assert house.value("tcp_t_address", "he_shared") == str(number)
        assert house.value(second, kinds[1]) == str(number)
    assert house.value("gateway", "he_shared") == str(ROUNDS - 1)
    assert {name: read_archive(house.archive)[name] for name in ("version", "vm.conf")} == {
        name: MEMBERS[name] for name in ("version", "vm.conf")
    }
    assert house.owners() == []
    took.sort()
    print(f"{len(took)} changes: median {took[len(took) // 2] * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms")


def test_the_first_change_of_a_deployment_formats_the_place(house):
    house.join(1, 2)
    assert house.setter(1).set("gateway", "1", "he_shared") == "done"
    assert house.setter(2).set("tcp_t_address", "2", "he_shared") == "done"
    assert house.value("gateway", "he_shared") == "1"
    assert house.owners() == []


def test_a_change_waits_for_the_other_hosts(house):
    house.join(1, 2)
    house.format()
    one, two = house.setter(1), house.setter(2, 2.0)
    holder = hold(house, 1)
    try:
        assert two.set("gateway", "1", "he_shared") == "lock-held"
        assert house.value("gateway", "he_shared") == "0"
        one.tell("gateway", "2", "he_shared")  # another process of the same host waits as well
        time.sleep(0.3)
        assert house.value("gateway", "he_shared") == "0"
    finally:
        holder.communicate(b"release\n", timeout=20)
    assert one.answer()[0] == "done"
    assert house.value("gateway", "he_shared") == "2"


def test_restoring_the_copy_waits_for_the_other_hosts_too(house):
    house.join(1, 2)
    house.format()
    one, two = house.setter(1), house.setter(2, 2.0)
    assert one.set("gateway", "1", "he_shared") == "done"
    holder = hold(house, 1)
    try:
        assert two.set("", "", "restore") == "lock-held"
        assert house.value("gateway", "he_shared") == "1"
    finally:
        holder.communicate(b"release\n", timeout=20)
    assert two.set("", "", "restore") == "hosted-engine.conf"
    assert house.value("gateway", "he_shared") == "0"
    assert one.set("tcp_t_address", "3", "he_shared") == "done"
    assert house.owners() == []


def hold(house, number):
    """The lock, held by a process of a host that does nothing with it."""
    import sanlock

    from ovirt_he_ha.lease import resource_holder

    words = [os.path.dirname(sanlock.__file__), LS.decode(), RESOURCE, str(house.lockspace), str(PLACE)]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", resource_holder.__file__, *words],
        env={**os.environ, "SANLOCK_RUN_DIR": str(house.hosts[number - 1].run_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.timeout(120)
def test_a_host_that_dies_within_a_change_gives_way_when_it_is_dead(house):
    house.join(1, 2)
    house.format()
    two = house.setter(2, 40.0)
    holder = hold(house, 1)
    began = time.monotonic()
    house.hosts[0].kill()
    holder.wait(20)  # without its sanlock nobody keeps the lock for it
    assert two.set("gateway", "1", "he_shared") == "done"
    # DEAD comes 140 s after the last renewal; that one may have been 20 s before.
    assert time.monotonic() - began > (140 - 25) / REAL_SCALE
    assert house.value("gateway", "he_shared") == "1"
    house.hosts[0].start()


def test_a_killed_command_line_leaves_no_lock_and_no_change(house):
    house.join(1, 2)
    house.format()
    holder = hold(house, 1)
    waiting = house.setter(1)
    waiting.tell("gateway", "1", "he_shared")
    time.sleep(0.2)
    waiting.process.send_signal(signal.SIGKILL)
    waiting.process.wait(20)
    house.setters.remove(waiting)
    for stream in (waiting.process.stdin, waiting.process.stdout):
        stream.close()
    holder.kill()  # the one who had it, too
    holder.communicate(timeout=20)
    assert house.setter(2).set("tcp_t_address", "2", "he_shared") == "done"
    assert house.value("gateway", "he_shared") == "0"
    assert house.cluster.eventually(lambda: house.owners() == [], 20)


# The real program, whose write of the archive waits until a file is gone.
SLOW = """
import importlib.util, os, time
spec = importlib.util.spec_from_file_location("io_process_itself", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
perform = module._perform
def slow(path, operation, offset, *rest):
    if operation == module.WRITE and offset == 0:
        open({flag!r}, "w").close()
        while os.path.exists({flag!r}):
            time.sleep(0.01)
    return perform(path, operation, offset, *rest)
module._perform = slow
main = module.main
"""


def test_a_command_that_is_killed_within_its_write_keeps_the_lock_until_the_write_is_there(house, tmp_path):
    """Else the write arrives after the next host's change, which was acknowledged, and undoes it."""
    house.join(1, 2)
    house.format()
    program, flag = tmp_path / "slow_io_process.py", tmp_path / "writing"
    program.write_text(SLOW.format(path=io_process.__file__, flag=str(flag)))
    killed = Setter(house.root / "root1", house.hosts[0].run_dir, 20.0, program)
    killed.tell("gateway", "1", "he_shared")
    assert house.cluster.eventually(flag.exists, 200)
    killed.kill()
    two = house.setter(2)
    two.tell("tcp_t_address", "2", "he_shared")
    time.sleep(1.0)  # the time in which it would be done
    assert house.value("tcp_t_address", "he_shared") == "0"
    flag.unlink()
    assert two.answer()[0] == "done"
    assert (house.value("gateway", "he_shared"), house.value("tcp_t_address", "he_shared")) == ("1", "2")
    assert house.cluster.eventually(lambda: house.owners() == [], 20)


def test_without_the_lock_nothing_is_changed_and_the_reason_is_named(house):
    one = house.setter(1)
    before = house.archive.read_bytes()
    assert one.set("gateway", "1", "he_shared") == "lock-not-joined"
    house.join(1)
    other = [(str(house.lockspace), PLACE)]
    house.hosts[0].api("write_resource", LS, b"another", other)
    assert one.set("gateway", "1", "he_shared") == "lock-in-use"
    with open(house.lockspace, "r+b") as file:
        for foreign in (build_archive(MEMBERS), b"QFI\xfb".ljust(4096, b"\0")):  # what sanlock itself calls unformatted
            file.seek(PLACE)
            file.write(foreign)
            file.flush()
            assert one.set("gateway", "1", "he_shared") == "lock-in-use"
            file.seek(PLACE)
            assert file.read(len(foreign)) == foreign
    with open(house.lockspace, "r+b") as file:
        file.truncate(PLACE)
    assert one.set("gateway", "1", "he_shared") in ("lock-too-small", "lock-error")
    assert house.lockspace.stat().st_size == PLACE
    house.hosts[0].kill()
    assert one.set("gateway", "1", "he_shared") == "lock-no-sanlock"
    assert house.archive.read_bytes() == before
    house.hosts[0].start()


def test_what_is_only_on_this_host_needs_no_lock(house):
    assert house.setter(1).set("gateway", "192.0.2.7", "he_local") == "done"
