"""What reaches a terminal: nothing that steers it, nothing wider or longer than it where that is drawn over again, and
something also in an encoding that has not every letter."""

import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from ovirt_he_ha.broker.protocol import PublishFacts, StorageFacts
from ovirt_he_ha.cli import watch
from ovirt_he_ha.cli.main import main
from ovirt_he_ha.cli.waiting import Progress
from ovirt_he_ha.config.files import load_ha_conf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import LeaseOwner, Reading, Record
from tests.cli.test_vm import define
from tests.cli.world import DOWN, UP, Ran, World, record, run

ROOT = Path(__file__).resolve().parents[2]
EVIL = "x\x1b[2J\x07\x9b\u202ey"  # clear the screen, ring, clear it again in one byte, and turn the writing around
COLOUR = re.compile("\x1b\\[[0-9;]*m")
LONG = "hypervisor-with-a-long-name.datacentre.example"


def crafted(host_id: int, hostname: str, engine: Any = DOWN) -> bytes:
    """A slot as somebody writes it who does not care what our encoder takes, with the right checksum."""
    data = slot.encode(record(host_id, engine=engine), 1_700_000_000.0)
    fields = data[: slot.LINE_SIZE].rstrip(b"\0").split(b"|")
    vm = engine.vm.value
    fields[5] = json.dumps({"vm": vm, "health": "bad", "detail": EVIL, "reason": EVIL}).encode()
    fields[6] = hostname.encode()
    fields[9] = slot._line_crc(fields)
    line = b"|".join(fields).ljust(slot.LINE_SIZE, b"\0")
    assert isinstance(slot.decode(host_id, line + data[slot.LINE_SIZE :]), Record)
    return line + data[slot.LINE_SIZE :]


@pytest.fixture
def steered(host: World) -> World:
    """Whatever a peer or a broker says is full of it."""
    define(host)
    host.publish(record(1))
    host.slots[2] = crafted(2, f"h{EVIL}", UP)
    host.slots[3] = crafted(3, f"h{EVIL}")
    host.leases(owner=Reading.of(LeaseOwner(2)))
    host.facts = replace(
        host.facts, storage=StorageFacts("io", 1.0, EVIL), publish=PublishFacts(3.0, problem=EVIL), version=EVIL
    )
    host.start_broker()
    return host


@pytest.mark.parametrize(
    "words",
    [
        "--vm-status", "--vm-status --table", "--vm-status --json", "--why", "--protection", "--vm-start",
        "--vm-migrate", "--set-maintenance --mode=global --wait=1", "--set-maintenance --mode=local --wait=1",
        "--set-maintenance --mode=none --wait=1", "--clean-metadata --host-id=2", "--reinitialize-lockspace",
        "--cluster-stop --wait=1", "--cluster-start --wait=1", "--cluster-start --wait=1 --json",
    ],
)  # fmt: skip
def test_nothing_that_others_wrote_steers_a_terminal(steered: World, words: str) -> None:
    ran = run(*words.split())
    text = ran.out + ran.err
    assert text.replace("\n", "").replace("\t", "").isprintable(), repr(text)


def test_a_reason_steers_nobody_elses_terminal(host: World) -> None:
    host.start_broker()
    ran = run("--set-maintenance", "--mode=local", f"--reason=a\n{EVIL}")
    assert ran.status == 0 and (ran.out + ran.err).replace("\n", "").isprintable()
    assert load_ha_conf(host.paths.ha_conf).reason == "a x?[2J???y"


