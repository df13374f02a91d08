"""The lease cases' hosts as real sanlock daemons: accelerated, each in a run directory of its own, on files.

Product seconds are wall seconds times the acceleration. Nothing here is killed by name.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from ovirt_he_ha.core.model import LeaseId, LeaseOwner
from ovirt_he_ha.lease import daemon_status
from ovirt_he_ha.lease.leader import owner_in
from ovirt_he_ha.lease.vm_lease import LeaseUnreadable
from tests.contract.fake_clock import forget
from tests.contract.sanlock_cluster import FAKETIME, REAL_SCALE
from tests.contract.storage_view import StorageView

SPACE = "storage-domain"
KEY = "engine-disk"
PROGRAM = Path(__file__).with_name("sanlock_process.py")
FLAGS = {1: "unknown", 2: "free", 3: "live", 4: "fail", 5: "dead"}
# One host id's sector: as the resource's, with the host's own name where that has the resource's.
_DELTA = struct.Struct("<IIIIQQQQQ48s48sQ")


class Answer:
    """Of a call that may take minutes. ``code`` 0: good; ``took`` in product seconds."""

    def __init__(self):
        self.event = threading.Event()
        self.code = None
        self.value = None
        self.took = None

    @property
    def done(self):
        return self.event.is_set()


def summary(status):
    """(host id, generation) of the lockspace, age of its renewal, number of leases held."""
    space = status.spaces.get(SPACE)
    if space is None:
        return None, None, len(status.held)
    return (space.host_id, space.generation), space.renewed_ago, len(status.held)


class Process:
    """A process of one host: it asks its daemon, or holds a lease. ``name`` and ``options``: how it looks from
    outside."""

    def __init__(self, host, name=sys.executable, options=()):
        self.popen = subprocess.Popen(
            [name, "-E", str(PROGRAM), *options],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "SANLOCK_RUN_DIR": str(host.run_dir)},
            text=True,
        )
        self.host = host
        self.waiting = {}
        self.count = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.popen.stdout:
            number, code, value, took = json.loads(line)
            answer = self.waiting.pop(number)
            answer.code, answer.value, answer.took = code, value, took * REAL_SCALE
            answer.event.set()

    def begin(self, name, *arguments):
        answer = Answer()
        self.count += 1
        self.waiting[self.count] = answer
        self.popen.stdin.write(json.dumps([self.count, name, arguments]) + "\n")
        self.popen.stdin.flush()
        return answer

    def ask(self, name, *arguments):
        answer = self.begin(name, *arguments)
        assert answer.event.wait(30), f"no answer to {name}{arguments}"
        return answer

    @property
    def alive(self):
        return self.popen.poll() is None

    def close(self):
        self.popen.kill()
        self.popen.wait(10)
        self.reader.join(10)
        self.popen.stdin.close()
        self.popen.stdout.close()


class Host:
    watchdog = "0"

    def __init__(self, cluster, number, name, clock=None):
        self.clock = clock or {"LD_PRELOAD": FAKETIME, "FAKETIME": f"+0 x{REAL_SCALE:g}"}
        self.cluster = cluster
        self.number = number
        self.name = name
        self.run_dir = cluster.directory / f"run{number}"
        self.run_dir.mkdir()
        self.daemon = None
        self.holders = {}
        self.view = None
        self.data = cluster.data
        self.starts = 0
        self.process = Process(self)

    # --- the daemon ---------------------------------------------------------------------------------------------------

    def start(self):
        env = {**os.environ, "SANLOCK_RUN_DIR": str(self.run_dir), "SANLOCK_PRIVILEGED": "0", **self.clock}
        options = ["-D", "-w", self.watchdog, "-h", "0", "-l", "0", "-U", "root", "-G", "root", "-e", self.name]
        with open(self.run_dir / "log", "ab") as output:
            self.daemon = subprocess.Popen(
                ["/usr/sbin/sanlock", "daemon", *options], env=env, stdout=output, stderr=output
            )
        end = time.monotonic() + 10
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self.run_dir / "sanlock.sock")):
                assert time.monotonic() < end and self.daemon.poll() is None, (self.run_dir / "log").read_text()
                time.sleep(0.005)
        self.starts += 1
        if self.starts > 1:  # libsanlock's connection is made for each call: the same process asks the new daemon
            assert self.process.alive

    def kill(self):
        self.daemon.kill()
        self.daemon.wait(10)
        forget(self.daemon.pid)

    def stop(self):
        self.daemon.send_signal(19)

    def go_on(self):
        self.daemon.send_signal(18)

    # --- lockspace ----------------------------------------------------------------------------------------------------

    @property
    def ids(self):
        return f"{self.data}/ids"

    @property
    def lease(self):
        return f"{self.data}/lease"

    def join(self, host_id=0):
        return self.process.begin("join", SPACE, host_id or self.number, self.ids)

    def leave(self, unused=False, host_id=0):
        return self.process.begin("leave", SPACE, host_id or self.number, self.ids, unused)

    def flags(self):
        answer = self.process.ask("hosts", SPACE)
        return {each["host_id"]: FLAGS[each["flags"] & 7] for each in answer.value} if answer.code == 0 else {}

    def asked_for(self, host_id):
        """(flag, generation) of one host id, listed or not; the call's code when it is refused."""
        answer = self.process.ask("asked_for", SPACE, host_id)
        if answer.code:
            return answer.code
        return [(FLAGS[each["flags"] & 7], each["generation"]) for each in answer.value]

    def hosts_code(self):
        return self.process.ask("hosts", SPACE).code

    def spaces(self):
        answer = self.process.ask("spaces")
        assert answer.code == 0, answer.code
        return [(each["host_id"], each["flags"]) for each in answer.value]

    def status(self):
        """As the product's guard asks."""
        return summary(daemon_status.ask(str(self.run_dir / "sanlock.sock")))

    # --- the VM's lease -----------------------------------------------------------------------------------------------

    def holder(self, who="vm"):
        """A process that is known to sanlock and holds nothing yet."""
        process = self.holders[who] = Process(self)
        assert process.ask("register").code == 0
        return process

    def take(self, who="vm"):
        process = self.holders.get(who) or self.holder(who)
        return process.begin("acquire", SPACE, KEY, self.lease)

    def give_back(self, who="vm"):
        return self.holders[who].begin("release", SPACE, KEY, self.lease)

    def crash(self, who="vm"):
        self.holders[who].popen.kill()

    def deafen(self, who="vm"):
        """SIGTERM waits until somebody lets it go on."""
        self.holders[who].popen.send_signal(19)

    def hear(self, who="vm"):
        self.holders[who].popen.send_signal(18)

    def touch_storage(self, who="vm"):
        """The holder reads its disk; while that hangs, so does the process."""
        self.holders[who].begin("read", f"{self.data}/disk")

    def alive(self, who="vm"):
        return self.holders[who].alive

    # --- storage ------------------------------------------------------------------------------------------------------

    def own_way(self):
        """From here on this host reaches the storage over a way of its own, that can fail."""
        mountpoint = self.cluster.directory / f"view{self.number}"
        mountpoint.mkdir()
        self.view = StorageView(self.cluster.view_program, self.cluster.data, mountpoint)
        self.data = mountpoint

    def storage(self, mode):
        """``ok``, ``error`` or ``hang``."""
        self.view.set(mode)

    def close(self):
        if self.view is not None:
            self.view.set("ok")
        for process in (*self.holders.values(), self.process):
            process.close()
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill()
        if self.view is not None:
            self.view.close()


