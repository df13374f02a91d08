"""sanlock in memory: one shared storage, a daemon per host, sanlock's own seconds ``scale`` times as fast as real ones.

What it knows it learnt from the real daemons (tests/contract/test_sanlock.py runs the same cases against both): codes,
flags, what blocks and for how long. It knows io_timeout 10 only, and no kill of a process that holds a lease.
"""

import errno
import threading
import time
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

IO_TIMEOUT = 10
JOIN = 2 * IO_TIMEOUT + 1
FAIL_AFTER = 8 * IO_TIMEOUT
DEAD_AFTER = 8 * IO_TIMEOUT + 60
RENEWAL = 2 * IO_TIMEOUT
UNKNOWN, FREE, LIVE, FAIL, DEAD = 1, 2, 3, 4, 5


class SanlockException(Exception):
    pass


def refused(code, what="Sanlock failure"):
    return SanlockException(code, what, f"code {code}")


@dataclass
class IdRecord:
    """One host id in a lockspace, on the storage. ``released``: cleanly given back."""

    owner: str
    generation: int
    renewed: float
    released: bool = False


@dataclass
class Joined:
    host_id: int
    path: str
    generation: int
    flags: int
    since: float


@dataclass
class Storage:
    scale: float
    lockspaces: Dict[str, Tuple[bytes, Dict[int, IdRecord]]] = field(default_factory=dict)
    resources: Dict[str, Tuple[bytes, bytes, List[Dict[str, int]]]] = field(default_factory=dict)
    daemons: "List[FakeSanlock]" = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def now(self) -> float:
        return time.monotonic() * self.scale


