"""What this host's sanlock says of itself: watchdog, lockspaces with their last renewal, registered processes, leases.

The daemon's status command, spoken over its socket: the Python binding has no such call, its host list lags a whole
renewal (20 s) behind, and starting ``sanlock client status -D`` every two seconds would cost more than everything else
the agent does. One connection, one request, records until the end of the stream, all from the daemon's memory.

Layout (native byte order, as compiled on this host; unchanged since protocol 1.1):
header 32 bytes: magic, version, command, flags, length, sequence, two data words.
Each record: 80 bytes (type, flags, number, wide number, name of 48 bytes, length of text), then the text of
``key=value`` separated by blanks, then for a lockspace 1,104 bytes and for a resource 128 bytes and 1,040 per disk.
"""

import os
import socket
import struct
import time
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Optional, Tuple

RUN_DIR = "/run/sanlock"
SOCKET_NAME = "sanlock.sock"
DEADLINE = 2.0  # wall seconds: the answer is the daemon's memory and takes a fraction of a millisecond

_MAGIC = 0x04282010
_COMMAND = 5
_HEADER = struct.Struct("=8I")
_RECORD = struct.Struct("=III4xQ48sI4x")
_LOCKSPACE = struct.Struct("=48sQI4x1024sQ8x")
_RESOURCE = struct.Struct("=48s48sQQIIII")
_DISK_SIZE = 1040
_CREDENTIALS = struct.Struct("3i")
_MOST_TEXT = 65536
_MOST_BYTES = 8 << 20
_NO_PID = 0xFFFFFFFF  # the daemon's own connections
_DAEMON, _CLIENT, _SPACE, _LEASE = 1, 2, 3, 4


class NoStatus(Exception):
    """``kind``: ``refused`` (nobody listens there), ``unreachable`` (no such socket, not permitted), ``overdue`` (it
    does not answer), ``foreign`` (it answers, but not in the words above)."""

    msg = "sanlock at {path}: {kind}: {why}"

    def __init__(self, kind: str, path: str, why: str) -> None:
        super().__init__(kind, path, why)
        self.kind = kind
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return self.msg.format(path=self.path, kind=self.kind, why=self.why)


@dataclass(frozen=True)
class Space:
    """One lockspace. ``renewed_ago``: sanlock's seconds since its last successful renewal; None when it does not
    say."""

    host_id: int
    generation: int
    io_timeout: int
    renewed_ago: Optional[int]


@dataclass(frozen=True)
class DaemonStatus:
    """``clients``: pids registered. ``held``: (lockspace, resource, pid) of every lease that a process here holds.
    ``daemon``: pid and start of the process that answered; ``version``: its version; empty if that cannot be told."""

    watchdog: Optional[bool]
    spaces: Mapping[str, Space]
    clients: Tuple[int, ...]
    held: Tuple[Tuple[str, str, int], ...]
    daemon: str = ""
    version: str = ""


def socket_path() -> str:
    """As libsanlock finds it."""
    return os.path.join(os.environ.get("SANLOCK_RUN_DIR", RUN_DIR), SOCKET_NAME)


def ask(path: Optional[str] = None, deadline: float = DEADLINE) -> DaemonStatus:
    """At most ``deadline`` wall seconds. Raises NoStatus."""
    path = path or socket_path()
    until = time.monotonic() + deadline
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(deadline)
        try:
            connection.connect(path)
            connection.sendall(_HEADER.pack(_MAGIC, 1, _COMMAND, 0, _HEADER.size, 0, 0, 0))
            daemon = _identity(connection)
            return replace(parse(_received(connection, until), path), daemon=daemon)
        except ConnectionRefusedError as error:
            raise NoStatus("refused", path, "nobody listens") from error
        except (socket.timeout, BlockingIOError) as error:
            raise NoStatus("overdue", path, f"no answer within {deadline:g} s") from error
        except OSError as error:
            raise NoStatus("unreachable", path, error.strerror or str(error)) from error


