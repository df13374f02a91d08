"""Clients that mean harm, or are merely broken: what they get is bounded, and everybody else is served."""

import multiprocessing
import resource
import select
import socket
import threading
import time

import pytest

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.connections import Caller, Connection, Connections
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.request import Limits
from ovirt_he_ha.broker.rpc import RpcServer
from ovirt_he_ha.client.link import BrokerLink

ASK = protocol.call_bytes("is_host_alive", ())
WAIT = protocol.call_bytes("wait_for_change", (0, 60.0))
LARGE = protocol.call_bytes("get_stats", ())
HEAD = b"POST /RPC2 HTTP/1.1\r\nContent-Length: %d\r\n\r\n"


class Answers:
    """``wait_for_change`` waits, ``get_stats`` is large, ``put_stats`` takes until it is told to end."""

    def __init__(self):
        self.released = threading.Event()
        self.waiting = threading.Semaphore(0)

    def __call__(self, caller, method, args):
        if method in ("wait_for_change", "put_stats"):
            self.waiting.release()
            self.released.wait(30)
        return "x" * 4_000_000 if method == "get_stats" else [1]


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
def serve(tmp_path, answers):
    servers = []

    def make(limits=None):
        server = RpcServer(tmp_path / "broker.socket", answers, lambda caller: True, Metrics(), limits or Limits())
        server.reserve()
        server.start()
        servers.append(server)
        return server

    yield make
    answers.released.set()
    for server in servers:
        server.stop(5.0)


def connect(path):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))  # blocking: the kernel waits while the server has a queue to work off
    peer.settimeout(10)
    return peer


def others(path, count, body, ready, end):
    """Another process of the same user: so many connections, each with one request that it does not follow up."""
    peers = []
    for _ in range(count):
        peer = connect(path)
        if body:
            peer.sendall(HEAD % len(body) + body)
        if body == LARGE:
            assert peer.recv(1)  # the answer has begun
        peers.append(peer)
    ready.set()
    end.wait(60)


@pytest.fixture
def crowd():
    """Start such a process; returns when it has sent everything."""
    context = multiprocessing.get_context("fork")
    started = []

    def start(server, count, body=b""):
        ready, end = context.Event(), context.Event()
        process = context.Process(target=others, args=(server.path, count, body, ready, end), daemon=True)
        process.start()
        started.append((process, end))
        assert ready.wait(30)

    yield start
    for process, end in started:
        end.set()
        process.join(10)


def served(server):
    with BrokerLink(server.path, 10.0) as link:
        return link.is_host_alive() == (1,)


def is_open(peer):
    poller = select.poll()
    poller.register(peer, select.POLLIN)
    if not poller.poll(0):
        return True
    try:
        return peer.recv(1) != b""
    except ConnectionError:
        return False


# --- too many -----------------------------------------------------------------------------------------------------


def test_a_thousand_idle_connections_are_bounded_and_the_next_client_is_served(serve):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    server = serve()
    peers = []
    try:
        peers = [connect(server.path) for _ in range(1000)]
        assert served(server)
        until = time.monotonic() + 10
        while sum(is_open(peer) for peer in peers) > Limits().per_uid and time.monotonic() < until:
            time.sleep(0.01)  # the threads of those that were closed are on their way out
        assert 0 < sum(is_open(peer) for peer in peers) <= Limits().per_uid
        assert served(server)
    finally:
        for peer in peers:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_says_nothing_has_no_thread_and_is_not_kept_for_ever(serve):
    server = serve(Limits(idle_seconds=0.4))
    before = threading.active_count()
    silent = [connect(server.path) for _ in range(20)]
    try:
        assert served(server)  # admitted after them
        assert threading.active_count() <= before + 1
        assert all(peer.recv(1) == b"" for peer in silent)
        assert served(server)
    finally:
        for peer in silent:
            peer.close()


def test_a_stop_ends_those_that_said_nothing(serve):
    server = serve()
    with connect(server.path) as silent:
        assert served(server)
        assert server.stop(5.0)
        assert silent.recv(1) == b""


@pytest.mark.parametrize("body", [b"", WAIT, LARGE], ids=["idle", "waiting", "not-reading"])
def test_another_process_of_the_same_user_is_never_locked_out(serve, answers, crowd, body):
    server = serve(Limits(connections=12, per_uid=8, send_seconds=60.0, idle_seconds=60.0))
    crowd(server, 8, body)
    for _ in range(8 if body == WAIT else 0):
        assert answers.waiting.acquire(timeout=10)
    assert served(server)
    assert served(server)


