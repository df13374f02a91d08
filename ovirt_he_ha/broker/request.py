"""One HTTP request from a socket, with a limit on everything: size, lines, and the time it may take to arrive."""

import re
import socket
import struct
import time
import zlib
from dataclasses import dataclass
from typing import Dict, List, Mapping, Tuple

from ovirt_he_ha.broker.protocol import MAX_BODY

_TIMEVAL = struct.Struct("@ll")
_KEPT_HEADS = 64  # short heads that are known by heart: a client sends the same one with every call
_SHORT_HEAD = 512
_REQUEST_LINE = re.compile(r"([A-Za-z]{1,16}) (\S{1,1024}) HTTP/(\d)\.(\d)")


@dataclass(frozen=True)
class Limits:
    """``request_seconds``: from the first byte of a request to its last. ``idle_seconds``: between two requests.
    ``send_seconds``: for the client to take the answer. All in wall seconds: they are about the client, not the
    product.
    """

    connections: int = 64
    per_uid: int = 48
    body: int = MAX_BODY
    head: int = 1 << 14
    head_lines: int = 64
    request_seconds: float = 5.0
    idle_seconds: float = 60.0
    send_seconds: float = 10.0


class Refused(Exception):
    """A request that gets an HTTP error and then a closed connection."""

    def __init__(self, status: int, reason: str, text: str = "") -> None:
        super().__init__(f"{status} {reason}: {text}")
        self.status = status
        self.reason = reason
        self.text = text or reason


class Gone(Exception):
    """Nothing more will come: closed, broken off, or silent for too long. ``half`` when a request had begun."""

    def __init__(self, half: bool) -> None:
        super().__init__("half a request" if half else "no request")
        self.half = half


@dataclass(frozen=True)
class Request:
    """``keep``: the client will send another request on this connection."""

    method: str
    path: str
    version: Tuple[int, int]
    body: bytes
    keep: bool


class RequestReader:
    """Requests of one connection, in order. Bytes of the next request that came along are kept for it."""

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._pending = b""
        self._patience = -1.0  # what the kernel was told last

    def wait(self) -> None:
        """Return when a request has begun to arrive. Raises Gone after the idle limit or when the peer closed."""
        if not self._pending:
            self._take(self._limits.idle_seconds, half=False)

    def read(self) -> Request:
        """The request that has begun. Raises Gone, Refused."""
        until = time.monotonic() + self._limits.request_seconds
        method, path, version, fields = _head(self._read_head(until), self._limits.head_lines)
        _refuse_unserved(method, path)
        body = self._decoded(self._read_body(self._body_length(fields), until), fields)
        return Request(method, path, version, body, _keeps(version, fields))

    def _receive(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise Gone(True)
        self._take(left, half=True)

    def _take(self, seconds: float, half: bool) -> None:
        """What is there, or comes within so many seconds. The kernel does the waiting: one system call for most
        requests, where a socket with a timeout of Python's needs three."""
        try:
            if seconds != self._patience:
                whole = int(seconds)
                timeval = _TIMEVAL.pack(whole, max(1, int((seconds - whole) * 1e6)))
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
                self._patience = seconds
            data = self._connection.recv(1 << 16)
        except OSError as error:  # the time is over (EAGAIN), too
            raise Gone(half) from error
        if not data:
            raise Gone(half)
        self._pending += data

    def _read_head(self, until: float) -> bytes:
        self._pending = self._pending.lstrip(b"\r\n")
        while b"\r\n\r\n" not in self._pending[: self._limits.head]:
            if len(self._pending) >= self._limits.head:
                raise Refused(431, "Request Header Fields Too Large")
            self._receive(until)
        head, self._pending = self._pending.split(b"\r\n\r\n", 1)
        return head

    def _body_length(self, fields: Mapping[str, str]) -> int:
        if "transfer-encoding" in fields:
            raise Refused(411, "Length Required", "expected Content-Length, not Transfer-Encoding")
        text = fields.get("content-length", "")
        if not text:
            raise Refused(411, "Length Required")
        if not (text.isascii() and text.isdigit()):
            raise Refused(400, "Bad Request", "Content-Length: expected a number")
        if len(text) > 12 or int(text) > self._limits.body:
            raise Refused(413, "Payload Too Large", f"at most {self._limits.body} bytes")
        return int(text)

    def _read_body(self, length: int, until: float) -> bytes:
        parts = [self._pending]
        have = len(self._pending)
        while have < length:
            self._pending = b""
            self._receive(until)
            parts.append(self._pending)
            have += len(self._pending)
        data = b"".join(parts)
        self._pending = data[length:]
        return data[:length]

    def _decoded(self, body: bytes, fields: Mapping[str, str]) -> bytes:
        encoding = fields.get("content-encoding", "identity").lower()
        if encoding == "identity":
            return body
        if encoding != "gzip":
            raise Refused(501, "Not Implemented", "Content-Encoding: expected gzip or none")
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(body, self._limits.body + 1)
        except zlib.error as error:
            raise Refused(400, "Bad Request", "body is no gzip data") from error
        if len(data) > self._limits.body:
            raise Refused(413, "Payload Too Large", f"at most {self._limits.body} bytes")
        if not unpacker.eof:
            raise Refused(400, "Bad Request", "gzip data ends too early")
        return data


_Head = Tuple[str, str, Tuple[int, int], Mapping[str, str]]
_known_heads: Dict[Tuple[bytes, int], _Head] = {}


def _head(head: bytes, most_lines: int) -> _Head:
    """Method, path, version and fields. Raises Refused."""
    known = _known_heads.get((head, most_lines))
    if known is None:
        known = _parse_head(head, most_lines)
        if len(head) <= _SHORT_HEAD and len(_known_heads) < _KEPT_HEADS:
            _known_heads[head, most_lines] = known
    return known


def _parse_head(head: bytes, most_lines: int) -> _Head:
    lines = head.decode("latin-1").split("\r\n")
    if len(lines) > most_lines:
        raise Refused(431, "Request Header Fields Too Large")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise Refused(400, "Bad Request", "expected METHOD PATH HTTP/1.x")
    method, path, major, minor = match.groups()
    if major != "1":
        raise Refused(505, "HTTP Version Not Supported")
    return method.upper(), path, (int(major), int(minor)), _parse_fields(lines[1:])


def _parse_fields(lines: List[str]) -> Dict[str, str]:
    fields: Dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or not name or name != name.strip():
            raise Refused(400, "Bad Request", "malformed header line")
        if key == "content-length" and fields.get(key, value.strip()) != value.strip():
            raise Refused(400, "Bad Request", "two values of Content-Length")
        fields[key] = value.strip()
    return fields


def _refuse_unserved(method: str, path: str) -> None:
    if method != "POST":
        raise Refused(405, "Method Not Allowed", "only POST")
    if path not in ("/", "/RPC2"):
        raise Refused(404, "Not Found", "No such page")


def _keeps(version: Tuple[int, int], fields: Mapping[str, str]) -> bool:
    return version >= (1, 1) and "close" not in fields.get("connection", "").lower()


def answer_head(
    version: Tuple[int, int], status: int, reason: str, kind: str, length: int, keep: bool, date: str
) -> bytes:
    """The head of an answer; a client of 1.0 gets 1.0."""
    lines = [
        f"HTTP/{version[0]}.{min(version[1], 1)} {status} {reason}",
        "Server: ovirt-he-ha-broker",
        f"Date: {date}",
        f"Content-type: {kind}",
        f"Content-length: {length}",
    ]
    if status == 405:
        lines.append("Allow: POST")
    if not keep and version >= (1, 1):
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
