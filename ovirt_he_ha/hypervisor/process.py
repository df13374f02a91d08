"""The engine VM's qemu as a process of this host: found in /proc, watched and killed through a pidfd, without
libvirt.

libvirt may hang or be gone while the VM runs, and S2 and the other fencing rules need certainty. A pid alone is never
trusted: the process is identified by pid and start time, and the signal goes through a pidfd that was compared with
both.
"""

import logging
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Tuple, Union

log = logging.getLogger(__name__)

UUID_OPTION = b"-uuid"
INCOMING_OPTION = b"-incoming"
MUTE_SECONDS = 1.0  # wall: looking at one process takes 20 us
MOST_MUTE = 3  # processes that one look may find mute; what comes after them is looked at the next time
RAN = 0.05  # seconds of CPU time that the thread of a virtual CPU uses by running the guest only
RESCAN = 0.05  # wall seconds between two scans while the last process of a VM is expected to go


@dataclass(frozen=True)
class EngineProcess:
    """``start_ticks``: clock ticks between boot and the start of the process; with the pid it names one process for
    ever. ``incoming``: it was created as the destination of a migration."""

    pid: int
    start_ticks: int
    incoming: bool = False


@dataclass(frozen=True)
class ProcessStat:
    """``state``: the kernel's letter (``R``, ``S``, ``D`` uninterruptible, ``Z`` zombie, ``T`` stopped). ``cpu``:
    seconds of all threads."""

    state: str
    start_ticks: int
    cpu: float


@dataclass(frozen=True)
class Gone:
    """The process does not exist any more: all of its threads have left the kernel. True as a condition."""


@dataclass(frozen=True)
class StillThere:
    """``state`` is the letter of its most stuck thread, or ``?``; ``why`` is a short text for the journal. False as a
    condition."""

    pid: int
    state: str
    why: str

    def __bool__(self) -> bool:
        return False


KillResult = Union[Gone, StillThere]


class _Look:
    """Looks at processes one by one, on a thread of its own; ``pid`` is the one that it is at."""

    def __init__(self, examine: Callable[[int, bytes], Optional[EngineProcess]], vmid: bytes, pids: List[int]) -> None:
        self.found: List[EngineProcess] = []
        self.pid = pids[0] if pids else 0
        self._examine = examine
        self._vmid = vmid
        self._pids = pids
        self._over = threading.Event()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def wait(self) -> bool:
        """False: it hangs at ``pid``, and what it finds from now on does not count."""
        try:
            threading.Thread(target=self._run, name="process-look", daemon=True).start()
        except RuntimeError:  # no thread left: the caller's has to do
            self._run()
        before = None
        while not self._over.wait(MUTE_SECONDS):
            if self.pid == before:
                self._vmid = b""
                return False
            before = self.pid
        return True

    def _run(self) -> None:
        try:
            for pid in self._pids:
                self.pid = pid
                process = self._examine(pid, self._vmid)
                if not self._vmid:
                    return
                if process is not None:
                    self.found.append(process)
        finally:
            self._over.set()


