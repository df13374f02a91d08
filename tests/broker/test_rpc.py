"""The wire: bytes as the field's clients send them, bad clients, limits, credentials, and the exclusive socket."""

import gzip
import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import xmlrpc.client
from pathlib import Path

import pytest

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.request import Limits
from ovirt_he_ha.broker.rpc import BrokerRunning, Fault, RpcServer, SocketProblem

ROOT = Path(__file__).resolve().parents[2]
QUICK = Limits(request_seconds=0.3, idle_seconds=0.6, send_seconds=1.0)


class Echo:
    """Answers a call with itself; ``hold`` keeps every is_host_alive waiting until it is released."""

    def __init__(self):
        self.calls = []
        self.hold = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, caller, method, args):
        self.calls.append((method, args))
        if method == "is_host_alive":
            self.entered.release()
            self.hold.wait(10)
            return [1]
        if method == "reset_lockspace":
            raise Fault(protocol.FaultCode.LOCKSPACE, "not today")
        if method == "release_host_id":
            raise KeyError("a defect")
        return [method, list(args), caller.uid]


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
def serve(tmp_path, echo):
    servers = []

    def make(limits=None, may_connect=lambda caller: True):
        server = RpcServer(tmp_path / "broker.socket", echo, may_connect, Metrics(), limits or Limits())
        server.reserve()
        server.start()
        servers.append(server)
        return server

    yield make
    echo.hold.set()
    for server in servers:
        server.stop(2.0)


def connect(server, timeout=5.0):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(timeout)
    peer.connect(str(server.path))
    return peer


def receive_all(peer):
    data = b""
    while True:
        part = peer.recv(65536)
        if not part:
            return data
        data += part


def exchange(server, request):
    """The bytes of the answer up to the closing of the connection."""
    with connect(server) as peer:
        if request:  # who is turned away at once may not be there any more, even for an empty write
            peer.sendall(request)
        return receive_all(peer)


def split(answer):
    head, body = answer.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    return lines[0], {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}, body


