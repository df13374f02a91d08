"""A host without storage, sanlock or libvirt: the broker's seams, held in memory."""

import errno
import threading
from dataclasses import replace

from ovirt_he_ha.core.model import HostLease, LeaseFacts, LockspaceState, Monitors, Reading
from ovirt_he_ha.storage.errors import StorageError


class ManualClock:
    """Stands still until it is told otherwise."""

    scale = 1.0

    def __init__(self, now=1000.0):
        self.now = now

    def monotonic(self):
        return self.now

    def wall(self):
        return 1_700_000_000.0 + self.now


class MemoryVolume:
    """A volume in memory. ``problem`` is raised by every transfer; ``transfers`` lists (kind, offset, length)."""

    def __init__(self, size=2001 * 4096):
        self.data = bytearray(size)
        self.problem = None
        self.transfers = []
        self.lying = False
        self.before_read = lambda offset: None
        self.closed = False
        self.late = ()
        self._lock = threading.Lock()

    def open(self):
        if self.problem is not None:
            raise self.problem
        self.closed = False
        return self

    def read(self, offset, length, deadline):
        assert deadline > 0
        self.before_read(offset)
        with self._lock:
            self._transfer("read", offset, length)
            return bytes(self.data[offset : offset + length])

    def write(self, offset, data, deadline):
        assert deadline > 0
        with self._lock:
            self._transfer("write", offset, len(data))
            if not self.lying:
                self.data[offset : offset + len(data)] = data

    def late_writes(self):
        return self.late

    def _transfer(self, kind, offset, length):
        assert offset % 4096 == 0
        assert length % 4096 == 0
        if self.problem is not None:
            raise self.problem
        if offset + length > len(self.data):
            raise StorageError("too-small", "/volume")
        self.transfers.append((kind, offset, length))

    def close(self, deadline):
        self.closed = True

    def put(self, host_id, data):
        self.data[host_id * 4096 : (host_id + 1) * 4096] = data.ljust(4096, b"\0")

    def slot(self, host_id):
        return bytes(self.data[host_id * 4096 : (host_id + 1) * 4096])


class FakeLockspaces:
    """Joins at once unless ``stuck``."""

    def __init__(self, hosts=(1, 2)):
        self.lock = threading.Lock()
        self.stuck = LockspaceState.HELD
        self.wanted = None
        self.left = 0
        self.alert = None
        self.current = LeaseFacts(
            lockspace=Reading.of(LockspaceState.NOT_HELD),
            whiteboard=Reading.of(LockspaceState.NOT_HELD),
            hosts=Reading.of({host_id: HostLease.LIVE for host_id in hosts}),
        )

    def want(self, host_id):
        with self.lock:
            self.wanted = host_id
            self.current = replace(
                self.current, lockspace=Reading.of(self.stuck), whiteboard=Reading.of(self.stuck), own_generation=1
            )

    def facts(self):
        return self.current

    def states(self):
        return self.current.lockspace, self.current.whiteboard

    def problems(self):
        return {"hosted-engine": "what sanlock said"}

    def set_alert(self, alert):
        self.alert = alert

    def leave(self, deadline):
        with self.lock:
            self.left += 1
            self.current = replace(self.current, whiteboard=Reading.of(LockspaceState.NOT_HELD))


class FakeMonitors:
    def __init__(self):
        self.values = Monitors()
        self.texts = {"network": "None", "mgmt-bridge": "None", "mem-free": "4096"}
        self.running = False

    def start(self):
        self.running = True

    def stop(self, deadline):
        self.running = False
        return True

    def monitors(self):
        return self.values

    def types(self):
        return tuple(self.texts)

    def legacy_text(self, name):
        return self.texts[name]

    def check_start(self, name, options):
        if options.get("addr") == "":
            raise ValueError("addr: expected an address")
        return name


class FakeNotifier:
    def __init__(self):
        self.events = []

    def start(self):
        pass

    def stop(self, deadline):
        pass

    def notify(self, event, detail, options):
        self.events.append((event, detail, dict(options)))
        return "sent"


def missing():
    return StorageError("missing", "/volume", errno.ENOENT)
