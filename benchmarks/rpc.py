"""The broker's socket: calls per second, the slowest ones, and what the big answers cost.

The client is a bare socket that sends the bytes of the field's client library (keep-alive, HTTP/1.1) and reads the
answer by its length, so that the figures are the broker's and not those of somebody's XML parser. Calls per second and
latencies are wall-clock figures: read them beside ``rpc.stdlib``, a server of the standard library that was asked the
same by the same clients a moment later.
"""

import multiprocessing
import socket
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, List

from benchmarks import meter
from benchmarks.effort import Effort
from benchmarks.figures import AT_LEAST, Figure, percentile
from benchmarks.host import Host
from benchmarks.reference import stdlib_broker
from ovirt_he_ha.broker.wire import call_bytes

_WARM = 200  # calls
_MANY = 8


class RawClient:
    """One connection, one request at a time."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.settimeout(30.0)

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def ask(self, request: bytes) -> int:
        """Bytes of the answer's body."""
        self.send(request)
        data = self._socket.recv(1 << 18)
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(1 << 18)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        have = len(body)
        while have < length:
            have += len(self._socket.recv(1 << 18))
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"benchmark: {head[:60]!r}")
        return length

    def close(self) -> None:
        self._socket.close()


def request(method: str, *args: Any) -> bytes:
    body = call_bytes(method, args)
    head = (
        "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nContent-Type: text/xml\r\n"
        f"User-Agent: Python-xmlrpc/3.11\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def figures(host: Host, effort: Effort) -> List[Figure]:
    """``host``: with a broker that serves the slots of ``effort.rpc_hosts`` hosts."""
    path, pid, seconds = host.paths.broker_socket, host.pid("broker"), effort.rpc_seconds
    found = [*_one_client("rpc", path, pid, seconds), *_many_clients("rpc", path, pid, seconds)]
    reference = host.root / "stdlib.socket"
    with stdlib_broker(reference, effort.rpc_hosts) as other:
        found += _one_client("rpc.stdlib", reference, other, seconds)
        found += _many_clients("rpc.stdlib", reference, other, seconds)
    return [*found, *_big_answers(host, effort), *_beside_others(host, 10 * effort.calls)]


def _latencies(path: Path, seconds: float) -> List[float]:
    client, ask = RawClient(path), request("is_host_alive")
    for _ in range(_WARM):
        client.ask(ask)
    found: List[float] = []
    until = time.monotonic() + seconds
    last = time.perf_counter()
    while last and time.monotonic() < until:
        client.ask(ask)
        now = time.perf_counter()
        found.append(now - last)
        last = now
    client.close()
    return found


def _one_client(who: str, path: Path, pid: int, seconds: float) -> List[Figure]:
    before, began = meter.cost(pid), time.perf_counter()
    taken = _latencies(path, seconds)
    passed, spent = time.perf_counter() - began, meter.cost(pid).since(before)
    calls, ours = len(taken) + _WARM, who == "rpc"
    rate = Figure(
        f"{who}.is_host_alive.rate", calls / passed, "calls/s", "wall, one client", 2500 if ours else None, AT_LEAST
    )
    return [rate, Figure(f"{who}.is_host_alive.cpu", spent.cpu / calls * 1e6, "us", "CPU of the server per call")]


def _many_clients(who: str, path: Path, pid: int, seconds: float) -> List[Figure]:
    before, began = meter.cost(pid), time.perf_counter()
    with multiprocessing.Pool(_MANY) as pool:
        parts = pool.starmap(_latencies, [(path, seconds)] * _MANY, chunksize=1)
    passed, spent = time.perf_counter() - began, meter.cost(pid).since(before)
    taken = [each for part in parts for each in part]
    calls, ours = len(taken) + _WARM * _MANY, who == "rpc"
    how = f"wall, {_MANY} clients without a pause between calls"
    name = f"{who}.is_host_alive"
    return [
        Figure(f"{name}.p99_of_8", percentile(taken, 0.99) * 1e3, "ms", how, 5 if ours else None),
        Figure(f"{name}.p999_of_8", percentile(taken, 0.999) * 1e3, "ms", how),
        Figure(f"{name}.rate_of_8", calls / passed, "calls/s", how),
        Figure(f"{name}.cpu_of_8", spent.cpu / calls * 1e6, "us", "CPU of the server per call"),
    ]


def _big_answers(host: Host, effort: Effort) -> List[Figure]:
    found: List[Figure] = []
    for method, budget in (("get_stats", 5.0), ("snapshot", None)):
        client, ask = RawClient(host.paths.broker_socket), request(method)
        size = client.ask(ask)
        calls, before = 2 * effort.calls, meter.cost(host.pid("broker"))
        for _ in range(calls):
            client.ask(ask)
        spent = meter.cost(host.pid("broker")).since(before)
        client.close()
        name = f"rpc.{method}"
        tail = f"{effort.rpc_hosts}_hosts"
        found.append(Figure(f"{name}.cpu_{tail}", spent.cpu / calls * 1e3, "ms", "CPU of the broker per call", budget))
        found.append(Figure(f"{name}.size_{tail}", size / 1e3, "kB", "bytes of the answer"))
    return found


# --- clients that mean harm -----------------------------------------------------------------------------------------


def _idle(path: Path, ready: Event, end: Event) -> None:
    peers = []
    for _ in range(1000):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(path))
        peers.append(peer)
    ready.set()
    end.wait()


