"""The status records: read right, and any bytes give an answer or a named refusal. (The real one: tests/contract.)"""

import os
import socket
import struct
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.lease.daemon_status import NoStatus, Space, ask, parse

DAEMON = "our_host_name=h use_watchdog=1 monotime=1000 version_str=3.8.5"
SPACE = "list=spaces io_timeout=10 host_generation=3 renewal_last_result=1 renewal_last_success=980"


def header(version=1, magic=0x04282010):
    return struct.pack("=8I", magic, version, 5, 0, 32, 0, 0, 0)


def record(kind, number, name, text):
    raw = text.encode() + b"\0"
    return struct.pack("=III4xQ48sI4x", kind, 0, number, 0, name, len(raw)) + raw


def space(name=b"sd", host_id=2, text=SPACE):
    return record(3, 0, name, text) + struct.pack("=48sQI4x1024sQ8x", name, host_id, 0, b"/ids", 0)


def lease(pid, name=b"vol", text="list=held flags=0"):
    body = struct.pack("=48s48sQQIIII", b"sd", name, 1, 0, 0, 0, 0, 1) + bytes(1040)
    return record(4, pid, name, text) + body


def stream(*records):
    return header() + b"".join(records)


WHOLE = stream(
    record(1, 0, b"h", DAEMON),
    record(2, 0xFFFFFFFF, b"helper", "ci=0"),
    record(2, 42, b"", "ci=2"),
    space(),
    lease(42),
    lease(43, b"orphaned", "list=orphans flags=0"),
)


def test_everything_is_found():
    status = parse(WHOLE)
    assert status.watchdog is True
    assert status.spaces == {"sd": Space(host_id=2, generation=3, io_timeout=10, renewed_ago=20)}
    assert status.clients == (42,)
    assert status.held == (("sd", "vol", 42),)
    assert status.version == "3.8.5"


@pytest.mark.parametrize(("word", "expected"), [("use_watchdog=0", False), ("use_watchdog=7", None), ("x=1", None)])
def test_the_watchdog(word, expected):
    assert parse(stream(record(1, 0, b"h", word))).watchdog is expected


@pytest.mark.parametrize("text", ["list=spaces", "renewal_last_success=soon", ""])
def test_a_lockspace_that_does_not_say_when_it_was_renewed(text):
    assert parse(stream(record(1, 0, b"h", DAEMON), space(text=text))).spaces["sd"].renewed_ago is None


@pytest.mark.parametrize(
    "answer",
    [
        header(magic=1),
        header(version=2) + WHOLE[32:],
        header(version=0x10001) + WHOLE[32:],
        header(),
        stream(record(9, 0, b"", "")),
    ],
)
def test_another_language(answer):
    with pytest.raises(NoStatus) as caught:
        parse(answer, "/sock")
    assert caught.value.kind == "foreign"
    assert "/sock" in str(caught.value)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_answer_is_never_taken_for_a_whole_one(length):
    """It may end between two records; then what is there is right, and a process missing from it would be killed."""
    try:
        status = parse(WHOLE[:length])
    except NoStatus as problem:
        assert problem.kind in ("overdue", "foreign")
    else:
        assert set(status.held) <= {("sd", "vol", 42)}


@given(st.binary(max_size=300), st.integers(0, len(WHOLE)))
def test_any_bytes(garbage, at):
    for answer in (garbage, WHOLE[:at] + garbage + WHOLE[at + len(garbage) :]):
        try:
            parse(answer)
        except NoStatus:
            continue


class Daemon:
    """Answers one connection with ``answer``; with ``hold`` it then keeps it open."""

    def __init__(self, path, answer, hold=False):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.held = threading.Event()
        threading.Thread(target=self.serve, args=(answer, hold), daemon=True).start()

    def serve(self, answer, hold):
        connection, _ = self.socket.accept()
        with connection:
            connection.recv(32, socket.MSG_WAITALL)
            connection.sendall(answer)
            if hold:
                self.held.wait(10)


def kind(path, deadline=2.0):
    with pytest.raises(NoStatus) as caught:
        ask(str(path), deadline)
    return caught.value.kind


def test_over_the_socket(tmp_path):
    Daemon(tmp_path / "s", WHOLE)
    found = ask(str(tmp_path / "s"))
    pid, _, start = found.daemon.partition(":")
    assert (int(pid), start.isdigit()) == (os.getpid(), True)  # this very process listens there
    assert replace(found, daemon="") == parse(WHOLE)


def test_what_keeps_it_from_answering(tmp_path):
    assert kind(tmp_path / "absent") == "unreachable"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    assert kind(tmp_path / "dead") == "refused"
    hanging = Daemon(tmp_path / "hanging", WHOLE, hold=True)
    assert kind(tmp_path / "hanging", 0.1) == "overdue"
    hanging.held.set()


def test_the_path_is_libsanlocks(tmp_path, monkeypatch):
    monkeypatch.setenv("SANLOCK_RUN_DIR", str(tmp_path))
    Daemon(tmp_path / "sanlock.sock", WHOLE)
    assert ask().watchdog is True