class ProcessTable:
    """A view of /proc. A process that holds its memory's lock while it hangs (on storage, as a rule) also hangs whoever
    reads its command line: such a one is left out by :meth:`find` until it can tell.

    ``namespace`` restricts it to one PID namespace (what ``/proc/PID/ns/pid`` links to): needed only by a process that
    looks into several hosts from outside; reading that link takes the rights of root."""

    def __init__(self, proc: str = "/proc", namespace: str = "") -> None:
        self._proc = Path(proc)
        self._namespace = namespace
        self._mute: Dict[int, _Look] = {}
        self._tick = float(os.sysconf("SC_CLK_TCK"))

    def find(self, vmid: str, pids: Optional[Iterable[int]] = None) -> List[EngineProcess]:
        """All qemu processes of the VM with this uuid, dying ones included; of ``pids`` only, if given. Bounded: at
        most MOST_MUTE times MUTE_SECONDS. Raises OSError when the table itself cannot be read."""
        if pids is None:
            pids = [int(entry) for entry in os.listdir(self._proc) if entry.isdigit()]
        rest = [pid for pid in pids if not self._is_mute(pid)]
        found: List[EngineProcess] = []
        for _ in range(MOST_MUTE if rest else 0):
            look = _Look(self._examine, vmid.lower().encode("ascii", "replace"), rest)
            ended = look.wait()
            found += look.found
            if ended:
                break
            self._mute[look.pid] = look
            log.error("Process %d does not tell what it is, its memory is locked: it is left out", look.pid)
            rest = rest[rest.index(look.pid) + 1 :]
        return found

    def _is_mute(self, pid: int) -> bool:
        look = self._mute.get(pid)
        if look is not None and look.over:
            self._mute.pop(pid, None)
        return look is not None and not look.over

    def mute_qemus(self) -> Tuple[int, ...]:
        """The processes left out by the last :meth:`find` that the kernel calls a qemu: any of them may be the VM's."""
        mute = [pid for pid in list(self._mute) if self._is_mute(pid)]
        return tuple(sorted(pid for pid in mute if self._kernel_name(pid).startswith(b"qemu")))

    def _kernel_name(self, pid: int) -> bytes:
        return _read(self._proc / str(pid) / "stat").partition(b"(")[2].rpartition(b")")[0]

    def sees_all(self) -> bool:
        """False where /proc hides other users' processes (mount option hidepid): then an empty :meth:`find` proves
        nothing."""
        return bool(_read(self._proc / "1" / "cmdline"))

    def stat(self, pid: int) -> Optional[ProcessStat]:
        """None: there is no such process."""
        fields = self._stat_fields(self._proc / str(pid) / "stat")
        if fields is None:
            return None
        return ProcessStat(fields[0], int(fields[19]), (int(fields[11]) + int(fields[12])) / self._tick)

    def exists(self, process: EngineProcess) -> bool:
        stat = self.stat(process.pid)
        return stat is not None and stat.start_ticks == process.start_ticks

    def runs(self, process: EngineProcess) -> bool:
        """Whether any thread of it is left; the kernel tells without asking the process's memory."""
        fields = self._stat_fields(self._proc / str(process.pid) / "stat")
        if fields is None or int(fields[19]) != process.start_ticks:
            return False
        return fields[0] != "Z" or int(fields[17]) > 1

    def age(self, process: EngineProcess) -> float:
        """Wall seconds since the process was started, time in suspend included."""
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_ticks / self._tick)

    def cpus_ran(self, process: EngineProcess) -> Optional[bool]:
        """Whether a virtual CPU of it has ever run. A thread that waits to run its CPU has used a millisecond to come
        up; one that runs it uses 40 in the first fifth of a second. None: the threads cannot be read, or have other
        names than libvirt lets qemu give them (``CPU 0/KVM``)."""
        tasks = self._proc / str(process.pid) / "task"
        try:
            threads = os.listdir(tasks)
        except OSError:
            return None
        names = {thread: _read(tasks / thread / "comm") for thread in threads}
        stats = [self._stat_fields(tasks / thread / "stat") for thread, name in names.items() if _is_cpu(name)]
        if not stats or None in stats or not self.exists(process):
            return None
        most = max((int(fields[11]) + int(fields[12])) / self._tick for fields in stats if fields is not None)
        return most >= RAN

    def open(self, process: EngineProcess) -> int:
        """A pidfd that is proven to be this very process. Raises ProcessLookupError when it is gone."""
        fd = os.pidfd_open(process.pid)
        # The pid may have been used again between the scan and the call above; the descriptor cannot change any more.
        if not self.exists(process):
            os.close(fd)
            raise ProcessLookupError(process.pid)
        return fd

    def stuck_state(self, pid: int) -> str:
        """``D`` if any thread is uninterruptible (the leader of such a process shows ``Z``), else the leader's
        letter, else ``?``."""
        letters: List[str] = []
        try:
            threads = os.listdir(self._proc / str(pid) / "task")
        except OSError:
            threads = []
        for thread in threads:
            fields = self._stat_fields(self._proc / str(pid) / "task" / thread / "stat")
            if fields is not None:
                letters.append(fields[0])
        if "D" in letters:
            return "D"
        stat = self.stat(pid)
        return stat.state if stat is not None else "?"

    def _examine(self, pid: int, vmid: bytes) -> Optional[EngineProcess]:
        arguments = self._arguments(pid)
        if not arguments or not os.path.basename(arguments[0]).startswith(b"qemu") or not _is_vm(arguments, vmid):
            return None
        if self._namespace and self._namespace_of(pid) != self._namespace:
            return None
        stat = self.stat(pid)
        if stat is None:
            return None
        return EngineProcess(pid, stat.start_ticks, INCOMING_OPTION in arguments)

    def _arguments(self, pid: int) -> List[bytes]:
        base = self._proc / str(pid)
        line = _read(base / "cmdline")
        if line:
            return line.split(b"\0")
        # A killed process with an uninterruptible thread: its leader is a zombie without memory, the threads still
        # have theirs.
        stat = self._stat_fields(base / "stat")
        if stat is None or stat[0] != "Z" or int(stat[17]) < 2:
            return []
        try:
            threads = os.listdir(base / "task")
        except OSError:
            return []
        lines = (_read(base / "task" / thread / "cmdline") for thread in threads)
        return next((line.split(b"\0") for line in lines if line), [])

    def _namespace_of(self, pid: int) -> str:
        try:
            return os.readlink(self._proc / str(pid) / "ns" / "pid")
        except OSError:
            return ""

    def _stat_fields(self, path: Path) -> Optional[List[str]]:
        """The fields after the command's name, which may itself contain blanks and parentheses: [0] is the state
        letter."""
        text = _read(path).decode("utf-8", "replace")
        fields = text.rpartition(")")[2].split()
        return fields if len(fields) >= 20 else None


