"""Hosts for the sanlock cases: with real daemons, accelerated, or with the fake. One interface, so one set of cases.

libsanlock looks for its daemon once per process, so each real host has a client process of its own (this file, run as a
program) that makes the calls and runs the class under test.
"""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease.lockspace import SanlockLockspaces
from tests.contract.fake_clock import forget
from tests.lease.fake_sanlock import FakeSanlock, SanlockException, Storage

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
REAL_SCALE = 20.0
FAKE_SCALE = 200.0
SD = "11111111-0000-4000-8000-000000000000"
KEY = "22222222-0000-4000-8000-000000000000"
NAME = SD.encode()


class Refused(Exception):
    """A SanlockException; its number."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class Places:
    def __init__(self, directory):
        self.ids = f"{directory}/ids"
        self.whiteboard = f"{directory}/hosted-engine.lockspace"
        self.lease = LeaseId(SD, KEY, f"{directory}/disk.lease", 0)
        self.disks = [(self.lease.path, 0)]
        self.unformatted = f"{directory}/unformatted"


def make_lockspaces(places, scale, api, may_join):
    return SanlockLockspaces(
        places.lease,
        places.ids,
        places.whiteboard,
        SystemClock(scale),
        may_join=may_join,
        ask_watchdog=lambda: None,
        api=api,
    )


class Cluster:
    def __init__(self, directory):
        self.places = Places(directory)
        self.hosts = {}

    def host(self, number, name=None):
        if number not in self.hosts:
            self.hosts[number] = self.new_host(number, name or f"host{number}")
        return self.hosts[number]

    def format(self, host):
        host.api("write_lockspace", NAME, self.places.ids)
        host.api("write_lockspace", b"hosted-engine", self.places.whiteboard)
        host.api("write_resource", NAME, KEY.encode(), self.places.disks)

    def eventually(self, look, seconds):
        """The first true value of ``look`` within product seconds, and room for a busy machine."""
        end = time.monotonic() + seconds / self.scale + 5
        while True:
            value = look()
            if value:
                return value
            assert time.monotonic() < end, f"not within {seconds} s: {look()}"
            time.sleep(0.01)

    def close(self):
        for host in self.hosts.values():
            host.close()


# --- the fake -------------------------------------------------------------------------------------------------------


class FakeCluster(Cluster):
    scale = FAKE_SCALE

    def __init__(self, directory):
        super().__init__(directory)
        self.storage = Storage(self.scale)

    def new_host(self, number, name):
        return FakeHost(FakeSanlock(self.storage, name), self.places, self.scale)


class FakeHost:
    def __init__(self, daemon, places, scale):
        self.daemon = daemon
        self.places = places
        self.scale = scale
        self.lockspaces = None
        self.allowed = True
        self.start = daemon.start
        self.kill = daemon.kill
        self.hang = daemon.hang

    def api(self, call, *arguments, **options):
        try:
            return getattr(self.daemon, call)(*arguments, **options)
        except SanlockException as error:
            raise Refused(error.args[0]) from error

    def take(self):
        self.daemon.take(self.places.lease.path)

    def want(self, host_id):
        if self.lockspaces is None:
            self.lockspaces = make_lockspaces(self.places, self.scale, self.daemon, lambda: self.allowed)
        self.lockspaces.want(host_id)

    def may_join(self, allowed):
        self.allowed = allowed

    def facts(self):
        return self.lockspaces.facts()

    def leave(self, deadline):
        self.lockspaces.leave(deadline)

    def close(self):
        self.daemon.hang(False)
        if self.lockspaces is not None:
            self.lockspaces.close()


# --- real daemons ---------------------------------------------------------------------------------------------------


def missing():
    """What this machine lacks for real daemons."""
    if shutil.which("sanlock", path="/usr/sbin:/usr/bin") is None:
        return "sanlock is missing (package sanlock)"
    if not os.path.exists(FAKETIME):
        return "libfaketime is missing (package faketime)"
    try:
        importlib.import_module("sanlock")
    except ImportError:
        return "Python module sanlock is missing (package python3-sanlock)"
    return ""


class RealCluster(Cluster):
    scale = REAL_SCALE

    def __init__(self, directory):
        super().__init__(directory)
        self.directory = Path(directory)
        for path in (self.places.ids, self.places.whiteboard, self.places.lease.path, self.places.unformatted):
            with open(path, "wb") as file:
                file.truncate(1 << 20)

    def new_host(self, number, name):
        return RealHost(self.directory / f"run{number}", name, self.places)


class RealHost:
    def __init__(self, run_dir, name, places):
        self.run_dir = run_dir
        self.name = name
        self.places = places
        self.daemon = None
        run_dir.mkdir()
        ours, theirs = socket.socketpair()
        self.client = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno()), str(Path(places.ids).parent)],
            env={
                **os.environ,
                "SANLOCK_RUN_DIR": str(run_dir),
                "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            },
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.connection = Connection(ours.detach())

    def start(self):
        env = {**os.environ, "SANLOCK_RUN_DIR": str(self.run_dir), "SANLOCK_PRIVILEGED": "0"}
        env.update(LD_PRELOAD=FAKETIME, FAKETIME=f"+0 x{REAL_SCALE:g}")
        options = ["-D", "-w", "0", "-h", "0", "-l", "0", "-U", "root", "-G", "root", "-e"]
        with open(self.run_dir / "log", "ab") as output:
            self.daemon = subprocess.Popen(
                ["/usr/sbin/sanlock", "daemon", *options, self.name], env=env, stdout=output, stderr=output
            )
        end = time.monotonic() + 10
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self.run_dir / "sanlock.sock")):
                assert time.monotonic() < end and self.daemon.poll() is None, (self.run_dir / "log").read_text()
                time.sleep(0.01)

    def kill(self):
        self.daemon.kill()
        self.daemon.wait(10)
        forget(self.daemon.pid)

    def hang(self, hung=True):
        self.daemon.send_signal(19 if hung else 18)

    def ask(self, *request):
        self.connection.send(request)
        assert self.connection.poll(60), f"no answer to {request}"
        kind, value = self.connection.recv()
        if kind == "refused":
            raise Refused(value)
        assert kind == "done", value
        return value

    def api(self, call, *arguments, **options):
        return self.ask("api", call, arguments, options)

    def take(self):
        self.ask("take")

    def give_back(self):
        self.ask("give_back")

    def want(self, host_id):
        self.ask("want", host_id)

    def may_join(self, allowed):
        self.ask("may_join", allowed)

    def facts(self):
        return self.ask("facts")

    def leave(self, deadline):
        self.ask("leave", deadline)

    def close(self):
        self.connection.close()
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill()
        try:
            self.client.wait(5)
        except subprocess.TimeoutExpired:
            self.client.kill()
            self.client.wait(5)


class Client:
    """The client process of one real host."""

    def __init__(self, places):
        import sanlock

        self.sanlock = sanlock
        self.places = places
        self.allowed = True
        self.lockspaces = None

    def answer(self, request):
        name, *arguments = request
        try:
            return "done", getattr(self, name)(*arguments)
        except self.sanlock.SanlockException as error:
            return "refused", error.args[0]
        except Exception as error:
            return "failed", repr(error)

    def api(self, call, arguments, options):
        return getattr(self.sanlock, call)(*arguments, **options)

    def take(self):
        self.descriptor = self.sanlock.register()
        self.sanlock.acquire(NAME, KEY.encode(), self.places.disks, slkfd=self.descriptor)

    def give_back(self):
        self.sanlock.release(NAME, KEY.encode(), self.places.disks, slkfd=self.descriptor)

    def want(self, host_id):
        if self.lockspaces is None:
            self.lockspaces = make_lockspaces(self.places, REAL_SCALE, None, lambda: self.allowed)
        self.lockspaces.want(host_id)

    def may_join(self, allowed):
        self.allowed = allowed

    def facts(self):
        facts = self.lockspaces.facts()
        hosts = facts.hosts
        if hosts.known:  # a mapping proxy does not travel
            facts = replace(facts, hosts=replace(hosts, value=dict(hosts.value)))
        return facts

    def leave(self, deadline):
        self.lockspaces.leave(deadline)


def serve(descriptor, directory):
    client = Client(Places(directory))
    with Connection(descriptor) as connection:
        while True:
            try:
                request = connection.recv()
            except EOFError:
                os._exit(0)  # a thread may hang in a call
            connection.send(client.answer(request))


@pytest.fixture(params=["fake", "real"])
def cluster(request, tmp_path):
    if request.param == "real" and missing():
        pytest.skip(missing())
    made = FakeCluster(tmp_path) if request.param == "fake" else RealCluster(tmp_path)
    yield made
    made.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
