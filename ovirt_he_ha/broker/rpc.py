"""XML-RPC over the Unix socket: who may connect, one thread per connection, and limits so that nobody can occupy it
all.

The socket is exclusive through a POSIX lock on ``<socket>.lock``: the kernel drops it with the process, a forked
worker does not inherit it, and it names its holder. The socket itself is bound under another name and renamed into
place, so that a client finds either the old one, the new one, or none.
"""

import fcntl
import logging
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.protocol import METHODS, FaultCode, WireError, answer_bytes, fault_bytes, parse_call
from ovirt_he_ha.broker.request import Gone, Limits, Refused, Request, RequestReader, answer_head
from ovirt_he_ha.config.journal import throttled

log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
_BACKLOG = 128
_PATH_LIMIT = 107  # bytes of sun_path without its end
_CREDENTIALS = struct.Struct("3i")
_LOCK = struct.Struct("hhqqi4x")  # struct flock of 64 bit Linux


@dataclass(frozen=True)
class Caller:
    """Who is at the other end, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Fault(Exception):
    """A refused or failed call, with the code that the caller gets."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SocketProblem(Exception):
    """The socket cannot be offered. ``str()`` is one line."""


class BrokerRunning(SocketProblem):
    """Another broker serves this socket."""

    def __init__(self, path: Path, pid: Optional[int]) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{path}: a broker is already running here ({who}); stop it before starting another one")
        self.pid = pid


Dispatch = Callable[[Caller, str, Tuple[Any, ...]], Any]