def _identity(connection: socket.socket) -> str:
    """Of the process that listens. A pid alone may be another process's by now; its start in clock ticks since the boot
    tells them apart."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid = _CREDENTIALS.unpack(credentials)[0]
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            words = stream.read().rpartition(b")")[2].split()
        return f"{pid}:{int(words[19])}"
    except (OSError, IndexError, ValueError):
        return ""


def parse(answer: bytes, path: str = "") -> DaemonStatus:
    """Raises NoStatus ``foreign`` for what is no such answer; ``overdue`` for one that was cut."""
    try:
        return _parsed(answer)
    except struct.error as error:
        raise NoStatus("overdue", path, f"the answer ends after {len(answer)} bytes") from error
    except (ValueError, KeyError) as error:
        raise NoStatus("foreign", path, str(error)) from error


def _received(connection: socket.socket, until: float) -> bytes:
    chunks: List[bytes] = []
    size = 0
    while True:
        connection.settimeout(max(0.001, until - time.monotonic()))
        chunk = connection.recv(65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
        if size > _MOST_BYTES or time.monotonic() > until:
            raise socket.timeout("too much")


def _parsed(answer: bytes) -> DaemonStatus:
    magic, version, *_ = _HEADER.unpack_from(answer)
    if magic != _MAGIC or version >> 16 != 0 or version & 0xFFFF != 1:
        raise ValueError(f"magic {magic:#x}, version {version:#x}; expected {_MAGIC:#x} and 0x1")
    at = _HEADER.size
    daemon: Dict[str, str] = {}
    raw_spaces: Dict[str, Tuple[int, Dict[str, str]]] = {}
    clients: List[int] = []
    held: List[Tuple[str, str, int]] = []
    while at < len(answer):
        kind, _, number, _, _, length = _RECORD.unpack_from(answer, at)
        if kind not in (_DAEMON, _CLIENT, _SPACE, _LEASE) or length > _MOST_TEXT:
            raise ValueError(f"record of type {kind} with {length} bytes of text")
        at += _RECORD.size
        words = _words(struct.unpack_from(f"{length}s", answer, at)[0])
        at += length
        if kind == _DAEMON:
            daemon = words
        elif kind == _CLIENT:
            if number != _NO_PID:
                clients.append(number)
        elif kind == _SPACE:
            space, host_id, *_ = _LOCKSPACE.unpack_from(answer, at)
            raw_spaces[_text(space)] = (host_id, words)
            at += _LOCKSPACE.size
        else:
            space, resource, *_, disks = _RESOURCE.unpack_from(answer, at)
            # ``list=held``; orphans and leases on their way in or out protect nobody
            if words.get("list", "held") == "held":
                held.append((_text(space), _text(resource), number))
            at += _RESOURCE.size + disks * _DISK_SIZE
    if not daemon:
        raise ValueError("no record of the daemon itself")
    now = _number(daemon, "monotime")
    spaces = {name: _space(host_id, words, now) for name, (host_id, words) in raw_spaces.items()}
    watchdog = {"0": False, "1": True}.get(daemon.get("use_watchdog", ""))
    return DaemonStatus(watchdog, spaces, tuple(clients), tuple(held), version=daemon.get("version_str", ""))


def _space(host_id: int, words: Dict[str, str], now: Optional[int]) -> Space:
    renewed = _number(words, "renewal_last_success")
    ago = None if now is None or renewed is None else max(0, now - renewed)
    return Space(host_id, _number(words, "host_generation") or 0, _number(words, "io_timeout") or 10, ago)


def _words(text: bytes) -> Dict[str, str]:
    parts = (part.partition("=") for part in _text(text).split(" "))
    return {key: value for key, found, value in parts if found}


def _number(words: Dict[str, str], key: str) -> Optional[int]:
    value = words.get(key, "")
    return int(value) if value.isascii() and value.isdigit() else None


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")