def test_who_has_few_connections_keeps_them(serve, crowd):
    server = serve(Limits(connections=12, per_uid=8, idle_seconds=60.0))
    with connect(server.path) as ours:
        ours.sendall(HEAD % len(ASK) + ASK)
        assert ours.recv(65536).startswith(b"HTTP/1.1 200")
        crowd(server, 30)
        assert served(server)  # admitted after the crowd
        ours.sendall(HEAD % len(ASK) + ASK)
        assert ours.recv(65536).startswith(b"HTTP/1.1 200")


def test_calls_that_act_are_never_cut_and_who_finds_no_room_is_told(serve, answers):
    server = serve(Limits(connections=12, per_uid=2))
    body = protocol.call_bytes("put_stats", (1, b""))
    acting = [connect(server.path) for _ in range(2)]
    try:
        for peer in acting:
            peer.sendall(HEAD % len(body) + body)
            assert answers.waiting.acquire(timeout=10)
        with connect(server.path) as late:
            assert late.recv(65536).startswith(b"HTTP/1.1 503 ")
        answers.released.set()
        assert all(peer.recv(65536).startswith(b"HTTP/1.1 200") for peer in acting)
    finally:
        for peer in acting:
            peer.close()


class Reluctant:
    """The kernel's poller, which has no memory left for some."""

    def __init__(self, real, refusals):
        self.real, self.refusals = real, refusals

    def __getattr__(self, name):
        return getattr(self.real, name)

    def register(self, number, events):
        if self.refusals and events == select.EPOLLIN and self.refusals.pop():
            raise OSError(12, "Cannot allocate memory")
        self.real.register(number, events)


def test_who_cannot_be_heard_is_closed_and_the_next_one_is_served(serve, monkeypatch):
    """Without the thread that admits, the broker would live on and be deaf."""
    real = select.epoll
    monkeypatch.setattr(select, "epoll", lambda: Reluctant(real(), [True, True, False]))  # the door itself is heard
    server = serve()
    for _ in range(2):
        with connect(server.path) as lost:
            assert lost.recv(1) == b""
    assert served(server)


# --- too slow -----------------------------------------------------------------------------------------------------


def test_an_answer_that_is_taken_byte_by_byte_ends_in_time(serve):
    server = serve(Limits(send_seconds=0.5))
    with connect(server.path) as slow:
        slow.sendall(HEAD % len(LARGE) + LARGE)
        taken = 0
        until = time.monotonic() + 20
        try:
            # A little at a time: the kernel always has room for some more, so no single write of the server waits long.
            while time.monotonic() < until:
                part = slow.recv(8192)
                if not part:
                    break
                taken += len(part)
                time.sleep(0.02 if taken < 800_000 else 0)
        except ConnectionError:
            pass
        assert 0 < taken < 4_000_000
        assert served(server)


def test_a_request_that_comes_byte_by_byte_ends_in_time(serve):
    server = serve(Limits(request_seconds=0.5))
    request = HEAD % len(ASK) + ASK
    with connect(server.path) as slow:
        began = time.monotonic()
        with pytest.raises(OSError):
            for byte in request * 1000:
                slow.sendall(bytes([byte]))
                if not is_open(slow):
                    raise ConnectionResetError
                time.sleep(0.01)
        assert time.monotonic() - began < 10
    assert served(server)


# --- too often ----------------------------------------------------------------------------------------------------


def connection(pid):
    return Connection(socket.socket(socket.AF_UNIX), Caller(pid, 0, 0))


def test_the_calls_of_one_process_take_turns_and_those_of_two_do_not():
    room = Connections(Limits())
    first, second, other = connection(1), connection(1), connection(2)
    for each in (first, second, other):
        assert room.register(each) == []
    assert first.turn.take()
    assert other.turn.take()
    assert not second.turn.take()  # waited, and goes ahead without it
    first.turn.give_back()
    assert second.turn.take()
    for each in (first, second, other):
        room.forget(each)


def test_a_flood_of_calls_leaves_room_for_others(serve, crowd):
    server = serve()
    stop = threading.Event()

    def flood():
        with BrokerLink(server.path, 30.0) as link:
            while not stop.is_set():
                link.is_host_alive()

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(40)]
    for thread in threads:
        thread.start()
    try:
        crowd(server, 3, ASK)  # another process: connected, asked, and all of it was taken
        assert served(server)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
