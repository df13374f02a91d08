"""XML-RPC over the Unix socket: who may connect, one thread per connection, and limits so that nobody can occupy it
all.

The socket is bound under another name and renamed into place, so that a client finds either the old one, the new one,
or none.
"""

import logging
import os
import select
import socket
import struct
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.connections import Caller, Connection, Connections
from ovirt_he_ha.broker.lobby import Lobby
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.protocol import METHODS, FaultCode, WireError, answer_bytes, fault_bytes, parse_call
from ovirt_he_ha.broker.request import Gone, Limits, Refused, Request, RequestReader, answer_head
from ovirt_he_ha.broker.socket_lock import BrokerRunning, SocketLock, SocketProblem
from ovirt_he_ha.config.journal import throttled

__all__ = ["BrokerRunning", "Caller", "Fault", "RpcServer", "SocketProblem"]

log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
_BACKLOG = 1024  # who finds it full is refused at once by the kernel; admitting one takes 0.1 ms
_PATH_LIMIT = 107  # bytes of sun_path without its end
_CREDENTIALS = struct.Struct("3i")
_KEPT_CALLS = 64  # short calls without arguments whose bytes are known by heart
_SHORT_CALL = 256

# These answer from memory: the calls of one process take turns in them. All others may wait, and then others go on.
_FROM_MEMORY = frozenset(
    {
        protocol.START_MONITOR,
        protocol.STOP_MONITOR,
        protocol.STATUS_MONITOR,
        protocol.GET_STATS,
        protocol.PUSH_HOSTS_STATE,
        protocol.IS_HOST_ALIVE,
        protocol.SNAPSHOT,
        protocol.HEALTH,
    }
)


