"""The typed link against the real server, and against servers that misbehave."""

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.rpc import Fault, RpcServer
from ovirt_he_ha.client.link import BrokerFault, BrokerLink, BrokerUnavailable, FaultCode
from ovirt_he_ha.core.model import LeaseFacts, Monitors, Reading
from tests.own_time import OwnTime

SNAPSHOT = protocol.BrokerSnapshot(
    serial=7, host_id=1, slots={0: bytes(4096), 1: b"x" * 4096}, monitors=Monitors(bridge=Reading.of(True)),
    leases=LeaseFacts(io_timeout=2),
)  # fmt: skip


class Answers:
    def __init__(self):
        self.calls = []
        self.connections = set()
        self.hold = threading.Event()
        self.waiting = threading.Event()

    def __call__(self, caller, method, args):
        self.calls.append((method, args))
        self.connections.add(threading.get_ident())
        if method == protocol.PUT_STATS and args[0] == 2:
            raise Fault(FaultCode.NOT_OWNER, "slot 2 belongs to another host")
        if method == protocol.WAIT_FOR_CHANGE:
            self.waiting.set()
            self.hold.wait(10)
            return 8
        return {
            protocol.SNAPSHOT: protocol.pack_snapshot(SNAPSHOT),
            protocol.HEALTH: {"uptime": 1.0},
            protocol.GET_STATS: {"0": bytes(4096), "12": b"x" * 4096},
            protocol.IS_HOST_ALIVE: [1, 3],
            protocol.NOTIFY: "ignored",
            protocol.START_MONITOR: "network",
            protocol.STATUS_MONITOR: "1.0",
        }.get(method, "ok")


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
def start(tmp_path, answers):
    servers = []

    def make():
        server = RpcServer(tmp_path / "broker.socket", answers, lambda caller: True)
        server.reserve()
        server.start()
        servers.append(server)
        return server

    yield make
    answers.hold.set()
    for server in servers:
        server.stop(2.0)


@pytest.fixture
def link(start):
    with BrokerLink(start().path, 5.0) as made:
        yield made


def test_every_call(link, answers):
    assert link.snapshot() == SNAPSHOT
    assert link.health() == {"uptime": 1.0}
    assert link.get_stats() == {0: bytes(4096), 12: b"x" * 4096}
    assert link.is_host_alive() == (1, 3)
    assert link.notify("state_transition", "A-B", {"hostname": "h1"}) == "ignored"
    assert link.start_monitor("network", {"addr": "1.2.3.4"}) == "network"
    assert link.status_monitor("network") == "1.0"
    link.stop_monitor("network")
    link.put_stats(1, b"abc")
    link.push_hosts_state((1, 2))
    link.lock_host_id(1)
    link.release_host_id()
    link.start_domain_monitor(1)
    link.stop_domain_monitor()
    link.reset_lockspace()
    assert (protocol.PUT_STATS, (1, b"abc")) in answers.calls
    assert (protocol.PUSH_HOSTS_STATE, ([1, 2],)) in answers.calls


def test_calls_share_one_connection(link, answers):
    for _ in range(10):
        link.is_host_alive()
    assert len(answers.connections) == 1


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_calls_of_every_kind_leave_no_connections_behind(link, answers):
    """Server and client are this process: a connection is two descriptors."""
    link.is_host_alive()
    before = descriptors()
    for _ in range(20):
        link.notify("state_transition", "A-B", {})
        link.is_host_alive()
    until = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < until:
        time.sleep(0.01)  # the server closes its end in a thread of its own
    assert descriptors() <= before