class Cluster:
    """``directory``: an empty one. ``view_program``: what shows a directory that can hang (storage_view.py)."""

    real = True
    step = 0.005 * REAL_SCALE  # between two looks, product seconds

    def __init__(self, directory, view_program=None):
        self.directory = Path(directory)
        self.view_program = view_program
        self.data = self.directory / "data"
        self.data.mkdir()
        for name, size in (("ids", 1 << 20), ("lease", 1 << 20), ("disk", 4096)):
            with open(self.data / name, "wb") as file:
                file.truncate(size)
        self.hosts = {}
        self.begun = time.monotonic()

    def host(self, number, name=""):
        """A host whose daemon runs."""
        host = self.hosts[number] = Host(self, number, name or f"host{number}")
        host.start()
        if len(self.hosts) == 1:
            assert host.process.ask("format", SPACE, f"{self.data}/ids", KEY, f"{self.data}/lease").code == 0
        return host

    @property
    def now(self):
        return (time.monotonic() - self.begun) * REAL_SCALE

    def go(self, seconds):
        time.sleep(seconds / REAL_SCALE)

    def until(self, condition, limit=400.0):
        """Product seconds until it holds."""
        begun = self.now
        while not condition():
            assert self.now - begun < limit, f"not within {limit} s"
            time.sleep(self.step / REAL_SCALE)
        return self.now - begun

    def renewal(self, host_id):
        """Generation and timestamp of a host id, as they stand on the disk; (0, 0) for nobody's."""
        with open(self.data / "ids", "rb") as file:
            file.seek((host_id - 1) * 512)
            found = _DELTA.unpack(file.read(_DELTA.size))
        return found[7], found[11]

    def owner(self):
        """The lease's record as the product reads it, from the bytes on the disk."""
        with open(self.data / "lease", "rb") as file:
            data = file.read(512)
        try:
            return owner_in(data, LeaseId(SPACE, KEY, "", 0), 512)
        except LeaseUnreadable:
            return LeaseOwner(0)

    def close(self):
        for host in self.hosts.values():
            host.close()