class FakeSanlock:
    """The module as one host's process sees it."""

    SanlockException = SanlockException
    LSFLAG_ADD, LSFLAG_REM = 1, 2

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.name = name
        self.running = False
        self.connected_before = False
        self.hung = False
        self.joined: Dict[bytes, Joined] = {}
        self.incarnation = 0
        storage.daemons.append(self)

    # --- what a test does to the daemon ---------------------------------------------------------------------------

    def start(self) -> None:
        with self.storage.changed:
            self.running = self.connected_before = True
            self.storage.changed.notify_all()

    def kill(self) -> None:
        """Its last renewal stays on the storage; nobody who holds a lease notices."""
        with self.storage.changed:
            self._renew()
            self.running = False
            self.incarnation += 1
            self.joined.clear()
            self.storage.changed.notify_all()

    def hang(self, hung: bool = True) -> None:
        with self.storage.changed:
            self._renew()
            self.hung = hung
            self.storage.changed.notify_all()

    def take(self, path: str) -> None:
        """A process here acquires the resource."""
        with self.storage.changed:
            lockspace, _, owners = self.storage.resources[path]
            owners[:] = [self._as_owner(lockspace)]

    def free(self, path: str) -> None:
        with self.storage.changed:
            self.storage.resources[path][2].clear()

    # --- the module -----------------------------------------------------------------------------------------------

    def write_lockspace(self, lockspace, path, *, align=1 << 20, sector=512):
        with self.storage.changed:
            self._connect()
            self.storage.lockspaces[path] = (lockspace, {})

    def write_resource(self, lockspace, resource, disks, *, align=1 << 20, sector=512):
        with self.storage.changed:
            self._connect()
            self.storage.resources[disks[0][0]] = (lockspace, resource, [])

    def get_lockspaces(self):
        with self.storage.changed:
            self._connect()
            return [
                {"lockspace": name, "host_id": each.host_id, "path": each.path, "offset": 0, "flags": each.flags}
                for name, each in self.joined.items()
            ]

    def add_lockspace(self, lockspace, host_id, path, *, wait=True):
        with self.storage.changed:
            self._connect()
            before = self.joined.get(lockspace)
            if before:
                self._refuse_second(before, host_id, path)
            if not 1 <= host_id <= 2000:
                raise refused(errno.EINVAL)
            if path not in self.storage.lockspaces:
                raise refused(-223)
            name, records = self.storage.lockspaces[path]
            if name != lockspace:
                raise refused(-224)
            self.joined[lockspace] = Joined(host_id, path, 0, self.LSFLAG_ADD, self.storage.now())
            self._acquire_id(lockspace, records, host_id)

    def rem_lockspace(self, lockspace, host_id, path, *, unused=False):
        with self.storage.changed:
            self._connect()
            joined = self.joined.get(lockspace)
            if joined is None or (joined.host_id, joined.path) != (host_id, path):
                raise refused(errno.ENOENT)
            mine = [
                path for path, (name, _, _) in self.storage.resources.items() if name == lockspace and self._owns(path)
            ]
            if unused and mine:
                raise refused(errno.EBUSY)
            for each in mine:
                self.storage.resources[each][2].clear()
            record = self._record(lockspace)
            if record is not None and joined.flags == 0:
                record.released = True
            del self.joined[lockspace]
            self.storage.changed.notify_all()

    def get_hosts(self, lockspace, host_id=0):
        with self.storage.changed:
            self._connect()
            joined = self.joined.get(lockspace)
            if joined is None or joined.flags:
                raise refused(errno.ENOENT)
            if self.storage.now() - joined.since < 1:
                raise refused(errno.EAGAIN)
            for daemon in self.storage.daemons:
                daemon._renew()
            records = self.storage.lockspaces[joined.path][1]
            return [
                {
                    "host_id": each,
                    "generation": record.generation,
                    "timestamp": int(record.renewed),
                    "io_timeout": IO_TIMEOUT,
                    "flags": 2 if record.released else self._flag(record, joined.since, each == joined.host_id),
                }
                for each, record in sorted(records.items())
                if each == host_id or (not record.released and not host_id)
            ]

    def read_resource_owners(self, lockspace, resource, disks, *, align=1 << 20, sector=512):
        with self.storage.changed:
            self._connect()
            found = self.storage.resources.get(disks[0][0])
            if found is None:
                raise refused(errno.ENOENT)
            if (found[0], found[1]) != (lockspace, resource):
                raise refused(-226 if found[0] != lockspace else -227)
            return [dict(owner) for owner in found[2]]

    # --- inside (the condition is held) ---------------------------------------------------------------------------

    def _connect(self) -> None:
        self.storage.changed.wait_for(lambda: not self.hung)
        if not self.running:
            raise refused(errno.ECONNREFUSED if self.connected_before else errno.ENOENT)

    def _refuse_second(self, before: Joined, host_id: int, path: str) -> None:
        if (before.host_id, before.path) != (host_id, path):
            raise refused(errno.EINVAL)
        raise refused(errno.EINPROGRESS if before.flags else errno.EEXIST)

    def _acquire_id(self, lockspace: bytes, records: Dict[int, IdRecord], host_id: int) -> None:
        record = records.get(host_id)
        if record and not record.released and record.owner != self.name:
            self._sleep(lockspace, DEAD_AFTER)
            for daemon in self.storage.daemons:
                daemon._renew()
            if self.storage.now() - record.renewed < DEAD_AFTER:
                del self.joined[lockspace]
                raise refused(-262, "Lease host ID is being used by another host")
        self._sleep(lockspace, JOIN)
        generation = record.generation + 1 if record else 1
        records[host_id] = IdRecord(self.name, generation, self.storage.now())
        joined = self.joined[lockspace]
        joined.flags, joined.generation, joined.since = 0, generation, self.storage.now()

    def _sleep(self, lockspace: bytes, seconds: float) -> None:
        mine, incarnation = self.joined[lockspace], self.incarnation
        end = self.storage.now() + seconds
        while self.storage.now() < end:
            self.storage.changed.wait((end - self.storage.now()) / self.storage.scale)
            if self.incarnation != incarnation:
                raise refused(errno.ECONNRESET)
            if self.joined.get(lockspace) is not mine:
                raise refused(-1)

    def _record(self, lockspace: bytes) -> Optional[IdRecord]:
        joined = self.joined.get(lockspace)
        return self.storage.lockspaces[joined.path][1].get(joined.host_id) if joined else None

    def _renew(self) -> None:
        """Renewals are computed when somebody looks."""
        for lockspace, joined in self.joined.items():
            record = self._record(lockspace)
            if self.running and not self.hung and joined.flags == 0 and record is not None:
                late = self.storage.now() - record.renewed
                record.renewed += late - late % RENEWAL

    def _flag(self, record: IdRecord, since: float, own: bool) -> int:
        silent = self.storage.now() - record.renewed
        if silent >= DEAD_AFTER:
            return DEAD
        if silent >= FAIL_AFTER:
            return FAIL
        return LIVE if own or record.renewed > since else UNKNOWN

    def _as_owner(self, lockspace: bytes) -> Dict[str, int]:
        joined = self.joined[lockspace]
        return {
            "host_id": joined.host_id,
            "generation": joined.generation,
            "timestamp": int(self.storage.now()),
            "io_timeout": 0,
            "flags": 0,
        }

    def _owns(self, path: str) -> bool:
        lockspace, _, owners = self.storage.resources[path]
        joined = self.joined.get(lockspace)
        return joined is not None and any(
            (owner["host_id"], owner["generation"]) == (joined.host_id, joined.generation) for owner in owners
        )
