"""Who logs does not wait for who writes."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from ovirt_he_ha.config.backlog import Backlog
from ovirt_he_ha.config.systemd import tell_systemd


class Journal(logging.Handler):
    """A target that can be frozen."""

    def __init__(self):
        super().__init__()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.lines = []

    def emit(self, record):
        assert self.goes_on.wait(10)
        self.lines.append(record.getMessage())


@pytest.fixture
def journal():
    made = Journal()
    yield made
    made.goes_on.set()


def logger_of(backlog):
    logger = logging.Logger("test")
    logger.addHandler(backlog)
    return logger


def test_everything_in_its_order(journal):
    backlog = Backlog([journal])
    log = logger_of(backlog)
    for number in range(500):
        log.info("line %d", number)
    assert backlog.drain(5)
    assert journal.lines == [f"line {number}" for number in range(500)]


def test_what_a_record_names_is_what_it_was(journal):
    journal.goes_on.clear()
    backlog = Backlog([journal])
    things = ["before"]
    logger_of(backlog).info("%s", things)
    things[0] = "after"
    journal.goes_on.set()
    assert backlog.drain(5)
    assert journal.lines == ["['before']"]


def test_s4_a_frozen_journal_holds_nobody_up_and_costs_a_bounded_memory(journal):
    journal.goes_on.clear()
    backlog = Backlog([journal], most=100)
    log = logger_of(backlog)
    began = time.monotonic()
    threads = [threading.Thread(target=lambda: [log.info("x") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert not backlog.drain(0.05)
    assert time.monotonic() - began < 2
    journal.goes_on.set()
    assert backlog.drain(5)
    written = journal.lines.count("x")
    assert 100 <= written <= 110
    said = [line for line in journal.lines if line != "x"]
    assert sum(int(line.split()[0]) for line in said) == 2000 - written


def test_levels_of_the_targets_count(journal):
    journal.setLevel(logging.ERROR)
    backlog = Backlog([journal])
    log = logger_of(backlog)
    log.info("no")
    log.error("yes")
    assert backlog.end(5)
    assert journal.lines == ["yes"]
    log.error("too late")
    assert journal.lines == ["yes"]


PROGRAM = """
import logging, os, sys, threading, time
from ovirt_he_ha.config.journal import finish_logging, setup_logging
setup_logging("test")
log = logging.getLogger("room")
began = time.monotonic()
for _ in range(3000):
    log.info("x" * 200)
drained = finish_logging(0.3)
os.write(1, b"%d %.1f" % (drained, time.monotonic() - began))
os._exit(0)
"""


def test_s4_a_process_whose_standard_error_is_full_goes_on_and_ends():
    """600 kB into a pipe of 64 kB that nobody reads."""
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.wait(20) == 0
        drained, seconds = process.stdout.read().split()
        assert drained == "0"
        assert float(seconds) < 5
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()


def test_s4_a_frozen_systemd_holds_nobody_up(tmp_path, monkeypatch):
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    previous = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(10)  # without the rule this hangs for ever
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody_reads:
            nobody_reads.bind(str(path))
            began = time.monotonic()
            for _ in range(1000):
                tell_systemd("WATCHDOG=1")
            assert time.monotonic() - began < 5
            assert nobody_reads.recv(100) == b"WATCHDOG=1"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