def _not_reading(path: Path, ready: Event, end: Event) -> None:
    clients = []
    for _ in range(60):
        clients.append(RawClient(path))
        try:
            clients[-1].send(request("get_stats"))  # of 250 hosts: more than a socket's buffers hold
        except OSError:
            continue  # closed again to make room for another one of ours
    ready.set()
    end.wait()


def _flood(path: Path, ready: Event, end: Event) -> None:
    """Forty connections of one process, each with one call after the other."""
    for number in range(40):
        ask = request("get_stats" if number % 4 == 0 else "is_host_alive")
        threading.Thread(target=_ask_for_ever, args=(path, ask), daemon=True).start()
    ready.set()
    end.wait()


def _ask_for_ever(path: Path, ask: bytes) -> None:
    client = RawClient(path)
    while True:
        client.ask(ask)


def _beside_others(host: Host, calls: int) -> List[Figure]:
    """Somebody else of the same user: a connection and a call each time. ``alone``: what such a call takes anyhow."""
    found: List[Figure] = []
    path, broker = host.paths.broker_socket, host.pid("broker")
    found.append(Figure("rpc.alone.slowest", max(_calls(path, calls)) * 1e3, "ms", f"wall, slowest of {calls} calls"))
    for name, harm in (("1000_idle", _idle), ("60_not_reading", _not_reading), ("flood_of_40", _flood)):
        ready, end = multiprocessing.Event(), multiprocessing.Event()
        process = multiprocessing.Process(target=harm, args=(path, ready, end), daemon=True)
        process.start()
        if not ready.wait(30.0):
            raise SystemExit(f"benchmark: {name}: these clients did not connect")
        taken = _calls(path, calls)
        descriptors = meter.descriptors(broker)
        end.set()
        process.terminate()
        process.join(10.0)
        how = f"wall, slowest of {calls} calls"
        found += [
            Figure(f"rpc.beside_{name}.slowest", max(taken) * 1e3, "ms", how, 100.0),
            Figure(f"rpc.beside_{name}.median", percentile(taken, 0.5) * 1e3, "ms", "wall"),
            Figure(f"rpc.beside_{name}.descriptors", descriptors, "", "/proc/PID/fd of the broker", 120.0),
        ]
    return found


def _calls(path: Path, count: int) -> List[float]:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        client = RawClient(path)
        client.ask(request("is_host_alive"))
        client.close()
        taken.append(time.perf_counter() - began)
        time.sleep(0.005)
    return taken
