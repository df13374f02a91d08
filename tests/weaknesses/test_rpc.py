"""W-35 to W-37, W-40, W-41, W-66 and W-67: the broker's socket."""

import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ovirt_he_ha.broker.daemon import Broker
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.notify import MailNotifier
from ovirt_he_ha.broker.request import Limits
from ovirt_he_ha.broker.rpc import BrokerRunning, RpcServer, SocketProblem
from ovirt_he_ha.client.link import BrokerFault, BrokerLink, BrokerUnavailable, FaultCode
from ovirt_he_ha.config.files import BrokerConf
from tests.broker.test_handlers import NOBODY, VDSM, Bench, record

ROOT = Path(__file__).resolve().parents[2]
SOON = 2.0  # seconds in which a broker that nobody holds up answers


@pytest.fixture
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("w") / "s"


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def serve(path, bench):
    servers = []

    def make(limits=None, may_connect=lambda caller: True):
        server = RpcServer(path, bench.handlers.dispatch, may_connect, Metrics(), limits or Limits())
        server.reserve()
        server.start()
        servers.append(server)
        bench.call("lock_host_id", 1)
        bench.board.tick()
        return BrokerLink(path, 5.0)

    yield make
    bench.stopping.set()
    bench.changes.close()
    for server in servers:
        server.stop(1.0)


def connect(path):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(5)
    peer.connect(str(path))
    return peer


def answered_within(call, seconds):
    begun = time.monotonic()
    call()
    return time.monotonic() - begun < seconds


@pytest.mark.parametrize("sent", [b"", b"POST /RPC2 HTTP/1.1\r\nContent-Length: 100\r\n\r\n<"])
def test_w35_clients_that_say_nothing_hold_nobody_up(serve, path, sent):
    with serve() as link:
        idle = [connect(path) for _ in range(20)]
        for peer in idle:
            peer.sendall(sent)
        assert answered_within(link.is_host_alive, SOON)
        for peer in idle:
            peer.close()


def test_w35_a_broker_that_never_answers_costs_the_client_its_deadline(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(path))
        deaf.listen(5)
        begun = time.monotonic()
        with BrokerLink(path, 0.3) as link, pytest.raises(BrokerUnavailable) as caught:
            link.is_host_alive()
        assert caught.value.code == "overdue"
        assert time.monotonic() - begun < SOON


def test_w36_calls_that_take_long_hold_nobody_up(serve, bench, path):
    """A lockspace that is never joined, and a mail server that hangs."""
    over = threading.Event()
    hanging = MailNotifier(lambda: BrokerConf(), path.parent, lambda mail: over.wait(30) and None)
    (path.parent / "state_transition.txt").write_text("Subject: {detail}\n\n")
    hanging.start()
    bench.notifier.notify = hanging.notify
    with serve() as link, BrokerLink(path, 30.0) as waiting:
        bench.lockspaces.current = type(bench.lockspaces.current)()
        bench.lockspaces.want = lambda host_id: None
        joined = threading.Event()

        def join():
            with pytest.raises(BrokerFault):
                waiting.call("start_domain_monitor", 1)
            joined.set()

        threading.Thread(target=join, daemon=True).start()
        assert answered_within(link.is_host_alive, SOON)
        assert answered_within(lambda: link.notify("state_transition", "EngineUp", {}), SOON)
        assert answered_within(link.is_host_alive, SOON)
        assert not joined.is_set()
        bench.stopping.set()
        bench.changes.bump()
        assert joined.wait(5)
    over.set()
    hanging.stop(2.0)


@pytest.mark.parametrize(
    ("method", "args", "code"),
    [
        ("status_monitor", ("nothing",), FaultCode.NO_MONITOR),
        ("put_stats", (7, b"x"), FaultCode.NOT_OWNER),
        ("push_hosts_state", (["one"],), FaultCode.ARGUMENT),
        ("put_stats", (), FaultCode.ARGUMENT),
    ],
)
def test_w37_an_error_is_a_fault_with_a_code(serve, method, args, code):
    with serve() as link, pytest.raises(BrokerFault) as caught:
        link.call(method, *args)
    assert caught.value.code == code


def test_w37_a_defect_is_a_fault_too(serve, bench, monkeypatch):
    monkeypatch.setitem(bench.handlers._methods, "is_host_alive", lambda: 1 // 0)
    with serve() as link, pytest.raises(BrokerFault) as caught:
        link.is_host_alive()
    assert caught.value.code == FaultCode.INTERNAL


def test_w40_without_a_place_for_the_socket_nothing_begins(bench, path):
    parts = bench.handlers._parts
    broker = Broker(
        1,
        path.parent / "missing" / "s",
        bench.board,
        bench.lockspaces,
        bench.monitors,
        bench.notifier,
        lambda: None,
        parts.clock,
        bench.changes,
        parts.metrics,
        bench.board._timers,
    )
    before = threading.active_count()
    with pytest.raises(SocketProblem):
        broker.server.reserve()
    assert (bench.lockspaces.wanted, bench.monitors.running) == (None, False)
    assert threading.active_count() == before


def test_w41_a_second_broker_is_refused_and_the_first_goes_on(serve, bench, path):
    """The lock is a process's: the second one is another process."""
    with serve() as link:
        second = (
            "import sys; from ovirt_he_ha.broker.rpc import RpcServer; RpcServer(sys.argv[1], None, None).reserve()"
        )
        done = subprocess.run(
            [sys.executable, "-c", second, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode != 0
        assert BrokerRunning.__name__ in done.stderr and str(os.getpid()) in done.stderr
        assert link.is_host_alive() is not None


def test_w66_the_socket_is_for_its_user_and_group_only_and_the_kernel_says_who_calls(serve, bench, path):
    seen = []
    with serve(may_connect=lambda caller: bool(seen.append(caller.uid)) or caller.uid == os.getuid()) as link:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        link.is_host_alive()
    assert seen[0] == os.getuid()


def test_w66_each_method_has_its_callers_and_changes_are_written_down(bench, caplog):
    bench.call("lock_host_id", 1)
    bench.board.tick()
    assert bench.fault("reset_lockspace", caller=VDSM) is FaultCode.NOT_ALLOWED
    assert bench.fault("put_stats", 1, record(1), caller=VDSM) is FaultCode.NOT_ALLOWED
    assert not bench.handlers._policy.may_connect(NOBODY)
    with caplog.at_level(logging.INFO):
        bench.call("put_stats", 0, b"maintenance=1", caller=VDSM)
        bench.call("reset_lockspace")
    noted = [(r.HE_METHOD, r.HE_UID, r.HE_OUTCOME) for r in caplog.records if hasattr(r, "HE_METHOD")]
    assert noted[-1] == ("reset_lockspace", 1036, "ok")


def test_w67_a_request_without_end_is_refused_while_it_is_sent(serve, path):
    with serve(), connect(path) as peer:
        peer.sendall(b"POST /RPC2 HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
        assert b" 413 " in peer.recv(200)


@pytest.mark.parametrize("options", [{str(n): "x" for n in range(65)}, {"x": "y" * 4097}, {"x" * 257: "y"}])
def test_w67_options_have_a_number_and_a_size(bench, options):
    assert bench.fault("notify", "state_transition", "A-B", options) is FaultCode.ARGUMENT


def test_w67_more_connections_than_allowed_keep_nobody_out(serve, path):
    with serve(Limits(connections=8, per_uid=8)) as link:
        crowd = [connect(path) for _ in range(50)]
        assert answered_within(link.is_host_alive, SOON)
        for peer in crowd:
            peer.close()
