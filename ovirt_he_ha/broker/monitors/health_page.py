"""The engine's health page: one GET with a deadline for all of it, name, connection, TLS and every byte included."""

import errno
import http.client
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import SplitResult, urlsplit

from ovirt_he_ha.broker.bounded_stream import BoundedStream, TooMuch, left
from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.options import OptionError
from ovirt_he_ha.broker.monitors.target import RESOLVE_AGAIN, Target
from ovirt_he_ha.core.model import Health

MARKER = b"DB Up"  # what the first line of a healthy engine's page holds
BODY_LIMIT = 4096  # bytes; the real page has 31
MOST = 1 << 16  # bytes that are taken at all, header included; a server may pour them for ever
MOST_ADDRESSES = 8  # of those that the engine's name has
RESOLVE_AFTER_BAD = 60.0  # wall seconds: the engine may have come back with another address
# This host has no way to the engine at all: that says nothing of the engine.
_OWN_FAULT = (errno.ENETUNREACH, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


@dataclass(frozen=True)
class PageResult:
    """``health`` is GOOD or BAD; ``why`` a few ASCII words when bad."""

    health: Health
    why: str = ""


def checked_url(url: str) -> SplitResult:
    """Raises OptionError naming ``health url``."""
    expected = "http://HOST[:PORT]/PATH or https://..."
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise OptionError("[health] url", expected, url) from None
    printable = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok or not printable:
        raise OptionError("[health] url", expected, url)
    return parts


class HealthPage:
    """``timeout``: wall seconds for one :meth:`fetch`, the system's resolver excepted. One thread fetches; any may
    abort."""

    def __init__(self, url: str, timeout: float, ca_file: str = "") -> None:
        """Raises OptionError for a URL that is none, or a CA file that cannot be used."""
        self._url = checked_url(url)
        self._timeout = timeout
        host = str(self._url.hostname)
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        self._target = Target(host, port, socket.SOCK_STREAM, time.monotonic)
        self._tls = self._context(ca_file) if self._url.scheme == "https" else None
        self._lock = threading.Lock()
        self._open: Optional[socket.socket] = None
        self._aborted = False
        self._was_good = True

    @staticmethod
    def _context(ca_file: str) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as problem:
            raise OptionError("[health] ca-file", f"a readable file of PEM certificates ({problem})", ca_file) from None

    def abort(self) -> None:
        """End a running fetch and refuse further ones."""
        with self._lock:
            self._aborted = True
            if self._open is not None:
                _shut(self._open)

    def fetch(self) -> PageResult:
        """GOOD: status 200 and ``DB Up`` in the first line. BAD: anything else that the engine, or its silence,
        answered.

        Raises Unmeasured where the fault is not known to be the engine's: ``no-address`` (its name cannot be resolved),
        ``no-route``, ``certificate`` (somebody else answers, or the CA file is a wrong one), ``stopping``.
        """
        try:
            addresses = self._target.addresses(RESOLVE_AGAIN if self._was_good else RESOLVE_AFTER_BAD)
        except OSError as problem:
            raise Unmeasured("no-address", str(problem)) from problem
        until = time.monotonic() + self._timeout
        result = PageResult(Health.BAD, "no address")
        addresses = addresses[:MOST_ADDRESSES]
        for number, (family, address) in enumerate(addresses):
            # One that swallows everything (an address family without a way) must leave time for the others.
            patience = max(0.1, until - time.monotonic()) / (len(addresses) - number)
            result = self._ask(family, address, until, time.monotonic() + patience)
            if result.health is Health.GOOD:
                break
        self._was_good = result.health is Health.GOOD
        return result

    def _ask(self, family: int, address: Any, until: float, connected: float) -> PageResult:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as plain:
                return self._converse(plain, address, until, connected)
        except ssl.SSLCertVerificationError as problem:
            raise Unmeasured("certificate", str(problem)) from problem
        except socket.timeout:
            return PageResult(Health.BAD, "timed out")
        except TooMuch as problem:
            return PageResult(Health.BAD, str(problem))
        except http.client.HTTPException as problem:
            return PageResult(Health.BAD, f"not HTTP: {type(problem).__name__}")
        except OSError as problem:
            if problem.errno in _OWN_FAULT:
                raise Unmeasured("no-route", str(problem)) from problem
            return PageResult(Health.BAD, f"no connection: {errno.errorcode.get(problem.errno or 0, 'closed')}")
        finally:
            self._release()

    def _converse(self, plain: socket.socket, address: Any, until: float, connected: float) -> PageResult:
        self._hold(plain)
        plain.settimeout(left(min(until, connected)))
        plain.connect(address)
        if self._tls is None:
            return self._request(plain, until)
        plain.settimeout(left(until))
        # The handshake is a step of its own: wrapping moves the descriptor, and an abort must reach the one in use.
        secure = self._tls.wrap_socket(plain, server_hostname=str(self._url.hostname), do_handshake_on_connect=False)
        with secure:
            self._hold(secure)
            secure.do_handshake()
            return self._request(secure, until)

    def _request(self, connection: socket.socket, until: float) -> PageResult:
        connection.settimeout(left(until))
        connection.sendall(self._head())
        response = http.client.HTTPResponse(BoundedStream(connection, until, MOST))  # type: ignore[arg-type]
        try:
            response.begin()
            line = _first_line(response)
            if response.status != http.client.OK:
                return PageResult(Health.BAD, f"HTTP status {response.status}")
        finally:
            response.close()
        return PageResult(Health.GOOD) if MARKER in line else PageResult(Health.BAD, "the page does not say DB Up")

    def _head(self) -> bytes:
        path = self._url.path or "/"
        query = f"?{self._url.query}" if self._url.query else ""
        host = self._url.netloc.rpartition("@")[2]
        lines = (f"GET {path}{query} HTTP/1.1", f"Host: {host}", "Accept: text/plain, */*", "Connection: close", "", "")
        return "\r\n".join(lines).encode("ascii")

    def _hold(self, connection: socket.socket) -> None:
        with self._lock:
            if self._aborted:
                raise Unmeasured("stopping")
            self._open = connection

    def _release(self) -> None:
        with self._lock:
            self._open = None
            if self._aborted:
                raise Unmeasured("stopping")


def _first_line(response: http.client.HTTPResponse) -> bytes:
    """Up to the first line end, the end of the body or 4096 bytes."""
    data = b""
    while len(data) < BODY_LIMIT and b"\n" not in data:
        chunk = response.read1(BODY_LIMIT - len(data))
        if not chunk:
            break
        data += chunk
    return data.partition(b"\n")[0]


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # not connected (any more): nothing to wake
