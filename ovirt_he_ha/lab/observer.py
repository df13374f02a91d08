"""The lab's witness: `python -m ovirt_he_ha.lab.observer DIRECTORY`.

It runs beside the hosts, asks none of our daemons, and writes what it sees as JSON lines: every QEMU that runs the
engine VM and when its virtual CPUs really ran, the owner of the VM's lease on the disk, and whether the health page
answers. Times are wall seconds of CLOCK_MONOTONIC, which all processes of the machine share. The kinds of record:

* ``seen``/``gone`` pid, started, host: a QEMU of the engine VM appeared or ended;
* ``ran`` pid, started, host, ``first`` and ``last`` = [from, to]: two windows in each of which a virtual CPU provably
  used CPU time, and in every sampling window between them too;
* ``lease`` owner, generation (null: unreadable; owner 0: nobody), since: when the record before it was last read;
* ``health`` ok, since: the page began or ceased to answer; ``since``: when the last answer of the other kind came;
* ``gap`` from, to: two good answers more than ``GAP`` apart;
* ``power`` host, on; ``storage`` host, mode, milliseconds, since; ``watchdog`` host, fired, keepalive (the last one):
  what became of a host, written by the keeper;
* ``alive`` owner, healthy: the observer runs, and the present state (every 5 s).
"""

import http.client
import json
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, TextIO, Tuple

from ovirt_he_ha.lab import process
from ovirt_he_ha.lab.layout import Lab
from ovirt_he_ha.lab.lease_record import LeaderReader
from ovirt_he_ha.lab.state import load_lab

log = logging.getLogger(__name__)

PERIOD = 0.05
# What a virtual CPU's thread uses without running the guest, when measured: 0.5 ms for its own start, 0.7 ms in all
# as the destination of a migration before it resumes, 0.02 ms when it is stopped, nothing while the machine is
# paused. An idle guest's ticks cost 0.3 ms and more.
BORN_NS = 2_000_000
RAN_NS = 100_000
FLUSH = 1.0
HEALTH_PERIOD = 0.25
HEALTH_TIMEOUT = 1.0
GAP = 1.0
HEALTHY = b"DB Up"

Window = Tuple[float, float]


class Journal:
    """Appends records; each is on the disk's page cache, whole, before the call returns. Two threads write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def write(self, kind: str, **values: Any) -> None:
        line = json.dumps({"kind": kind, "at": round(time.monotonic(), 4), **values})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


@dataclass
class Engine:
    """One QEMU under observation. ``used``: CPU nanoseconds per virtual CPU's thread at the last sample."""

    identity: process.ProcessId
    host: int
    sampled: float
    used: Dict[str, int] = field(default_factory=dict)
    first: Optional[Window] = None
    last: Optional[Window] = None
    written: float = 0.0

    def fields(self) -> Dict[str, Any]:
        return {"pid": self.identity.pid, "started": self.identity.started, "host": self.host}


def virtual_cpus(pid: int) -> Dict[str, int]:
    """CPU nanoseconds of each virtual CPU's thread: QEMU names them ``CPU n/TCG`` or ``CPU n/KVM``."""
    found = {}
    task = process.PROC / str(pid) / "task"
    try:
        for tid in os.listdir(task):
            if (task / tid / "comm").read_text().startswith("CPU "):
                found[tid] = int((task / tid / "schedstat").read_text().split()[0])
    except OSError:
        return {}  # it ended while we looked: the next sample finds it gone
    return found