def outside(host: World, *words: str, **changes: Any) -> "subprocess.CompletedProcess[bytes]":
    """As a program of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OVIRT_HE_ROOT": str(host.root), **changes.pop("env", {})}
    command = [sys.executable, "-m", "ovirt_he_ha.cli.main", *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **changes}
    return subprocess.run(command, env=environment, timeout=30, check=False, **streams)


@pytest.mark.parametrize(
    "words", ["--vm-status", "--vm-status --table", "--protection", "--set-maintenance --mode=global"]
)
def test_letters_that_the_encoding_has_not(host: World, words: str) -> None:
    host.publish(record(1), record(3))
    host.slots[2] = crafted(2, "hôte")
    host.start_broker()
    done = outside(host, *words.split(), env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode in (0, 3, 4) and b"internal error" not in done.stderr
    assert b"h\\xf4te" in done.stdout


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("kind", [full, closed])
def test_what_was_done_is_done_though_nobody_can_be_told(host: World, kind: Any) -> None:
    """The remark of when it takes effect goes to standard error."""
    handle = kind()
    try:
        done = outside(host, "--set-shared-config", "gateway", "192.0.2.77", "--type=he_local", stderr=handle)
        refused = outside(host, "--vm-shutdown", stderr=handle)
    finally:
        os.close(handle)
    assert "gateway=192.0.2.77\n" in host.paths.hosted_engine_conf.read_text()
    assert (done.returncode, refused.returncode) == (0, 1)


# --- terminals of a size ----------------------------------------------------------------------------------------------


class Terminal(StringIO):
    """Output that says it is a terminal, of a size."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._slave

    def end(self) -> None:
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture(params=[(20, 10), (80, 24), (300, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def terminal(request: pytest.FixtureRequest) -> Iterator[Tuple[Terminal, int, int]]:
    columns, rows = request.param
    screen = Terminal(columns, rows)
    yield screen, columns, rows
    screen.end()


def test_progress_is_one_line_of_the_terminal(terminal: Tuple[Terminal, int, int]) -> None:
    screen, columns, _ = terminal
    progress = Progress(60.0, screen)
    for text in ("x" * 1000, "short", "two\nlines", EVIL):
        progress.show(text)
    drawn = screen.getvalue().split("\r\x1b[K")[1:]
    assert len(drawn) == 4 and all(len(each) < columns and each.isprintable() for each in drawn)
    assert "short" in drawn[1]


def test_progress_on_a_terminal_that_does_not_tell_its_size() -> None:
    screen = Terminal(0, 0)
    try:
        Progress(60.0, screen).show("x" * 1000)
    finally:
        screen.end()
    assert 60 < len(screen.getvalue()) < 90


def test_watch_draws_no_more_than_the_screen_has(terminal: Tuple[Terminal, int, int]) -> None:
    screen, columns, rows = terminal
    lines = [f"\x1b[31m{number} {'x' * 100}\x1b[0m" for number in range(200)]
    drawn = [COLOUR.sub("", line) for line in watch._fitting(lines, screen)]
    assert sum(max(1, -(-len(line) // columns)) for line in drawn) < rows
    shown = len(drawn) - 1
    assert drawn[-1] == f"{200 - shown} more lines; --vm-status --table shows all"[:columns]
    assert watch._fitting(["one", "two"], screen) == ["one", "two"]


def shown_on(host: World, terminal: Terminal, *words: str) -> List[str]:
    with redirect_stdout(terminal), redirect_stderr(StringIO()):
        main(list(words))
    return COLOUR.sub("", terminal.getvalue()).splitlines()


def test_the_meter_fits_the_terminal(
    host: World, terminal: Tuple[Terminal, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word of its own that is wider, such as a host's name, is the only thing that may stick out; no table's column
    is lost."""
    screen, columns, _ = terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    host.publish(*(record(number, hostname=f"h{number}") for number in (1, 2, 3)))
    host.start_broker()
    lines = shown_on(host, screen, "--protection")
    titles = [line.split() for line in lines if line.startswith("host ")]
    assert [word for words in titles for word in words if word != "host"] == [
        "role", "score", "watchdog", "locks", "definition", "audit", "lockspace", "timeouts",
        "agent", "broker", "libvirt", "sanlock", "clock",
    ]  # fmt: skip
    findings = lines[
        next(at for at, line in enumerate(lines) if line in ("Missing:", "Not protected:", "Not known:")) :
    ]
    assert max(map(len, findings)) <= max(columns, 46)
    if columns == 80:
        assert max(map(len, lines[: lines.index("", 5)])) <= columns


def test_the_meter_has_one_line_for_each_finding_where_no_terminal_is(host: World) -> None:
    host.publish(*(record(number, hostname=f"{number}.{LONG}") for number in (1, 2, 3)))
    host.start_broker()
    ran: Ran = run("--protection")
    assert max(map(len, ran.out.splitlines())) > 120
    assert sum(line.startswith("      -> ") for line in ran.out.splitlines()) == len(
        run("--protection", "--json").json["findings"]
    )


def test_the_error_of_a_full_disk_is_one_line(host: World) -> None:
    with open("/dev/full", "wb") as nowhere:
        done = outside(host, "--version", stdout=nowhere)
    assert (
        done.returncode == 1
        and done.stderr.decode() == f"standard output cannot be written: {os.strerror(errno.ENOSPC)}\n"
    )
