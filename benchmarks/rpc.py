"""The broker's socket: calls per second, the slowest ones, and what the big answers cost.

The client is a bare socket that sends the bytes of the field's client library (keep-alive, HTTP/1.1) and reads the
answer by its length, so that the figures are the broker's and not those of somebody's XML parser.
"""

import multiprocessing
import socket
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, List

from benchmarks import meter
from benchmarks.figures import AT_LEAST, Figure, percentile
from benchmarks.host import Host
from ovirt_he_ha.broker.wire import call_bytes

_SECONDS = 3.0
_MANY = 8
_HOSTS = 250


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


def figures(host: Host) -> List[Figure]:
    """``host``: with a broker that serves the slots of 250 hosts."""
    return [*_one_client(host), *_many_clients(host), *_big_answers(host), *_beside_others(host)]


def _latencies(path: Path, seconds: float) -> List[float]:
    client, ask = RawClient(path), request("is_host_alive")
    for _ in range(200):
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


def _one_client(host: Host) -> List[Figure]:
    pid = host.pid("broker")
    before, began = meter.cost(pid), time.perf_counter()
    taken = _latencies(host.paths.broker_socket, _SECONDS)
    seconds, spent = time.perf_counter() - began, meter.cost(pid).since(before)
    calls = len(taken) + 200
    return [
        Figure("rpc.is_host_alive.rate", calls / seconds, "calls/s", "wall, one client", 2500, AT_LEAST),
        Figure("rpc.is_host_alive.cpu", spent.cpu / calls * 1e6, "us", "CPU of the broker per call"),
    ]


def _many_clients(host: Host) -> List[Figure]:
    pid = host.pid("broker")
    before, began = meter.cost(pid), time.perf_counter()
    with multiprocessing.Pool(_MANY) as pool:
        parts = pool.starmap(_latencies, [(host.paths.broker_socket, _SECONDS)] * _MANY, chunksize=1)
    seconds, spent = time.perf_counter() - began, meter.cost(pid).since(before)
    taken = [each for part in parts for each in part]
    calls = len(taken) + 200 * _MANY
    how = f"wall, {_MANY} clients without a pause between calls"
    return [
        Figure("rpc.is_host_alive.p99_of_8", percentile(taken, 0.99) * 1e3, "ms", how, 5),
        Figure("rpc.is_host_alive.p999_of_8", percentile(taken, 0.999) * 1e3, "ms", how),
        Figure("rpc.is_host_alive.rate_of_8", calls / seconds, "calls/s", how),
        Figure("rpc.is_host_alive.cpu_of_8", spent.cpu / calls * 1e6, "us", "CPU of the broker per call"),
    ]


def _big_answers(host: Host) -> List[Figure]:
    found: List[Figure] = []
    for method, budget in (("get_stats", 5.0), ("snapshot", None)):
        client, ask = RawClient(host.paths.broker_socket), request(method)
        size = client.ask(ask)
        calls, before = 40, meter.cost(host.pid("broker"))
        for _ in range(calls):
            client.ask(ask)
        spent = meter.cost(host.pid("broker")).since(before)
        client.close()
        name = f"rpc.{method}.cpu_{_HOSTS}_hosts"
        found.append(Figure(name, spent.cpu / calls * 1e3, "ms", "CPU of the broker per call", budget))
        found.append(Figure(f"rpc.{method}.size_{_HOSTS}_hosts", size / 1e3, "kB", "bytes of the answer"))
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
            clients[-1].send(request("snapshot"))
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


def _beside_others(host: Host) -> List[Figure]:
    """Somebody else of the same user: a connection and a call each time."""
    found: List[Figure] = []
    path = host.paths.broker_socket
    for name, harm in (("1000_idle", _idle), ("60_not_reading", _not_reading), ("flood_of_40", _flood)):
        ready, end = multiprocessing.Event(), multiprocessing.Event()
        process = multiprocessing.Process(target=harm, args=(path, ready, end), daemon=True)
        process.start()
        ready.wait(30.0)
        taken = []
        for _ in range(200):
            began = time.perf_counter()
            client = RawClient(path)
            client.ask(request("is_host_alive"))
            client.close()
            taken.append(time.perf_counter() - began)
            time.sleep(0.005)
        descriptors = meter.descriptors(host.pid("broker"))
        end.set()
        process.terminate()
        process.join(10.0)
        found += [
            Figure(f"rpc.beside_{name}.slowest", max(taken) * 1e3, "ms", "wall, slowest of 200 calls", 100.0),
            Figure(f"rpc.beside_{name}.descriptors", descriptors, "", "/proc/PID/fd of the broker", 120.0),
        ]
    return found
