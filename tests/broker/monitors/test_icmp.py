import os
import select
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker.monitors import icmp
from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.icmp import IPV4, IPV6, Echo, checksum, echo_request, parse_reply

FAMILIES = st.sampled_from([IPV4, IPV6])
WORD = st.integers(0, 0xFFFF)


def raw_refused():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except PermissionError:
        return True
    return False


needs_raw = pytest.mark.skipif(raw_refused(), reason="CAP_NET_RAW is missing")


def reply_of(family, ident, sequence):
    request = bytearray(echo_request(family, ident, sequence))
    request[0] = icmp.ECHO_REPLY[family]
    return bytes(request)


def with_header(message, words=5):
    return bytes([0x40 | words]) + bytes(words * 4 - 1) + message


@given(st.binary())
def test_a_message_with_its_checksum_sums_to_zero(data):
    data += b"\0" * (len(data) % 2)
    assert checksum(data + struct.pack("!H", checksum(data))) == 0


@given(FAMILIES, WORD, WORD, st.integers(5, 15))
def test_a_reply_is_recognised(family, ident, sequence, words):
    message = reply_of(family, ident, sequence)
    assert parse_reply(family, message, False) == (ident, sequence)
    assert parse_reply(family, with_header(message, words), True) == (ident, sequence)


@given(FAMILIES, st.booleans(), st.binary(max_size=100))
def test_any_bytes_give_a_reply_or_nothing(family, header, data):
    parse_reply(family, data, header)


@given(FAMILIES, WORD, WORD)
def test_a_request_is_no_reply(family, ident, sequence):
    assert parse_reply(family, echo_request(family, ident, sequence), False) is None


@needs_raw
@pytest.mark.parametrize(("family", "address"), [(IPV4, ("127.0.0.1", 0)), (IPV6, ("::1", 0, 0, 0))])
def test_only_the_reply_with_identifier_sequence_and_source_counts(family, address):
    echo = Echo(family, address, 3)
    try:
        ident = echo._ident
        wrap = with_header if family == IPV4 else bytes

        def counts(message, source):
            return echo.matches(wrap(message), source)

        elsewhere = ("127.0.0.2", 0) if family == IPV4 else ("::2", 0, 0, 0)
        assert counts(reply_of(family, ident, 3), address)
        assert not counts(reply_of(family, ident, 4), address)
        assert not counts(reply_of(family, ident ^ 1, 3), address)
        assert not counts(reply_of(family, ident, 3), elsewhere)
        assert not counts(echo_request(family, ident, 3), address)
    finally:
        echo.close()


def answer(echo, seconds=5):
    """The outcome on the wire: our own request and the replies to others come by as well."""
    while select.select([echo], [], [], seconds)[0]:
        result = echo.advance()
        if result is not None:
            return result
    return None


@needs_raw
@pytest.mark.parametrize(("family", "address"), [(IPV4, ("127.0.0.1", 0)), (IPV6, ("::1", 0, 0, 0))])
def test_loopback_answers(family, address):
    echo = Echo(family, address, 1)
    try:
        assert answer(echo) is True
    finally:
        echo.close()


class NoRaw(socket.socket):
    def __init__(self, family, kind, protocol):
        if kind & 0xF == socket.SOCK_RAW:
            raise PermissionError
        super().__init__(family, kind, protocol)


@pytest.mark.parametrize(("family", "address"), [(IPV4, ("127.0.0.1", 0)), (IPV6, ("::1", 0, 0, 0))])
def test_without_the_capability_the_kernels_ping_sockets_do(own_network, monkeypatch, family, address):
    monkeypatch.setattr(icmp.socket, "socket", NoRaw)

    def ask():
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as knob:  # of this namespace
            knob.write(f"{os.getegid()} {os.getegid()}")
        echo = Echo(family, address, 2)
        try:
            return answer(echo)
        finally:
            echo.close()

    assert own_network(ask) is True


def test_without_any_permission_it_is_unknown_not_lost(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(icmp.socket, "socket", refuse)
    with pytest.raises(Unmeasured) as problem:
        Echo(IPV4, ("127.0.0.1", 0), 1)
    assert problem.value.why == "no-permission"
