"""Typed calls to the broker over its Unix socket.

Connections are kept alive and pooled: the link may be used from several threads, each call has a connection of its
own, so a waiting ``wait_for_change`` delays nobody. Every call ends by its deadline, whatever the other side does.
Deadlines and timeouts here are wall seconds: who counts in product seconds converts before the call.
"""

import socket
import struct
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.protocol import BrokerSnapshot, FaultCode, ProtocolError, PublishFacts, StorageFacts
from ovirt_he_ha.core.model import MAX_HOST_ID, SLOT_SIZE

__all__ = [
    "BrokerError",
    "BrokerFault",
    "BrokerLink",
    "BrokerSnapshot",
    "BrokerUnavailable",
    "FaultCode",
    "ProtocolError",
    "PublishFacts",
    "StorageFacts",
]

T = TypeVar("T")

_MAX_HEADER = 1 << 14
_TIMEVAL = struct.Struct("@ll")
_ONCE = frozenset({protocol.NOTIFY})  # a second try would be a second mail
_MOST_IDLE = 4  # as many as call at once; each is a descriptor and a thread of the broker


class BrokerError(Exception):
    """Any failure of a call to the broker."""


class BrokerUnavailable(BrokerError):
    """No answer: no socket, refused, broken off, or not by the deadline. The cause is chained; ``code`` is
    ``no-socket``, ``refused``, ``not-allowed``, ``overdue``, ``broken`` or ``garbage``."""

    msg = "the broker does not answer at {path} ({code}): {detail}"

    def __init__(self, path: str, code: str, detail: object) -> None:
        super().__init__(self.msg.format(path=path, code=code, detail=detail))
        self.path = path
        self.code = code


class BrokerFault(BrokerError):
    """The broker answered with a fault. ``code`` is one of FaultCode where known, else a plain integer."""

    msg = "the broker refused {method}: {message} (fault {code})"

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(self.msg.format(method=method, message=message, code=int(code)))
        self.method = method
        self.code = code
        self.message = message


class _Stale(Exception):
    """A kept connection was closed by the broker before it answered."""