def _is_vm(arguments: List[bytes], vmid: bytes) -> bool:
    return any(option == UUID_OPTION and value.lower() == vmid for option, value in zip(arguments, arguments[1:]))


def _is_cpu(name: bytes) -> bool:
    return name.startswith((b"CPU ", b"ALL CPUs"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended between the listing and now
        return b""


def find_engine(vmid: str, table: Optional[ProcessTable] = None) -> Optional[EngineProcess]:
    """The VM's qemu on this host; the oldest should there be several."""
    found = (table if table is not None else ProcessTable()).find(vmid)
    return min(found, key=lambda process: process.start_ticks, default=None)


def kill(process: EngineProcess, wall_seconds: float, table: Optional[ProcessTable] = None) -> KillResult:
    """SIGKILL, and wait at most ``wall_seconds`` for the end of every thread. Never raises for a process that is gone
    already."""
    table = table if table is not None else ProcessTable()
    try:
        fd = table.open(process)
    except ProcessLookupError:
        return Gone()
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        if _exited(fd, wall_seconds):
            return Gone()
    except ProcessLookupError:
        return Gone()
    except PermissionError:
        return StillThere(
            process.pid, table.stuck_state(process.pid), "not permitted: the capability CAP_KILL is missing"
        )
    finally:
        os.close(fd)
    state = table.stuck_state(process.pid)
    return StillThere(process.pid, state, f"still in state {state} {wall_seconds:.1f} s after SIGKILL")


def kill_engine(vmid: str, wall_seconds: float, table: Optional[ProcessTable] = None) -> KillResult:
    """Kill every qemu of this VM here and look again, until none is left (also none that appeared meanwhile) or the
    time is over."""
    processes = table if table is not None else ProcessTable()
    end = time.monotonic() + wall_seconds
    while True:
        survivor: Optional[StillThere] = None
        found = processes.find(vmid)
        for process in found:
            result = kill(process, max(0.0, end - time.monotonic()), processes)
            survivor = result if isinstance(result, StillThere) else survivor
        if not found:
            return Gone()
        if time.monotonic() >= end:
            return survivor or StillThere(found[-1].pid, "?", "it appeared again while it was being killed")
        time.sleep(min(RESCAN, max(0.0, end - time.monotonic())) if survivor else 0.0)


def await_exit(process: EngineProcess, wall_seconds: float, table: ProcessTable) -> KillResult:
    """Wait for the end of a process that something else is ending."""
    try:
        fd = table.open(process)
    except ProcessLookupError:
        return Gone()
    try:
        if _exited(fd, wall_seconds):
            return Gone()
    finally:
        os.close(fd)
    state = table.stuck_state(process.pid)
    return StillThere(process.pid, state, f"still in state {state} after {wall_seconds:.1f} s")


def _exited(fd: int, wall_seconds: float) -> bool:
    """A pidfd becomes readable when the whole thread group has ended: a zombie leader with a stuck thread is not the
    end."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, wall_seconds) * 1000))


class ExitWatch:
    """Calls ``on_exit(process)`` once, from an own thread, in the instant the watched process ends. One process at a
    time."""

    def __init__(self, on_exit: Callable[[EngineProcess], None], table: ProcessTable) -> None:
        self._on_exit = on_exit
        self._table = table
        self._lock = threading.Lock()
        self._watched: Dict[EngineProcess, int] = {}  # process -> write end of the pipe that ends its thread

    def watch(self, process: Optional[EngineProcess]) -> None:
        """Watch this process and no other; None: none. A process that is gone already is reported at once, from the
        caller's thread."""
        with self._lock:
            if process in self._watched or (process is None and not self._watched):
                return
            self._forget()
            if process is None:
                return
            try:
                fd = self._table.open(process)
            except ProcessLookupError:
                fd = -1
            if fd >= 0:
                stop_read, self._watched[process] = os.pipe()
                threading.Thread(
                    target=self._wait, args=(process, fd, stop_read), name="qemu-exit", daemon=True
                ).start()
                return
        self._on_exit(process)

    def close(self) -> None:
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        for stop_write in self._watched.values():
            os.close(stop_write)
        self._watched.clear()

    def _wait(self, process: EngineProcess, fd: int, stop_read: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(stop_read, select.POLLIN | select.POLLHUP)
        ready = {ready_fd for ready_fd, _ in poll.poll()}
        os.close(fd)
        os.close(stop_read)
        if stop_read not in ready:
            self._on_exit(process)
