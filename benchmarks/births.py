"""Which processes and threads are started by whom, told by the kernel (its process events); nobody is slowed down.

Needs root in the first network namespace. Where the kernel does not tell, the caller has to do without: see ``listen``.
"""

import errno
import os
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Collection, List, Optional

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = _CN_VAL_PROC = 1
_DONE = 3  # NLMSG_DONE
_LISTEN, _IGNORE = 1, 2
_FORK = 0x1
_NETLINK = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_CONNECTOR = struct.Struct("=IIIIHH")  # index, value, sequence, acknowledged, length, flags
_EVENT = struct.Struct("=IIQ")  # what, processor, time
_BORN = struct.Struct("=IIII")  # parent's thread and process, child's thread and process
_BUFFER = 8 << 20
_SO_RCVBUFFORCE = 33  # Python does not name it


@dataclass(frozen=True)
class Birth:
    """``by``: the process that started it."""

    by: int
    is_thread: bool


def parse(data: bytes) -> Optional[Birth]:
    """One message of the kernel; None for everything but a fork."""
    at = _NETLINK.size + _CONNECTOR.size
    if len(data) < at + _EVENT.size + _BORN.size or _EVENT.unpack_from(data, at)[0] != _FORK:
        return None
    _, parent, child, process = _BORN.unpack_from(data, at + _EVENT.size)
    # The parent of a thread is its process's parent.
    return Birth(parent, False) if child == process else Birth(process, True)


class Births:
    """A context manager; ``of`` counts what was started since it was entered."""

    def __init__(self, kernel: socket.socket) -> None:
        self._kernel = kernel
        self._found: List[Birth] = []
        self._lost = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="births", daemon=True)

    def __enter__(self) -> "Births":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ending.set()
        self._thread.join()
        _tell(self._kernel, _IGNORE)
        self._kernel.close()

    def of(self, processes: Collection[int], threads: bool = False) -> int:
        """How many processes (or threads) these started. Raises SystemExit when the kernel could not tell all."""
        if self._lost:
            raise SystemExit("benchmark: more process events than could be read")
        return sum(each.by in processes and each.is_thread is threads for each in self._found)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                birth = parse(self._kernel.recv(4096))
            except socket.timeout:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost = True
                continue
            if birth is not None:
                self._found.append(birth)


def listen() -> Optional[Births]:
    """None where the kernel does not tell, or not us."""
    try:
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
    except OSError:
        return None
    try:
        kernel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        kernel.bind((0, _CN_IDX_PROC))
        _tell(kernel, _LISTEN)
    except OSError:
        kernel.close()
        return None
    kernel.settimeout(0.2)
    return Births(kernel)


def _tell(kernel: socket.socket, what: int) -> None:
    body = struct.pack("=I", what)
    connector = _CONNECTOR.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, len(body), 0)
    size = _NETLINK.size + len(connector) + len(body)
    kernel.send(_NETLINK.pack(size, _DONE, 0, 0, os.getpid()) + connector + body)
