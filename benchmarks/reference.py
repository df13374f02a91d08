"""What the figures are to be compared with, measured in the same run: how fast this machine is just now, and a broker's
socket made of nothing but Python's standard library.

    python -m benchmarks.reference SOCKET HOSTS      that socket; ends with its standard input
"""

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

from benchmarks import installed
from benchmarks.figures import Figure

_ROUNDS = 15


def machine(when: str) -> List[Figure]:
    """``when``: of which part of the run. The loop is the same on every machine: twice its time, twice everybody's."""
    load = os.getloadavg()[0]
    how = "CPU of a fixed loop of Python (dicts, JSON, zlib), median"
    return [
        Figure(f"machine.{when}.loop", _loop() * 1e3, "ms", how),
        Figure(f"machine.{when}.load", load, "", f"load average of one minute, {os.cpu_count()} processors"),
    ]


def _loop() -> float:
    taken: List[float] = []
    for _ in range(_ROUNDS):
        before = time.process_time()
        table = {f"key{number}": [number, str(number)] for number in range(2000)}
        text = json.dumps(table)
        assert json.loads(zlib.decompress(zlib.compress(text.encode()))) == table
        taken.append(time.process_time() - before)
    return sorted(taken)[_ROUNDS // 2]


# --- the standard library's socket -----------------------------------------------------------------------------------


class _Handler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = False  # a Unix socket has none

    def log_request(self, code: "int | str" = "-", size: "int | str" = "-") -> None:
        return None

    def address_string(self) -> str:
        return "unix"


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer, SimpleXMLRPCDispatcher):
    daemon_threads = True
    request_queue_size = 64
    logRequests = False
    _send_traceback_header = False


@contextmanager
def stdlib_broker(path: Path, hosts: int) -> Iterator[int]:
    """Its process id. It answers ``is_host_alive`` with the same numbers as ours, and looks at nothing for it."""
    command = [sys.executable, "-m", "benchmarks.reference", str(path), str(hosts)]
    env = {**os.environ, **installed.environment()}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=installed.tree(), env=env, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        server.stdout.readline()
        yield server.pid
        server.stdin.close()


def main(words: List[str]) -> int:
    path, hosts = words[0], list(range(1, int(words[1]) + 1))
    server = _Server(path, _Handler)
    SimpleXMLRPCDispatcher.__init__(server, allow_none=True)
    server.register_function(lambda: hosts, "is_host_alive")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # threads of clients that are still there


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