class SocketLock:
    """The right to serve one socket path."""

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}.lock")
        self._socket_path = path
        self._descriptor: Optional[int] = None

    def take(self) -> None:
        """Raises BrokerRunning, or SocketProblem if the lock file cannot be made."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SocketProblem(
                f"{self._path}: cannot be opened ({error.strerror}); expected a writable directory "
                f"{self._path.parent} owned by the daemon's user"
            ) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise BrokerRunning(self._socket_path, holder) from error
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _holder(descriptor: int) -> Optional[int]:
    """Process id that holds the lock, None if it cannot be told (it may have ended just now)."""
    question = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        kind, _whence, _start, _length, pid = _LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    except (OSError, struct.error):
        return None
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


class _Connection:
    """One client. ``busy`` while its call runs: then it is never closed to make room for another."""

    def __init__(self, peer: socket.socket, caller: Caller) -> None:
        self.socket = peer
        self.caller = caller
        self.busy = False
        self.quiet_since = time.monotonic()

    def shut(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already


class RpcServer:
    """Serves ``dispatch`` at ``path``. ``may_connect`` decides by the caller's credentials; who may not is closed
    unheard.

    ``dispatch(caller, method, args)`` returns the answer or raises Fault; it is called from many threads at once.
    """

    def __init__(
        self,
        path: Path,
        dispatch: Dispatch,
        may_connect: Callable[[Caller], bool],
        metrics: Optional[Metrics] = None,
        limits: Optional[Limits] = None,
    ) -> None:
        self.path = Path(path)
        self._dispatch = dispatch
        self._may_connect = may_connect
        self._metrics = metrics or Metrics()
        self._limits = limits or Limits()
        self._lock = SocketLock(self.path)
        self._listener: Optional[socket.socket] = None
        self._identity: Optional[Tuple[int, int]] = None
        self._connections: Dict[int, _Connection] = {}
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    # --- life -----------------------------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Take the lock, before anything else is touched. Raises SocketProblem, BrokerRunning."""
        if len(os.fsencode(self._new_path())) > _PATH_LIMIT:
            raise SocketProblem(f"{self.path}: path too long for a socket, expected at most {_PATH_LIMIT - 4} bytes")
        self._lock.take()

    def start(self) -> None:
        """Bind and serve from now on. Raises SocketProblem."""
        try:
            self._bind()
        except OSError as error:
            self._lock.release()
            raise SocketProblem(
                f"{self.path}: cannot be bound ({error.strerror}); expected a writable directory"
            ) from error
        threading.Thread(target=self._accept, name="rpc-accept", daemon=True).start()

    def _new_path(self) -> str:
        return f"{self.path}.new"

    def _bind(self) -> None:
        temporary = self._new_path()
        if os.path.lexists(temporary):
            os.unlink(temporary)  # left by a broker that died here; the lock is ours
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.bind(temporary)
            os.chmod(temporary, SOCKET_MODE)
            listener.listen(_BACKLOG)
            status = os.stat(temporary)
            os.rename(temporary, self.path)
        except OSError:
            listener.close()
            raise
        self._identity = (status.st_dev, status.st_ino)
        self._listener = listener

    def close_door(self) -> None:
        """No new connections: the socket's name goes, clients that keep a connection are not cut yet."""
        self._stopping.set()
        if self._listener is not None:
            self._unlink()
            try:
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            except OSError as error:
                log.debug("listener: %s", error)
            self._listener.close()
            self._listener = None

    def stop(self, deadline: float) -> bool:
        """Close the door, let running calls end for up to ``deadline`` wall seconds, cut the rest. True if all
        ended."""
        self.close_door()
        until = time.monotonic() + deadline
        with self._changed:
            for connection in self._connections.values():
                if not connection.busy:
                    connection.shut()
            ended = self._changed.wait_for(lambda: not self._connections, max(0.0, until - time.monotonic()))
            for connection in self._connections.values():
                connection.shut()
        self._lock.release()
        return ended

    def _unlink(self) -> None:
        try:
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)
        except OSError as error:
            log.debug("%s: %s", self.path, error)

    # --- connections ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        listener = self._listener
        while listener is not None and not self._stopping.is_set():
            try:
                peer, _address = listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                # Out of descriptors or memory: those in use are freed by limits and deadlines within seconds.
                log.error("no new connection accepted: %s", error, extra=throttled("accept"))
                time.sleep(0.1)
                continue
            self._admit(peer)

    def _admit(self, peer: socket.socket) -> None:
        try:
            caller = Caller(*_CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
        except OSError:
            peer.close()
            return
        if not self._may_connect(caller):
            self._metrics.add("rpc.connections_refused")
            log.warning(
                "connection of uid %d (process %d) closed: not allowed",
                caller.uid,
                caller.pid,
                extra=throttled("refused", HE_UID=caller.uid),
            )
            peer.close()
            return
        connection = _Connection(peer, caller)
        if not self._register(connection):
            self._metrics.add("rpc.connections_over_limit")
            _send_error(peer, Refused(503, "Service Unavailable", "too many connections"), 0.0)
            peer.close()
            return
        self._metrics.add("rpc.connections")
        self._serve_in_thread(connection)

    def _serve_in_thread(self, connection: _Connection) -> None:
        try:
            threading.Thread(target=self._serve, args=(connection,), name="rpc", daemon=True).start()
        except RuntimeError as error:
            log.error("no thread for a connection: %s", error, extra=throttled("thread"))
            self._forget(connection)

    def _register(self, connection: _Connection) -> bool:
        """Make room if there is none, by ending what waits for its client: first of the same user, then of who has
        most."""
        with self._changed:
            mine = self._of(connection.caller.uid)
            if len(mine) >= self._limits.per_uid and not self._evict(mine):
                return False
            if len(self._connections) >= self._limits.connections and not self._evict(self._of(self._greediest())):
                return False
            if self._stopping.is_set():
                return False
            self._connections[id(connection)] = connection
            return True

    def _of(self, uid: int) -> List[_Connection]:
        return [each for each in self._connections.values() if each.caller.uid == uid]

    def _greediest(self) -> int:
        uids = [each.caller.uid for each in self._connections.values()]
        return max(uids, key=uids.count)

    def _evict(self, candidates: List[_Connection]) -> bool:
        quiet = [each for each in candidates if not each.busy]
        if not quiet:
            return False
        victim = min(quiet, key=lambda each: each.quiet_since)
        victim.shut()
        self._connections.pop(id(victim), None)
        self._metrics.add("rpc.connections_evicted")
        return True

    def _forget(self, connection: _Connection) -> None:
        with self._changed:
            self._connections.pop(id(connection), None)
            self._changed.notify_all()
        connection.socket.close()

    def _serve(self, connection: _Connection) -> None:
        reader = RequestReader(connection.socket, self._limits)
        try:
            while not self._stopping.is_set():
                reader.wait()
                if not self._serve_one(connection, reader):
                    break
        except Gone as gone:
            if gone.half:
                self._metrics.add("rpc.half_requests")
        except OSError as error:
            log.debug("connection of process %d: %s", connection.caller.pid, error)
        finally:
            self._forget(connection)

    def _serve_one(self, connection: _Connection, reader: RequestReader) -> bool:
        """One request and its answer; whether the connection stays. Raises Gone, OSError."""
        try:
            request = reader.read()
        except Refused as refused:
            self._metrics.add("rpc.http_refused")
            _send_error(connection.socket, refused, self._limits.send_seconds)
            return False
        connection.busy = True
        body = self._answer(connection.caller, request)
        keep = request.keep and not self._stopping.is_set()
        head = answer_head(request.version, 200, "OK", "text/xml", len(body), keep, formatdate(usegmt=True))
        connection.socket.settimeout(self._limits.send_seconds)
        connection.socket.sendall(head + body)
        connection.quiet_since = time.monotonic()
        connection.busy = False
        return keep

    def _answer(self, caller: Caller, request: Request) -> bytes:
        self._metrics.add("rpc.calls")
        try:
            return answer_bytes(self._result(caller, request.body))
        except Fault as fault:
            self._metrics.add("rpc.faults")
            return fault_bytes(int(fault.code), fault.message)
        except Exception as error:
            # The one boundary where a defect must not take the connection's thread silently with it.
            self._metrics.add("rpc.errors")
            log.exception("call of process %d failed", caller.pid)
            return fault_bytes(int(FaultCode.INTERNAL), f"{type(error).__name__}: {error}")

    def _result(self, caller: Caller, body: bytes) -> Any:
        try:
            method, args = parse_call(body)
        except WireError as error:
            raise Fault(FaultCode.REQUEST, f"{type(error)}:{error}") from error
        if method not in METHODS:
            self._metrics.add("rpc.unknown_methods")
            raise Fault(FaultCode.REQUEST, f'{Exception}:method "{method[:80]}" is not supported')
        self._metrics.add(f"rpc.calls.{method}")
        return self._dispatch(caller, method, args)


def _send_error(peer: socket.socket, refused: Refused, seconds: float) -> None:
    text = refused.text.encode("utf-8", "replace")
    head = answer_head((1, 1), refused.status, refused.reason, "text/plain", len(text), False, formatdate(usegmt=True))
    try:
        peer.settimeout(seconds)
        peer.sendall(head + text)
        if seconds:
            _drain(peer)
    except OSError as error:
        log.debug("error answer not taken: %s", error)


def _drain(peer: socket.socket) -> None:
    """Closing with unread bytes would reset the connection before the client has read why: take some of them first."""
    peer.shutdown(socket.SHUT_WR)
    peer.settimeout(0.2)
    for _ in range(64):
        if not peer.recv(1 << 16):
            return