class Observer:
    def __init__(self, lab: Lab, journal: Journal, health: "HealthProbe") -> None:
        self._lab, self._journal, self._health = lab, journal, health
        self._engines: Dict[process.ProcessId, Engine] = {}
        self._others: Dict[int, int] = {}  # pid -> started, of processes known not to be ours
        self._lease = LeaderReader(str(lab.lease_path))
        self._owner: Optional[Tuple[Optional[int], Optional[int]]] = None
        self._owner_read: Optional[float] = None
        self._alive = 0.0

    def run(self) -> None:
        while True:
            started = time.monotonic()
            self._find()
            for engine in list(self._engines.values()):
                self._sample(engine)
            self._read_lease()
            if started - self._alive >= 5:
                self._alive = started
                self._journal.write("alive", owner=self._owner and self._owner[0], healthy=self._health.ok)
            time.sleep(max(0.005, PERIOD - (time.monotonic() - started)))

    def _find(self) -> None:
        others: Dict[int, int] = {}
        for pid in process.pids():
            identity = process.identify(pid)
            if identity is None or identity in self._engines:
                continue
            if self._others.get(pid) == identity.started:
                others[pid] = identity.started
                continue
            words = process.command_line(pid)
            if process.is_engine(words, self._lab.identity.vm):
                self._add(identity)
            elif words and "libvirtd" not in words[0]:  # libvirtd's child turns into QEMU later: look at it again
                others[pid] = identity.started
        self._others = others

    def _add(self, identity: process.ProcessId) -> None:
        host = self._host_of(process.pid_namespace(identity.pid))
        if host is None:
            return  # libvirt's probe, or the host is just being plugged in: the next sample looks again
        now = time.monotonic()
        engine = Engine(identity, host, now, virtual_cpus(identity.pid))
        self._engines[identity] = engine
        self._journal.write("seen", **engine.fields())

    def _host_of(self, namespace: str) -> Optional[int]:
        for host_id in self._lab.host_ids:
            try:
                if self._lab.host(host_id).namespace_file.read_text() == namespace:
                    return host_id
            except OSError:
                continue  # powered off
        return None

    def _sample(self, engine: Engine) -> None:
        used = virtual_cpus(engine.identity.pid)
        now = time.monotonic()
        if not process.alive(engine.identity):
            self._write_run(engine)
            self._journal.write("gone", **engine.fields())
            del self._engines[engine.identity]
            return
        ran = any(ns >= BORN_NS and ns - engine.used.get(tid, 0) >= RAN_NS for tid, ns in used.items())
        window = (round(engine.sampled, 4), round(now, 4))
        engine.used, engine.sampled = used, now
        if not ran:
            self._write_run(engine)
            return
        if engine.first is None:
            engine.first = window
        engine.last = window
        if engine.written == 0.0 or now - engine.written >= FLUSH:
            self._write_run(engine)

    def _write_run(self, engine: Engine) -> None:
        if engine.first is not None:
            self._journal.write("ran", **engine.fields(), first=engine.first, last=engine.last)
            engine.written = time.monotonic()
        engine.first = engine.last = None

    def _read_lease(self) -> None:
        try:
            leader = self._lease.read()
        except OSError:
            leader = None
        owner = (leader.owner, leader.generation) if leader else (None, None)
        if owner != self._owner:
            self._owner = owner
            self._journal.write("lease", owner=owner[0], generation=owner[1], since=self._owner_read)
        self._owner_read = round(time.monotonic(), 4)


class HealthProbe(threading.Thread):
    """Asks for the page as the management network's users do."""

    def __init__(self, address: str, journal: Journal) -> None:
        super().__init__(name="health", daemon=True)
        self._address, self._journal = address, journal
        self.ok: Optional[bool] = None

    def run(self) -> None:
        seen: Dict[bool, float] = {}
        while True:
            asked = time.monotonic()
            answer = self._ask()
            now = time.monotonic()
            if answer is not self.ok:
                self.ok = answer
                self._journal.write("health", ok=answer, since=seen.get(not answer))
            if answer and now - seen.get(True, now) > GAP:
                self._journal.write("gap", **{"from": seen[True], "to": now})
            seen[answer] = now
            time.sleep(max(0.02, HEALTH_PERIOD - (now - asked)))

    def _ask(self) -> bool:
        connection = http.client.HTTPConnection(self._address, timeout=HEALTH_TIMEOUT)
        try:
            connection.request("GET", "/ovirt-engine/services/health")
            answer = connection.getresponse()
            return answer.status == 200 and HEALTHY in answer.read(1024)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    lab = load_lab(sys.argv[1])
    with open(lab.observations, "a", encoding="utf-8") as stream:
        journal = Journal(stream)
        health = HealthProbe(lab.engine_address, journal)
        health.start()
        Observer(lab, journal, health).run()


if __name__ == "__main__":
    main()
