"""Servers that never end, pour, drip or lie: each costs its deadline at most, and a bounded memory."""

import gzip
import socket
import struct
import threading
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset
import pytest

from ovirt_he_ha.broker import smtp
from ovirt_he_ha.broker.monitors import target
from ovirt_he_ha.broker.monitors.dns_query import answers, root_query
from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.health_page import HealthPage
from ovirt_he_ha.broker.monitors.network import Network
from ovirt_he_ha.broker.monitors.options import NetworkOptions
from ovirt_he_ha.broker.monitors.probes import Pace
from ovirt_he_ha.core.model import Health
from tests.own_time import OwnTime

DEADLINE = 0.6
MUCH = 2 << 30  # bytes that a pouring server is ready to send
BOUND = 4 << 20  # bytes that our memory may grow by at the most


class Server:
    """On 127.0.0.1: sends ``first``, then ``again`` for ever (or until MUCH) with ``pause`` between, then nothing."""

    def __init__(self, first=b"", again=b"", pause=0.0):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sent = 0
        self.asked = 0
        self.over = threading.Event()
        self._told = (first, again, pause)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.asked += 1
            self._threads.append(threading.Thread(target=self._talk, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _talk(self, connection):
        first, again, pause = self._told
        with connection:
            try:
                connection.sendall(first)
                while again and self.sent < MUCH and not self.over.wait(pause):
                    connection.sendall(again)
                    self.sent += len(again)
            except OSError:
                return
            self.over.wait(30)

    def close(self):
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def serve():
    servers = []

    def start(*told, **more):
        servers.append(Server(*told, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Cost:
    """Peak of this process's memory, its own seconds, and CPU seconds of this thread, within a block."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        self.memory = -self._peak()
        self.took, self.cpu = OwnTime(), -time.thread_time()
        return self

    def __exit__(self, *_):
        self.memory += self._peak()
        self.seconds = self.took.seconds
        self.cpu += time.thread_time()

    @staticmethod
    def _peak():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


OK = b"HTTP/1.1 200 OK\r\n"
CHUNK = b"x" * 65536
BOMB = gzip.compress(bytes(64 << 20))
PAGES = {
    "gigabytes": (OK + b"\r\n", CHUNK),
    "gigabytes in chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + CHUNK + b"\r\n"),
    "one endless header": (OK + b"X: ", CHUNK),
    "endless headers": (OK, b"X: y\r\n" * 1000),
    "endless continues": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "endless continues with headers": (b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 1000),
    "endless status line": (b"HTTP/1.1 200 ", CHUNK),
    "endless chunk size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65536),
    "endless trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 1000),
    "compressed": (OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB, b""),
    "negative length": (OK + b"Content-Length: -1\r\n\r\n", CHUNK),
    "huge length": (OK + b"Content-Length: %d\r\n\r\n" % (1 << 62), CHUNK),
    "garbage": (bytes(range(256)), bytes(range(256)) * 256),
    "redirects for ever": (b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n", b""),
    "silent": (b"", b""),
    "says it is up, later": (OK, b""),
}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_s4_a_health_page_costs_its_deadline_and_a_bounded_memory(serve, page):
    server = serve(*PAGES[page])
    health_page = HealthPage(f"http://127.0.0.1:{server.port}/", DEADLINE)
    with Cost() as cost:
        result = health_page.fetch()
    assert result.health is Health.BAD
    assert cost.seconds < DEADLINE + 0.5
    assert cost.cpu < 0.3
    assert cost.memory < BOUND
    assert server.sent < 32 << 20
    assert server.asked == 1


@pytest.mark.parametrize("first", [b"", OK + b"\r\n", OK + b"X: "], ids=["status", "body", "header"])
def test_s4_a_health_page_of_a_byte_a_second(serve, first):
    server = serve(first, b"y", pause=0.1)
    took = OwnTime()
    assert HealthPage(f"http://127.0.0.1:{server.port}/", DEADLINE).fetch().why == "timed out"
    assert took.seconds < DEADLINE + 0.5


def test_an_address_that_swallows_everything_leaves_time_for_the_next(serve, monkeypatch):
    """An engine with two addresses, and no way for one of the two families."""
    body = b"DB Up\n"
    server = serve(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with socket.socket() as swallows:
        swallows.bind(("127.0.0.1", 0))
        swallows.listen(0)
        fillers = []
        for _ in range(4):  # a backlog that is full answers nobody any more
            fillers.append(socket.socket())
            fillers[-1].setblocking(False)
            fillers[-1].connect_ex(swallows.getsockname())
        found = [(2, 1, 6, "", swallows.getsockname()), (2, 1, 6, "", ("127.0.0.1", server.port))]
        monkeypatch.setattr(target.socket, "getaddrinfo", lambda *a, **k: found)
        assert HealthPage("http://engine.example/", 3.0).fetch().health is Health.GOOD
        for filler in fillers:
            filler.close()


# --- names --------------------------------------------------------------------------------------------------------


class Resolver:
    """The system's, which can be held up."""

    def __init__(self):
        self.goes_on = threading.Event()
        self.asked = 0

    def __call__(self, host, port, **how):
        self.asked += 1
        assert self.goes_on.wait(20)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    def threads(self):
        return [thread for thread in threading.enumerate() if thread.name == "resolver"]


@pytest.fixture
def resolver(monkeypatch):
    made = Resolver()
    monkeypatch.setattr(target.socket, "getaddrinfo", made)
    monkeypatch.setattr(target, "FIRST_WAIT", 0.1)
    yield made
    made.goes_on.set()
    for thread in made.threads():
        thread.join(5)


def test_s4_s5_a_resolver_that_hangs_makes_the_page_unknown_and_costs_one_thread(serve, resolver):
    server = serve(OK + b"\r\nDB Up\n")
    page = HealthPage(f"http://engine.example:{server.port}/", 2.0)
    took = OwnTime()
    for _ in range(5):
        with pytest.raises(Unmeasured) as caught:
            page.fetch()
        assert caught.value.why == "resolver"
    assert took.seconds < 2
    assert (len(resolver.threads()), resolver.asked) == (1, 1)
    resolver.goes_on.set()
    for thread in resolver.threads():
        thread.join(5)
    assert page.fetch().health is Health.GOOD


def test_s4_a_known_engine_is_asked_while_the_resolver_hangs(serve, resolver, monkeypatch):
    monkeypatch.setattr("ovirt_he_ha.broker.monitors.health_page.RESOLVE_AGAIN", 0.0)
    server = serve(OK + b"\r\nDB Up\n")
    page = HealthPage(f"http://engine.example:{server.port}/", 2.0)
    resolver.goes_on.set()
    assert page.fetch().health is Health.GOOD
    resolver.goes_on.clear()
    took = OwnTime()
    for _ in range(3):
        assert page.fetch().health is Health.GOOD
    assert took.seconds < 1.9
    assert len(resolver.threads()) == 1


def test_s4_s5_a_target_of_the_network_test_that_nobody_resolves_is_unknown_not_lost(resolver):
    network = Network(NetworkOptions.of("ping", "gateway.example", "", ""), Pace(), time.monotonic)
    with pytest.raises(Unmeasured) as caught:
        network.measure()
    assert caught.value.why == "resolver"


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%lo"])
def test_addresses_are_no_question(resolver, host):
    resolver.goes_on.set()
    monkey = target.Target(host, 80, socket.SOCK_STREAM, time.monotonic)
    monkey._begin()
    assert resolver.threads() == []


# --- name servers ---------------------------------------------------------------------------------------------------


def framed(wire):
    return struct.pack("!H", len(wire)) + wire


def lying(question=".", ident=None, rcode=0):
    message = dns.message.make_response(dns.message.make_query(question, "NS"))
    if ident is not None:
        message.id = ident
    message.set_rcode(rcode)
    return message.to_wire()


def dns_share(tmp_path, port):
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    options = NetworkOptions.of("dns", "", "", "")
    pace = Pace(count=3, spacing=0.02, timeout=0.4)
    return Network(options, pace, time.monotonic, tmp_path / "resolv.conf", port).measure()


LIES = {
    "never answers": (b"", b""),
    "another question": (framed(lying("elsewhere.example.")), b""),
    "another identifier": (framed(lying(ident=7)), b""),
    "wrong for ever": (b"", framed(lying(ident=7)) * 100),
    "garbage": (framed(b"\xff" * 500), b""),
    "garbage for ever": (b"", bytes(range(256)) * 256),
    "longer than it says": (struct.pack("!H", 12) + lying()[:12], CHUNK),
    "shorter than it says": (struct.pack("!H", 65535) + lying(), b""),
    "nothing, with a length": (struct.pack("!H", 0), CHUNK),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_s4_a_name_server_that_lies_is_no_answer_and_costs_its_deadline(serve, tmp_path, lie):
    server = serve(*LIES[lie])
    with Cost() as cost:
        share = dns_share(tmp_path, server.port)
    assert share == 0.0
    assert cost.seconds < 1.5
    assert cost.cpu < 0.3
    assert cost.memory < BOUND


def test_what_a_name_server_says_at_length_is_not_read():
    """5,000 records with names that refer to each other: a tenth of a second to read, of a thread that others wait
    for."""
    query = root_query()
    head = bytearray(dns.message.make_response(query).to_wire())
    struct.pack_into("!H", head, 6, 5000)
    wire = bytes(head) + b"\xc0\x0c\0\2\0\1\0\0\0\0\0\2\xc0\x0c" * 5000
    began = time.thread_time()
    for _ in range(10):
        assert answers(query, wire[:65535])
    assert (time.thread_time() - began) / 10 < 0.005


# --- mail -----------------------------------------------------------------------------------------------------------

MAILS = {
    "silent": (b"", b"", 0.0),
    "a byte a second": (b"220", b"-", 0.1),
    "an endless line": (b"220 ", CHUNK, 0.0),
    "endless lines": (b"", b"220-welcome\r\n" * 1000, 0.0),
    "endless greetings": (b"220 welcome\r\n", b"250-more\r\n" * 1000, 0.0),
    "garbage": (bytes(range(256)), bytes(range(256)) * 256, 0.0),
}


@pytest.mark.parametrize("mail", sorted(MAILS))
def test_s4_a_mail_server_costs_its_deadline_and_a_bounded_memory(serve, mail):
    server = serve(*MAILS[mail])

    def talk():
        with smtp.Dialogue("127.0.0.1", server.port, 10.0, DEADLINE) as dialogue:
            dialogue.sendmail("a@example.com", ["b@example.com"], b"text")

    with Cost() as cost, pytest.raises(OSError):  # smtplib's errors are OSErrors
        talk()
    assert cost.seconds < DEADLINE + 0.5
    assert cost.memory < BOUND
    assert server.sent < 32 << 20