class Fault(Exception):
    """A refused or failed call, with the code that the caller gets."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


Dispatch = Callable[[Caller, str, Tuple[Any, ...]], Any]
_Call = Tuple[str, Tuple[Any, ...]]


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
        self._connections = Connections(self._limits)
        self._stopping = threading.Event()
        self._known: Dict[bytes, _Call] = {}
        self._lobby: Optional[threading.Thread] = None

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
        lobby = Lobby(
            self._admit, self._serve_in_thread, self._connections.forget, self._limits.idle_seconds, self._stopping
        )
        self._lobby = threading.Thread(target=lobby.run, args=(self._listener,), name="rpc-accept", daemon=True)
        self._lobby.start()

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
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the lobby, which has its number until then
            except OSError as error:
                log.debug("listener: %s", error)
            if self._lobby is not None:
                self._lobby.join(1.0)
            self._listener.close()
            self._listener = None

    def stop(self, deadline: float) -> bool:
        """Close the door, let running calls end for up to ``deadline`` wall seconds, cut the rest. True if all
        ended."""
        self.close_door()
        ended = self._connections.close(deadline)
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

    def _admit(self, peer: socket.socket) -> Optional[Connection]:
        try:
            caller = Caller(*_CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
        except OSError:
            peer.close()
            return None
        if not self._may_connect(caller):
            self._metrics.add("rpc.connections_refused")
            log.warning(
                "connection of uid %d (process %d) closed: not allowed",
                caller.uid,
                caller.pid,
                extra=throttled("refused", HE_UID=caller.uid),
            )
            peer.close()
            return None
        connection = Connection(peer, caller)
        gone = self._connections.register(connection)
        if gone is None:
            self._metrics.add("rpc.connections_over_limit")
            _send_error(peer, Refused(503, "Service Unavailable", "too many connections"), 0.0)
            peer.close()
            return None
        if gone:
            self._metrics.add("rpc.connections_evicted", len(gone))
        self._metrics.add("rpc.connections")
        return connection

    def _serve_in_thread(self, connection: Connection) -> None:
        try:
            threading.Thread(target=self._serve, args=(connection,), name="rpc", daemon=True).start()
        except RuntimeError as error:
            log.error("no thread for a connection: %s", error, extra=throttled("thread"))
            self._connections.forget(connection)

    def _serve(self, connection: Connection) -> None:
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
            self._connections.forget(connection)

    def _serve_one(self, connection: Connection, reader: RequestReader) -> bool:
        """One request and its answer; whether the connection stays. Raises Gone, OSError."""
        try:
            request = reader.read()
        except Refused as refused:
            self._metrics.add("rpc.http_refused")
            _send_error(connection.socket, refused, self._limits.send_seconds)
            return False
        body = self._answer(connection, request)
        keep = request.keep and not self._stopping.is_set()
        head = answer_head(request.version, 200, "OK", "text/xml", len(body), keep, _date())
        _send(connection.socket, head + body, self._limits.send_seconds)
        connection.rest()
        return keep

    # --- calls ----------------------------------------------------------------------------------------------------

    def _answer(self, connection: Connection, request: Request) -> bytes:
        self._metrics.add("rpc.calls")
        turn = connection.turn
        taken = turn.take()
        connection.busy = True
        try:
            method, args = self._parsed(request.body)
            if method not in _FROM_MEMORY and taken:
                turn.give_back()
                taken = False
            connection.busy = method != protocol.WAIT_FOR_CHANGE
            return answer_bytes(self._dispatch(connection.caller, method, args))
        except Fault as fault:
            self._metrics.add("rpc.faults")
            return fault_bytes(int(fault.code), fault.message)
        except Exception as error:
            # The one boundary where a defect must not take the connection's thread silently with it.
            self._metrics.add("rpc.errors")
            log.exception("call of process %d failed", connection.caller.pid)
            return fault_bytes(int(FaultCode.INTERNAL), f"{type(error).__name__}: {error}")
        finally:
            connection.rest()
            if taken:
                turn.give_back()

    def _parsed(self, body: bytes) -> _Call:
        """Raises Fault."""
        call = self._known.get(body)
        if call is None:
            call = self._read(body)
            if not call[1] and len(body) <= _SHORT_CALL and len(self._known) < _KEPT_CALLS:
                self._known[body] = call
        self._metrics.add(f"rpc.calls.{call[0]}")
        return call

    def _read(self, body: bytes) -> _Call:
        try:
            method, args = parse_call(body)
        except WireError as error:
            raise Fault(FaultCode.REQUEST, f"{type(error)}:{error}") from error
        if method not in METHODS:
            self._metrics.add("rpc.unknown_methods")
            raise Fault(FaultCode.REQUEST, f'{Exception}:method "{method[:80]}" is not supported')
        return method, args


def _date() -> str:
    return _dates.of(int(time.time()))


class _Dates:
    """The date of an answer's head, made once a second."""

    def __init__(self) -> None:
        self._last = (0, "")

    def of(self, second: int) -> str:
        last = self._last
        if last[0] != second:
            self._last = last = (second, formatdate(second, usegmt=True))
        return last[1]


_dates = _Dates()


def _send(peer: socket.socket, data: bytes, seconds: float) -> None:
    """All of it within so many wall seconds, however slowly it is taken. Raises OSError, TimeoutError."""
    sent = _send_some(peer, data)
    if sent == len(data):
        return
    until = time.monotonic() + seconds
    poller = select.poll()
    poller.register(peer, select.POLLOUT)
    rest = memoryview(data)[sent:]
    while rest:
        left = until - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise TimeoutError(f"answer not taken within {seconds:g} s")
        rest = rest[_send_some(peer, rest) :]


def _send_some(peer: socket.socket, data: "bytes | memoryview") -> int:
    try:
        return peer.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


def _send_error(peer: socket.socket, refused: Refused, seconds: float) -> None:
    text = refused.text.encode("utf-8", "replace")
    head = answer_head((1, 1), refused.status, refused.reason, "text/plain", len(text), False, _date())
    try:
        _send(peer, head + text, seconds)
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
