"""Processes by identity: a pid counts only together with its start time, and nothing is found by its name alone."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessId:
    """``started`` is field 22 of /proc/PID/stat: clock ticks after boot. A reused pid has another one."""

    pid: int
    started: int


def identify(pid: int) -> Optional[ProcessId]:
    """None when there is no such process (a zombie counts as gone)."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else ProcessId(pid, int(fields[19]))


def alive(process: ProcessId) -> bool:
    return identify(process.pid) == process


def kill(process: ProcessId, signum: int = signal.SIGKILL) -> bool:
    """Signal exactly this process. False when it is gone already."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if identify(process.pid) != process:
            return False
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def pids() -> Iterator[int]:
    for name in os.listdir(PROC):
        if name.isdigit():
            yield int(name)


def pid_namespace(pid: int) -> str:
    """``pid:[4026532…]``, unique on the machine while the namespace lives; empty when the process is gone."""
    try:
        return os.readlink(PROC / str(pid) / "ns" / "pid")
    except OSError:
        return ""


def command_line(pid: int) -> List[str]:
    """Empty when the process is gone or a kernel thread."""
    try:
        data = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in data.split(b"\0")[:-1]]


def children(pid: int) -> List[int]:
    try:
        return [int(word) for word in (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except OSError:
        return []


def in_namespace(namespace: str) -> List[int]:
    """The pids, as seen from here, of every process in that PID namespace (not in those below it)."""
    return [pid for pid in pids() if pid_namespace(pid) == namespace] if namespace else []


def init_of(namespace: str) -> Optional[int]:
    """The pid, as seen from here, of that PID namespace's first process."""
    for pid in in_namespace(namespace):
        try:
            status = (PROC / str(pid) / "status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("NSpid:") and line.split()[-1] == "1":
                return pid
    return None


def is_engine(words: Sequence[str], vm_uuid: str) -> bool:
    """Whether a process with this command line is a QEMU that runs the VM (libvirt gives it ``-uuid``)."""
    return bool(words) and "qemu" in os.path.basename(words[0]) and vm_uuid in words


def engines(vm_uuid: str, namespace: str) -> List[ProcessId]:
    found = (identify(pid) for pid in in_namespace(namespace) if is_engine(command_line(pid), vm_uuid))
    return [process for process in found if process is not None]
