import contextlib
import socket
import struct
import threading
import time

import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker.monitors import target
from ovirt_he_ha.broker.monitors.dns_query import answers, root_query
from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.network import Network
from ovirt_he_ha.broker.monitors.options import NetworkOptions, NetworkTest, OptionError, network_of_rpc
from ovirt_he_ha.broker.monitors.probes import Pace, Round
from ovirt_he_ha.broker.monitors.target import Target
from tests.own_time import OwnTime

FAST = Pace(count=5, spacing=0.01, timeout=1.0)  # an answer from this machine may stand in a queue


def network(test="ping", gateway="", address="", port="", pace=FAST, **how):
    return Network(NetworkOptions.of(test, gateway, address, str(port)), pace, time.monotonic, **how)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port():
    with socket.socket() as held:  # bound, not listening: nobody else gets it
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


# --- the options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("network_test", ("pong", "1.2.3.4", "", "")),
        ("gateway", ("ping", "", "", "")),
        ("gateway", ("", "None", "", "")),
        ("gateway", ("ping", "two words", "", "")),
        ("tcp_t_address", ("tcp", "1.2.3.4", "", "80")),
        ("tcp_t_port", ("tcp", "", "1.2.3.4", "")),
        ("tcp_t_port", ("tcp", "", "1.2.3.4", "http")),
        ("tcp_t_port", ("tcp", "", "1.2.3.4", "0")),
        ("tcp_t_port", ("tcp", "", "1.2.3.4", "65536")),
        ("tcp_t_port", ("tcp", "", "1.2.3.4", "-1")),
    ],
)
def test_a_useless_option_names_its_key(key, values):
    with pytest.raises(OptionError) as problem:
        NetworkOptions.of(*values)
    assert problem.value.key == key
    assert key in str(problem.value)


def test_usable_options():
    assert NetworkOptions.of("None", "10.0.0.1", "", "") == NetworkOptions(NetworkTest.PING, "10.0.0.1")
    assert NetworkOptions.of("dns", "", "", "") == NetworkOptions(NetworkTest.DNS)
    assert network_of_rpc({"addr": "h", "network_test": "tcp", "tcp_t_address": "h", "tcp_t_port": "80"}).port == 80


@given(st.tuples(st.text(), st.text(), st.text(), st.text()))
def test_any_options_are_taken_or_refused(values):
    with contextlib.suppress(OptionError):
        NetworkOptions.of(*values)


# --- rounds -------------------------------------------------------------------------------------------------------


def test_no_test_is_always_good():
    assert network("none").measure() == 1.0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_ping(address):
    assert network("ping", address).measure() == 1.0


def test_tcp(listener):
    assert network("tcp", address="127.0.0.1", port=listener).measure() == 1.0


def test_tcp_refused(closed_port):
    assert network("tcp", address="127.0.0.1", port=closed_port).measure() == 0.0


class Scripted:
    """An exchange that is answered, or not, as the test says; ready at once."""

    def __init__(self, result):
        self._ours, self._theirs = socket.socketpair()
        self._theirs.send(b"x")
        self._result = result

    def fileno(self):
        return self._ours.fileno()

    def events(self):
        return 1

    def advance(self):
        self._ours.recv(1)
        return self._result

    def close(self):
        self._ours.close()
        self._theirs.close()


@given(st.lists(st.lists(st.sampled_from([True, False, "refused"]), max_size=3), min_size=1, max_size=6))
def test_the_value_is_the_share_of_probes_with_an_answer(script):
    def begin(probe):
        if "refused" in script[probe]:
            raise OSError
        return [Scripted(result) for result in script[probe]]

    good = sum(1 for probe in script if "refused" not in probe and True in probe)
    assert Round(begin, Pace(len(script), 0.0, 5.0), lambda: False).share() == good / len(script)


def test_probes_overlap_so_that_silence_costs_one_timeout():
    pace = Pace(count=5, spacing=0.05, timeout=0.4)
    took = OwnTime()
    assert Round(lambda probe: [Scripted(None)], pace, lambda: False).share() == 0.0
    assert took.wall >= 0.6 and took.seconds < 1.5


def test_a_void_round_leaves_nothing_open():
    made = []

    def begin(probe):
        if probe == 2:
            raise Unmeasured("no-permission")
        made.append(Scripted(None))
        return made[-1:]

    with pytest.raises(Unmeasured):
        Round(begin, Pace(5, 0.0, 5.0), lambda: False).share()
    assert [exchange.fileno() for exchange in made] == [-1, -1]


def test_a_stop_ends_a_round_early_and_gives_no_value(closed_port):
    silent = socket.socket()
    with silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        monitor = network("tcp", address="127.0.0.1", port=silent.getsockname()[1], pace=Pace(5, 30.0, 30.0))
        failed = []

        def measure():
            try:
                monitor.measure()
            except Unmeasured as problem:
                failed.append(problem.why)

        thread = threading.Thread(target=measure)
        thread.start()
        monitor.stop()
        thread.join(5)
        assert not thread.is_alive()
        assert failed == ["stopping"]


# --- a network that swallows everything ---------------------------------------------------------------------------