class _Connection:
    """One HTTP/1.1 connection, used by one call at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: Optional[socket.socket] = None
        self._rest = b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._rest = b""

    @property
    def used(self) -> bool:
        return self._socket is not None

    def exchange(self, body: bytes, until: float) -> Tuple[bytes, bool]:
        """Send one request, return the answer's body and whether the connection can be kept. ``until``: monotonic
        wall second. Raises OSError (a timeout too), _Stale, ValueError for an answer that is no HTTP."""
        reused = self.used
        try:
            self._send(body, until)
            head = self._read_head(until)
        except (BrokenPipeError, ConnectionResetError, EOFError) as error:
            if reused:
                raise _Stale from error
            raise
        status, keep, length = _parse_head(head)
        data = self._read_body(length, until)
        if status != 200:
            raise ValueError(f"HTTP status {status}: {data[:80]!r}")
        return data, keep and length is not None

    def _send(self, body: bytes, until: float) -> None:
        if self._socket is None:
            self._socket = self._connected(until)
        head = (
            "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\n"
            f"User-Agent: ovirt-he-ha\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._arm(until).sendall(head.encode("ascii") + body)

    def _connected(self, until: float) -> socket.socket:
        """Blocking, by the kernel's own clock: a socket with a timeout of Python's is refused when the broker has a
        queue of connections to work off."""
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            left = max(until - time.monotonic(), 0.001)
            fresh.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(left), int(left % 1 * 1e6)))
            fresh.connect(self._path)
        except BaseException:
            fresh.close()
            raise
        return fresh

    def _arm(self, until: float) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("connection is closed")
        left = until - time.monotonic()
        if left <= 0:
            raise socket.timeout("deadline passed")
        self._socket.settimeout(left)
        return self._socket

    def _receive(self, until: float) -> bytes:
        data = self._arm(until).recv(1 << 16)
        if not data:
            raise EOFError("connection closed by the broker")
        return data

    def _read_head(self, until: float) -> bytes:
        data = self._rest
        while b"\r\n\r\n" not in data:
            if len(data) > _MAX_HEADER:
                raise ValueError("answer header too long")
            data += self._receive(until)
        head, self._rest = data.split(b"\r\n\r\n", 1)
        return head

    def _read_body(self, length: Optional[int], until: float) -> bytes:
        parts = [self._rest]
        have = len(self._rest)
        while length is None or have < length:
            if have > protocol.MAX_ANSWER:
                raise ValueError("answer too long")
            try:
                part = self._receive(until)
            except EOFError:
                if length is None:
                    break
                raise
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._rest = b"" if length is None else data[length:]
        return data if length is None else data[:length]


def _parse_head(head: bytes) -> Tuple[int, bool, Optional[int]]:
    """Status, whether the connection stays open, length of the body (None: until it closes). Raises ValueError."""
    lines = head.decode("latin-1").split("\r\n")
    version, status = [*lines[0].split(" ", 2), "", ""][:2]
    if not version.startswith("HTTP/1.") or not status.isdigit():
        raise ValueError(f"no HTTP answer: {lines[0][:60]!r}")
    fields: Dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip().lower()
    length = int(fields["content-length"]) if "content-length" in fields else None
    if length is not None and not 0 <= length <= protocol.MAX_ANSWER:
        raise ValueError(f"answer of {length} bytes")
    keep = version == "HTTP/1.1" and fields.get("connection") != "close"
    return int(status), keep, length


class BrokerLink:
    """The broker as the agent and the command line see it.

    ``socket_path``: the broker's socket. ``deadline``: wall seconds that one call may take unless it says otherwise.
    Every method raises BrokerUnavailable or BrokerFault (both BrokerError) by its deadline. Thread-safe.
    """

    def __init__(self, socket_path: object, deadline: float = 5.0) -> None:
        self.socket_path = str(socket_path)
        self.deadline = deadline
        self._lock = threading.Lock()
        self._idle: List[_Connection] = []

    def close(self) -> None:
        """Close the kept connections; the link may be used again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> "BrokerLink":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --- ours -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> BrokerSnapshot:
        try:
            return protocol.unpack_snapshot(self.call(protocol.SNAPSHOT))
        except ProtocolError as error:
            raise BrokerUnavailable(self.socket_path, "garbage", error) from error

    def wait_for_change(self, serial: int, timeout: float) -> int:
        """The broker's serial, as soon as it differs from ``serial``, or after ``timeout`` wall seconds."""
        answer = self.call(protocol.WAIT_FOR_CHANGE, serial, float(timeout), deadline=timeout + self.deadline)
        return self._typed(answer, int)

    def health(self) -> Dict[str, Any]:
        return self._typed(self.call(protocol.HEALTH), dict)

    # --- the field's methods --------------------------------------------------------------------------------------

    def get_stats(self) -> Dict[int, bytes]:
        """Slots by host id as they are on the volume; 0 is the global one."""
        answer = self._typed(self.call(protocol.GET_STATS), dict)
        if not all(_is_host_id(key) and isinstance(value, bytes) for key, value in answer.items()):
            raise BrokerUnavailable(self.socket_path, "garbage", "get_stats: expected binary values by host id")
        return {int(key): value.ljust(SLOT_SIZE, b"\0") for key, value in answer.items()}

    def put_stats(self, host_id: int, data: bytes, deadline: Optional[float] = None) -> None:
        """Publish a slot; returns when it is on the volume (slot 0: read back)."""
        self._done(self.call(protocol.PUT_STATS, host_id, bytes(data), deadline=deadline))

    def push_hosts_state(self, ids: Sequence[int]) -> None:
        self.call(protocol.PUSH_HOSTS_STATE, list(ids))

    def is_host_alive(self) -> Tuple[int, ...]:
        """Host ids that the agent pushed as live within the last 60 s."""
        answer = self.call(protocol.IS_HOST_ALIVE)
        if answer == "":
            return ()  # oVirt's own broker, in the first minute after a boot
        ids = self._typed(answer, list)
        if not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
            raise BrokerUnavailable(self.socket_path, "garbage", "is_host_alive: expected host ids")
        return tuple(ids)

    def notify(self, event: str, detail: str, options: Mapping[str, str]) -> str:
        """``sent`` (queued for delivery) or ``ignored``."""
        return self._typed(self.call(protocol.NOTIFY, event, detail, dict(options)), str)

    def start_monitor(self, kind: str, options: Mapping[str, str]) -> str:
        return self._typed(self.call(protocol.START_MONITOR, kind, dict(options)), str)

    def status_monitor(self, monitor: str) -> str:
        return self._typed(self.call(protocol.STATUS_MONITOR, monitor), str)

    def stop_monitor(self, monitor: str) -> None:
        self.call(protocol.STOP_MONITOR, monitor)

    def lock_host_id(self, host_id: int) -> None:
        self.call(protocol.LOCK_HOST_ID, host_id)

    def release_host_id(self) -> None:
        self.call(protocol.RELEASE_HOST_ID)

    def start_domain_monitor(self, host_id: int) -> None:
        self.call(protocol.START_DOMAIN_MONITOR, host_id)

    def stop_domain_monitor(self) -> None:
        self.call(protocol.STOP_DOMAIN_MONITOR)

    def reset_lockspace(self, deadline: Optional[float] = None) -> None:
        self._done(self.call(protocol.RESET_LOCKSPACE, deadline=deadline))

    # --- transport ------------------------------------------------------------------------------------------------

    def call(self, method: str, *args: Any, deadline: Optional[float] = None) -> Any:
        """One call by name. ``deadline`` in wall seconds, the link's own if None."""
        until = time.monotonic() + (self.deadline if deadline is None else deadline)
        try:
            body = self._exchange(method, protocol.call_bytes(method, args), until)
            return protocol.parse_answer(body)
        except protocol.WireFault as fault:
            raise BrokerFault(method, _known(fault.code), str(fault.message)) from None
        except (protocol.WireError, ValueError) as error:
            raise BrokerUnavailable(self.socket_path, "garbage", error) from error
        except (OSError, EOFError) as error:
            raise BrokerUnavailable(self.socket_path, _cause(error), _detail(error)) from error

    def _exchange(self, method: str, body: bytes, until: float) -> bytes:
        """What is asked once has a connection of its own: a kept one may be stale, which shows only by asking."""
        once = method in _ONCE
        connection = _Connection(self.socket_path) if once else self._take()
        try:
            return self._exchange_on(connection, body, until, again=not once)
        except _Stale:
            # The broker closes idle connections and may have restarted: nothing was answered on the old one, ask
            # once on a new one.
            self.close()
            return self._exchange_on(_Connection(self.socket_path), body, until, again=True)

    def _exchange_on(self, connection: _Connection, body: bytes, until: float, again: bool) -> bytes:
        """``again``: the connection is kept for the next call."""
        try:
            data, keep = connection.exchange(body, until)
        except BaseException:
            connection.close()
            raise
        if not (keep and again and self._kept(connection)):
            connection.close()
        return data

    def _kept(self, connection: _Connection) -> bool:
        with self._lock:
            if len(self._idle) >= _MOST_IDLE:
                return False
            self._idle.append(connection)
            return True

    def _take(self) -> _Connection:
        with self._lock:
            return self._idle.pop() if self._idle else _Connection(self.socket_path)

    def _done(self, answer: Any) -> None:
        """A broker that failed may answer nil: oVirt's does. Only its word counts as done."""
        if answer != "ok":
            raise BrokerUnavailable(self.socket_path, "garbage", f"expected 'ok', found {str(answer)[:40]!r}")

    def _typed(self, answer: Any, kind: Type[T]) -> T:
        if isinstance(answer, kind) and not isinstance(answer, bool):
            return answer
        raise BrokerUnavailable(self.socket_path, "garbage", f"expected {kind.__name__}, found {type(answer).__name__}")


def _is_host_id(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 4 and int(key) <= MAX_HOST_ID


def _known(code: object) -> int:
    try:
        return FaultCode(int(str(code)))
    except ValueError:
        return int(str(code)) if str(code).lstrip("-").isdigit() else int(FaultCode.INTERNAL)


def _detail(error: BaseException) -> object:
    """The system's words for a full queue of connections would send the reader after memory or limits."""
    return "it takes no more connections" if isinstance(error, BlockingIOError) else error


def _cause(error: BaseException) -> str:
    for kind, code in (
        (FileNotFoundError, "no-socket"),
        (ConnectionRefusedError, "refused"),
        (PermissionError, "not-allowed"),
        (socket.timeout, "overdue"),
        (BlockingIOError, "overdue"),
    ):
        if isinstance(error, kind):
            return code
    return "broken"