def post(body, version="1.1", path="/RPC2", extra=""):
    return (
        f"POST {path} HTTP/{version}\r\nHost: 2F746D70\r\nAccept-Encoding: gzip\r\nContent-Type: text/xml\r\n"
        f"User-Agent: Python-xmlrpc/3.11\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


PUT = (
    b"<?xml version='1.0'?>\n<methodCall>\n<methodName>put_stats</methodName>\n<params>\n<param>\n"
    b"<value><int>1</int></value></param>\n<param>\n<value><base64>\nMXwxfDV8\n</base64></value>\n</param>\n"
    b"</params>\n</methodCall>\n"
)
GET = protocol.call_bytes("get_stats", ())


class UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def make_connection(self, host):
        if self._connection and host == self._connection[0]:
            return self._connection[1]
        connection = http.client.HTTPConnection("unix")

        def dial():
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(5)
            connection.sock.connect(self.path)

        connection.connect = dial
        self._connection = host, connection
        return connection


def proxy(server):
    return xmlrpc.client.ServerProxy("http://unix", transport=UnixTransport(server.path), allow_none=True)


# --- the wire as the field has it ---------------------------------------------------------------------------------


def test_request_of_the_fields_client(serve, echo):
    answer = exchange(serve(), post(PUT, extra="Connection: close\r\n"))
    status, fields, body = split(answer)
    assert status == "HTTP/1.1 200 OK"
    assert fields["content-type"] == "text/xml"
    assert {"server", "date"} <= set(fields)
    assert int(fields["content-length"]) == len(body)
    assert xmlrpc.client.loads(body)[0][0][0] == "put_stats"
    assert echo.calls == [("put_stats", (1, b"1|1|5|"))]


def test_a_client_of_http_1_0_gets_1_0_and_a_closed_connection(serve):
    status, _fields, body = split(exchange(serve(), post(GET, version="1.0")))
    assert status == "HTTP/1.0 200 OK"
    assert xmlrpc.client.loads(body)[0][0][0] == "get_stats"


@pytest.mark.parametrize("path", ["/", "/RPC2"])
def test_paths_that_are_served(serve, path):
    assert split(exchange(serve(), post(GET, "1.0", path)))[0].endswith("200 OK")


@pytest.mark.parametrize("path", ["/rpc2", "/RPC2/x", "/RPC2?x=1", "/../RPC2", "*"])
def test_other_paths(serve, path):
    status, fields, body = split(exchange(serve(), post(GET, "1.1", path)))
    assert status == "HTTP/1.1 404 Not Found"
    assert (fields["content-type"], body) == ("text/plain", b"No such page")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_only_post(serve, method):
    status, fields, _body = split(exchange(serve(), f"{method} /RPC2 HTTP/1.1\r\n\r\n".encode()))
    assert status.startswith("HTTP/1.1 405 ")
    assert fields["allow"] == "POST"


def test_keep_alive_serves_many_requests_on_one_connection(serve, echo):
    server = serve()
    with connect(server) as peer:
        for _ in range(5):
            peer.sendall(post(GET))
            response = http.client.HTTPResponse(peer)
            response.begin()
            assert response.version == 11
            xmlrpc.client.loads(response.read())
    assert len(echo.calls) == 5


def test_two_requests_in_one_packet(serve):
    answer = exchange(serve(), post(GET) + post(GET, extra="Connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_a_gzipped_request(serve, echo):
    packed = gzip.compress(PUT)
    exchange(serve(), post(packed, "1.0", extra="Content-Encoding: gzip\r\n"))
    assert echo.calls == [("put_stats", (1, b"1|1|5|"))]


def test_the_standard_library_as_a_client(serve):
    client = proxy(serve())
    assert client.get_stats() == ["get_stats", [], os.getuid()]
    assert client.put_stats(1, xmlrpc.client.Binary(b"\0\xff"))[1][1].data == b"\0\xff"
    assert client.notify("a", None, {"k": ["x", 1.5, True]})[1] == ["a", None, {"k": ["x", 1.5, True]}]


def test_i8_is_accepted_and_sent(serve):
    body = PUT.replace(b"<int>1</int>", b"<i8>1099511627776</i8>")
    assert b"<i8>1099511627776</i8>" in exchange(serve(), post(body, "1.0"))


@pytest.mark.parametrize(
    "method", ["no_such", "_dispatch", "system.listMethods", "system.multicall", "dispatch", "__init__"]
)
def test_unknown_methods(serve, echo, method):
    with pytest.raises(xmlrpc.client.Fault) as caught:
        proxy(serve()).__getattr__(method)()
    assert caught.value.faultCode == 1
    assert caught.value.faultString.startswith("<class '")
    assert echo.calls == []


@pytest.mark.parametrize("body", [b"", b"nonsense", b"\xff" * 300, b"<?xml version='1.0'?><!DOCTYPE a><a/>", PUT[:-20]])
def test_unreadable_xml_is_fault_1(serve, body):
    status, _fields, answer = split(exchange(serve(), post(body, "1.0")))
    assert status.endswith("200 OK")
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(answer)
    assert caught.value.faultCode == 1


def test_errors_are_faults_with_codes(serve):
    server = serve()
    with pytest.raises(xmlrpc.client.Fault) as caught:
        proxy(server).reset_lockspace()
    assert (caught.value.faultCode, caught.value.faultString) == (protocol.FaultCode.LOCKSPACE, "not today")
    with pytest.raises(xmlrpc.client.Fault) as caught:
        proxy(server).release_host_id()
    assert caught.value.faultCode == protocol.FaultCode.INTERNAL
    assert proxy(server).get_stats()[0] == "get_stats"


# --- bad clients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /RPC2\r\n\r\n", "400"),
        (b"nonsense\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"),
        (b"POST /RPC2 HTTP/2.0\r\n\r\n", "505"),
        (b"POST /RPC2 HTTP/1.1\r\n\r\n", "411"),
        (b"POST /RPC2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "411"),
        (b"POST /RPC2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
        (b"POST /RPC2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        (b"POST /RPC2 HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", "413"),
        (b"POST /RPC2 HTTP/1.1\r\nContent-Length: " + b"9" * 200 + b"\r\n\r\n", "413"),
        (b"POST /RPC2 HTTP/1.1\r\n" + b"A: b\r\n" * 100 + b"\r\n", "431"),
        (b"POST /RPC2 HTTP/1.1\r\nA: " + b"b" * 20000 + b"\r\n\r\n", "431"),
        (b"A" * 20000, "431"),
        (b"POST /RPC2 HTTP/1.1\r\n folded\r\n\r\n", "400"),
        (post(b"no gzip", extra="Content-Encoding: gzip\r\n"), "400"),
        (post(gzip.compress(b" " * 2_000_000), extra="Content-Encoding: gzip\r\n"), "413"),
        (post(b"x", extra="Content-Encoding: br\r\n"), "501"),
    ],
    ids=range(17),
)
def test_malformed_requests_get_an_error_and_a_closed_connection(serve, echo, request_bytes, status):
    server = serve()
    assert split(exchange(server, request_bytes))[0].split(" ")[1] == status
    assert echo.calls == []
    assert proxy(server).get_stats()[0] == "get_stats"


def test_an_oversized_body_is_refused_while_it_is_sent(serve):
    server = serve()
    with connect(server) as peer:
        peer.sendall(b"POST /RPC2 HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 100_000)
        assert receive_all(peer).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("part", [b"P", post(GET)[:60], post(GET)[:-5]])
def test_half_a_request_is_cut_off(serve, part):
    server = serve(QUICK)
    with connect(server) as peer:
        peer.sendall(part)
        assert proxy(server).get_stats()[0] == "get_stats"
        assert receive_all(peer) == b""


def test_a_request_that_drips_is_cut_off(serve):
    server = serve(QUICK)
    with connect(server) as peer, pytest.raises(OSError):
        for _ in range(1000):
            peer.sendall(b"x")
            peer.settimeout(0.05)
            try:
                if not peer.recv(1):
                    raise ConnectionResetError
            except socket.timeout:
                continue


def test_an_idle_connection_is_closed_and_blocks_nobody(serve):
    server = serve(QUICK)
    with connect(server) as peer:
        assert proxy(server).get_stats()[0] == "get_stats"
        assert receive_all(peer) == b""


def test_a_client_that_does_not_take_its_answer(serve, echo):
    server = serve(QUICK)
    with connect(server) as peer:
        peer.sendall(post(protocol.call_bytes("notify", ("x" * 600_000, "", {})), extra="Connection: close\r\n"))
        assert proxy(server).get_stats()[0] == "get_stats"


def test_many_idle_connections_do_not_keep_anybody_out(serve):
    server = serve(Limits(connections=8, per_uid=8))
    idle = [connect(server) for _ in range(40)]
    try:
        assert proxy(server).get_stats()[0] == "get_stats"
    finally:
        for peer in idle:
            peer.close()


def test_running_calls_are_not_evicted_and_the_next_one_is_told(serve, echo):
    server = serve(Limits(connections=8, per_uid=3))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(proxy(server).is_host_alive())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert echo.entered.acquire(timeout=5)
    assert exchange(server, b"").startswith(b"HTTP/1.1 503 ")
    echo.hold.set()
    for thread in threads:
        thread.join(5)
    assert answers == [[1]] * 3


def test_parallel_clients_are_served_while_one_waits(serve, echo):
    server = serve()
    slow = threading.Thread(target=proxy(server).is_host_alive)
    slow.start()
    assert echo.entered.acquire(timeout=5)
    done = []
    threads = [threading.Thread(target=lambda: done.append(proxy(server).get_stats()[0])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert done == ["get_stats"] * 20
    echo.hold.set()
    slow.join(5)


# --- credentials, socket, life ------------------------------------------------------------------------------------


def test_who_may_not_connect_is_closed_unheard(serve, echo):
    server = serve(may_connect=lambda caller: caller.uid != os.getuid())
    with connect(server) as peer:
        try:
            peer.sendall(post(GET))
            assert receive_all(peer) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed before or after our bytes: both are unheard
    assert echo.calls == []


def test_credentials_are_the_kernels(serve, echo):
    seen = []
    server = serve(may_connect=lambda caller: seen.append(caller) or True)
    proxy(server).get_stats()
    assert [(caller.pid, caller.uid, caller.gid) for caller in seen] == [(os.getpid(), os.getuid(), os.getgid())]


def test_mode_of_the_socket(serve):
    status = os.stat(serve().path)
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660


def test_stop_removes_the_socket_and_ends_idle_connections(serve):
    server = serve()
    with connect(server) as peer:
        peer.sendall(post(GET))
        response = http.client.HTTPResponse(peer)
        response.begin()
        response.read()
        assert server.stop(2.0)
        assert receive_all(peer) == b""
    assert not server.path.exists()


def test_stop_does_not_wait_longer_than_told_for_a_call_that_hangs(serve, echo):
    server = serve()
    with connect(server) as peer:
        peer.sendall(post(protocol.call_bytes("is_host_alive", ())))
        assert echo.entered.acquire(timeout=5)
        assert not server.stop(0.2)
        assert receive_all(peer) == b""
    assert not server.path.exists()


@pytest.mark.parametrize("leftover", ["broker.socket", "broker.socket.new"])
def test_leftovers_of_a_dead_broker_do_not_matter(serve, tmp_path, leftover):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / leftover))
    dead.close()
    assert proxy(serve()).get_stats()[0] == "get_stats"


SECOND = """
import sys
from pathlib import Path
from ovirt_he_ha.broker.rpc import BrokerRunning, RpcServer
server = RpcServer(Path(sys.argv[1]), lambda *_: None, lambda _: True)
try:
    server.reserve()
except BrokerRunning as error:
    sys.exit(f"{error.pid}")
server.start()
print("serving", flush=True)
sys.stdin.read()
"""


def second_broker(path):
    return subprocess.Popen(
        [sys.executable, "-c", SECOND, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_broker_is_refused_and_names_the_first(serve):
    server = serve()
    with second_broker(server.path) as second:
        _out, problem = second.communicate(timeout=20)
    assert second.returncode == 1
    assert problem.strip() == str(os.getpid())
    assert proxy(server).get_stats()[0] == "get_stats"


def test_after_a_kill_the_next_broker_takes_over(tmp_path, echo):
    path = tmp_path / "broker.socket"
    with second_broker(path) as first:
        assert first.stdout.readline().strip() == "serving"
        ours = RpcServer(path, echo, lambda _caller: True)
        with pytest.raises(BrokerRunning) as caught:
            ours.reserve()
        assert caught.value.pid == first.pid
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    assert path.exists()
    ours.reserve()
    ours.start()
    assert proxy(ours).get_stats()[0] == "get_stats"
    ours.stop(1.0)


def test_a_directory_that_is_missing_is_named(tmp_path):
    server = RpcServer(tmp_path / "no" / "broker.socket", lambda *_: None, lambda _: True)
    with pytest.raises(SocketProblem, match="no"):
        server.reserve()


def test_a_path_too_long_for_a_socket_is_named(tmp_path):
    with pytest.raises(SocketProblem, match="too long"):
        RpcServer(tmp_path / ("x" * 120), lambda *_: None, lambda _: True).reserve()