HOLE = (
    "ip link add hole type veth peer name deep",
    "ip addr add 10.99.0.1/24 dev hole",
    "ip link set hole up",
    "ip link set deep up",
    "ip neigh add 10.99.0.2 lladdr 02:00:00:00:00:01 dev hole",
)


@pytest.fixture
def swallowing(own_network):
    """Run a function where 10.99.0.2 answers nothing, ever."""
    return lambda function: own_network(function, HOLE)


@pytest.mark.parametrize("test", ["ping", "tcp"])
def test_total_loss_is_seen_within_a_round_of_four_seconds(swallowing, test):
    def measure():
        took = OwnTime()
        value = network(test, "10.99.0.2", "10.99.0.2", "80", pace=Pace()).measure()
        return value, took.wall, took.seconds

    value, wall, seconds = swallowing(measure)
    assert value == 0.0
    assert wall >= 3.9 and seconds < 5.0


def test_no_route_is_no_answer(swallowing):
    assert swallowing(lambda: network("ping", "192.0.2.1").measure()) == 0.0


# --- names --------------------------------------------------------------------------------------------------------


def test_a_name_that_cannot_be_resolved_is_a_network_that_fails(monkeypatch):
    def fail(*args, **how):
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(target.socket, "getaddrinfo", fail)
    assert network("ping", "gateway.example").measure() == 0.0


def test_a_resolved_name_is_kept_for_ten_minutes_and_while_resolving_fails(monkeypatch):
    asked, now = [], [0.0]

    def resolve(host, port, **how):
        asked.append(host)
        if len(asked) == 2:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(2, 1, 6, "", (f"127.0.0.{len(asked)}", port))]

    monkeypatch.setattr(target.socket, "getaddrinfo", resolve)
    name = Target("gateway.example", 80, socket.SOCK_STREAM, lambda: now[0])
    found = []
    for now[0] in (0.0, 599.0, 601.0, 700.0, 1300.0):
        found.append(name.addresses()[0][1][0])
    assert found == ["127.0.0.1"] * 4 + ["127.0.0.3"]
    assert len(asked) == 3


# --- dns ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def name_server():
    """A name server on 127.0.0.1 that answers as told: a function from the query's bytes to what is sent, in pieces."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        behaviour = []

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    length = struct.unpack("!H", connection.recv(2))[0]
                    for piece in behaviour[0](connection.recv(length)):
                        connection.send(piece)
                        time.sleep(0.005)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], behaviour
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def framed(wire):
    return struct.pack("!H", len(wire)) + wire


def reply(wire, rcode=dns.rcode.NOERROR):
    message = dns.message.make_response(dns.message.from_wire(wire))
    message.set_rcode(rcode)
    return message.to_wire()


def dns_share(tmp_path, name_server, behaviour, text="nameserver 127.0.0.1\n", pace=FAST):
    port, told = name_server
    told.append(behaviour)
    (tmp_path / "resolv.conf").write_text(text)
    return network("dns", resolv_conf=tmp_path / "resolv.conf", dns_port=port, pace=pace).measure()


GENEROUS = Pace(count=5, spacing=0.01, timeout=5.0)


def test_dns(tmp_path, name_server):
    assert dns_share(tmp_path, name_server, lambda query: [framed(reply(query))], pace=GENEROUS) == 1.0


def test_dns_in_pieces(tmp_path, name_server):
    def drip(query):
        wire = framed(reply(query))
        return [wire[:1], wire[1:9], wire[9:]]

    assert dns_share(tmp_path, name_server, drip, pace=GENEROUS) == 1.0


def test_a_server_that_refuses_to_speak_of_the_root_is_there(tmp_path, name_server):
    refused = dns_share(tmp_path, name_server, lambda query: [framed(reply(query, dns.rcode.REFUSED))], pace=GENEROUS)
    assert refused == 1.0


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda query: [framed(reply(query, dns.rcode.SERVFAIL))],
        lambda query: [framed(bytes([query[0] ^ 1]) + reply(query)[1:])],
        lambda query: [framed(b"nonsense")],
        lambda query: [framed(query)],
        lambda query: [b"\0"],
        lambda query: [],
    ],
    ids=["failing", "other identifier", "nonsense", "echoed", "half sent", "closed"],
)
def test_what_is_no_answer(tmp_path, name_server, behaviour):
    assert dns_share(tmp_path, name_server, behaviour, pace=GENEROUS) == 0.0


def test_one_of_two_name_servers_is_enough(tmp_path, name_server):
    text = "nameserver 127.0.0.9\nnameserver 127.0.0.1\n"
    assert dns_share(tmp_path, name_server, lambda query: [framed(reply(query))], text, GENEROUS) == 1.0


def test_no_name_server_answers(tmp_path, closed_port):
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    assert network("dns", resolv_conf=tmp_path / "resolv.conf", dns_port=closed_port).measure() == 0.0


@pytest.mark.parametrize("text", [None, "", "search example.org\n", "nameserver nonsense\n"])
def test_without_a_configured_name_server_it_is_unknown(tmp_path, text):
    if text is not None:
        (tmp_path / "resolv.conf").write_text(text)
    with pytest.raises(Unmeasured) as problem:
        network("dns", resolv_conf=tmp_path / "resolv.conf").measure()
    assert problem.value.why == "no-resolver"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_not(wire):
    assert answers(root_query(), wire) in (True, False)