def test_many_calls_at_once_keep_a_few_connections(link, answers):
    link.is_host_alive()
    before = descriptors()
    threads = [threading.Thread(target=link.wait_for_change, args=(7, 5.0)) for _ in range(12)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 5
    while len(answers.calls) < 13 and time.monotonic() < until:
        time.sleep(0.01)
    answers.hold.set()
    for thread in threads:
        thread.join(5)
    while descriptors() > before + 6 and time.monotonic() < until:
        time.sleep(0.01)
    assert descriptors() <= before + 6  # three more, both ends


def test_a_waiting_call_delays_nobody(link, answers):
    found = []
    waiter = threading.Thread(target=lambda: found.append(link.wait_for_change(7, 5.0)))
    waiter.start()
    assert answers.waiting.wait(5)
    assert link.is_host_alive() == (1, 3)
    answers.hold.set()
    waiter.join(5)
    assert found == [8]


def test_a_fault_has_its_code(link):
    with pytest.raises(BrokerFault) as caught:
        link.put_stats(2, b"")
    assert caught.value.code is FaultCode.NOT_OWNER
    assert caught.value.method == "put_stats"


def test_a_restarted_broker_is_found_again(start, answers):
    first = start()
    link = BrokerLink(first.path, 5.0)
    link.is_host_alive()
    first.stop(2.0)
    with pytest.raises(BrokerUnavailable) as caught:
        link.is_host_alive()
    assert caught.value.code == "no-socket"
    start()
    assert link.is_host_alive() == (1, 3)


def test_no_broker_behind_a_socket(tmp_path):
    path = tmp_path / "broker.socket"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with pytest.raises(BrokerUnavailable) as caught:
        BrokerLink(path, 1.0).is_host_alive()
    assert caught.value.code == "refused"


@pytest.fixture
def misbehaving(tmp_path):
    """A server that sends fixed bytes to each connection; keeps it open when told."""
    path = tmp_path / "bad.socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4)
    kept = []

    def serve(data, drip=False, keep=False):
        def run():
            peer, _address = listener.accept()
            kept.append(peer)
            peer.recv(65536)
            try:
                for byte in [bytes([b]) for b in data] if drip else [data]:
                    peer.sendall(byte)
                    if drip:
                        time.sleep(0.01)  # the point of the case: an answer that never stops coming
            except OSError:
                return  # the client gave up: expected
            if not keep:
                peer.close()

        threading.Thread(target=run, daemon=True).start()
        return BrokerLink(path, 0.5)

    yield serve
    listener.close()
    for peer in kept:
        peer.close()


OK = b"HTTP/1.1 200 OK\r\nContent-length: %d\r\n\r\n%s"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "broken"),
        (b"HTTP/1.1 200 OK\r\nContent-", "broken"),
        (OK % (1000, b"<short/>"), "broken"),
        (b"SSH-2.0-x\r\n\r\n", "garbage"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-length: 0\r\n\r\n", "garbage"),
        (OK % (5, b"<no/>"), "garbage"),
        (OK % (10**9, b""), "garbage"),
        (b"HTTP/1.1 200 OK\r\nContent-length: x\r\n\r\n", "garbage"),
        (b"x" * 40000, "garbage"),
    ],
    ids=range(9),
)
def test_bad_answers_are_named(misbehaving, data, code):
    with pytest.raises(BrokerUnavailable) as caught:
        misbehaving(data).is_host_alive()
    assert caught.value.code == code


@pytest.mark.parametrize(("data", "drip"), [(b"", False), (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500, True)])
def test_silence_and_drips_end_by_the_deadline(misbehaving, data, drip):
    took = OwnTime()
    with pytest.raises(BrokerUnavailable) as caught:
        misbehaving(data, drip, keep=True).is_host_alive()
    assert caught.value.code == "overdue"
    assert took.seconds < 1.5


def test_an_answer_without_length_ends_with_the_connection(misbehaving):
    body = protocol.answer_bytes([4])
    assert misbehaving(b"HTTP/1.0 200 OK\r\nContent-type: text/xml\r\n\r\n" + body).is_host_alive() == (4,)


@pytest.mark.parametrize("value", [{"1": "text"}, {"x": b""}, [], None, True])
def test_wrong_types_are_garbage(misbehaving, value):
    body = protocol.answer_bytes(value)
    with pytest.raises(BrokerUnavailable) as caught:
        misbehaving(OK % (len(body), body)).get_stats()
    assert caught.value.code == "garbage"


def test_a_full_queue_is_told_in_words(tmp_path: Path) -> None:
    path = str(tmp_path / "deaf")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(path)
        listener.listen(0)
        for _ in range(3):
            other = waiting.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(path)
        with pytest.raises(BrokerUnavailable) as caught:
            BrokerLink(path, deadline=0.2).call("health")
    assert caught.value.code == "overdue" and "Errno" not in str(caught.value)
