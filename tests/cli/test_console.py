"""--console and --add-console-password, with a fake of libvirt's side."""

import getpass
import os
import pty
import socket
import sys
import termios
import threading
from io import StringIO
from types import SimpleNamespace
from typing import Any, ClassVar, List, Optional, Tuple

import pytest

from ovirt_he_ha.cli import console
from ovirt_he_ha.hypervisor.connection import Unreachable
from ovirt_he_ha.hypervisor.console import NoConsole
from tests.cli.world import World, run


class Engine:
    set_to: ClassVar[List[Tuple[str, float]]] = []
    here = "running"
    line = ""
    vnc: Optional[Tuple[str, int]] = ("192.0.2.1", 5900)
    libvirt_up = True

    def __init__(self, _connection: object, vmid: str, _seconds: float) -> None:
        self.vmid = vmid

    def state(self) -> str:
        if not self.libvirt_up:
            raise Unreachable("qemu:///system", "no socket")
        if not self.here:
            raise NoConsole("not-here", "Virtual machine does not exist on this host")
        return self.here

    def serial_socket(self) -> str:
        return self.line

    def set_password(self, password: str, lifetime: float) -> None:
        self.state()
        type(self).set_to.append((password, lifetime))

    def address(self) -> Optional[Tuple[str, int]]:
        return self.vnc


@pytest.fixture
def engine(host: World, monkeypatch: pytest.MonkeyPatch) -> type:
    class Own(Engine):
        set_to: ClassVar[List[Tuple[str, float]]] = []

    monkeypatch.setattr(console, "EngineConsole", Own)
    monkeypatch.setattr(console, "Connection", lambda *_args: None)
    monkeypatch.delenv(console.VARIABLE, raising=False)
    monkeypatch.setattr(console, "AGAIN", 0.01)
    monkeypatch.setattr(console, "PORT_SECONDS", 0.05)
    return Own


def test_the_option_comes_before_the_environment(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(console.VARIABLE, "fromenv")
    ran = run("--add-console-password", "--password=given")
    assert ran.status == 0 and "192.0.2.1:5900" in ran.out and "given" not in ran.out + ran.err
    assert run("--add-console-password").status == 0
    assert engine.set_to == [("given", 120.0), ("fromenv", 120.0)]


def test_a_terminal_is_asked_without_an_echo(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.sys, "stdin", Terminal())
    monkeypatch.setattr(console.getpass, "getpass", lambda _prompt, stream: stream is sys.stderr and "asked")
    assert run("--add-console-password").status == 0
    assert engine.set_to == [("asked", 120.0)]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("source", ["", "   \t", "ninechars", "é", "a\nb", None])
@pytest.mark.parametrize("way", ["option", "environment"])
def test_no_empty_and_no_impossible_password(
    engine: Any, monkeypatch: pytest.MonkeyPatch, source: Optional[str], way: str
) -> None:
    monkeypatch.setattr(console.sys, "stdin", StringIO())
    words = ["--add-console-password"]
    if source is not None and way == "option":
        words.append(f"--password={source}")
    elif source is not None:
        monkeypatch.setenv(console.VARIABLE, source)
    ran = run(*words)
    assert ran.status == 1 and ran.err.count("\n") == 1 and "expected" in ran.err and engine.set_to == []
    assert not source or source.strip() not in ("ninechars",) or source not in ran.err


@pytest.mark.parametrize(
    ("address", "shown"), [(("::1", 5901), "[::1]:5901"), (("0.0.0.0", 5900), ":5900"), (("::", 5900), ":5900")]
)
def test_the_address_can_be_typed(engine: Any, address: Tuple[str, int], shown: str) -> None:
    engine.vnc = address
    ran = run("--add-console-password", "--password=x")
    assert ran.status == 0 and shown in ran.out and "0.0.0.0" not in ran.out and " [::]" not in ran.out


def test_a_vm_without_a_port_and_one_that_is_elsewhere(engine: Any) -> None:
    engine.vnc = None
    assert run("--add-console-password", "--password=x").status == 1
    engine.here = ""
    ran = run("--add-console-password", "--password=x")
    assert ran.status == 1 and ran.err.startswith("Virtual machine does not exist")
    engine.libvirt_up = False
    assert run("--add-console-password", "--password=x").status == 1


# --- the serial console -------------------------------------------------------------------------------------------


@pytest.fixture
def opened(engine: Any, monkeypatch: pytest.MonkeyPatch) -> List[List[str]]:
    """On a terminal; what this process would have become."""
    commands: List[List[str]] = []

    def become(_path: str, words: List[str]) -> None:
        commands.append(words)
        raise SystemExit(0)

    monkeypatch.setattr(console, "_become", become)
    monkeypatch.setattr(console, "_on_terminal", lambda: True)
    monkeypatch.setattr(console.shutil, "which", lambda _name: "/usr/bin/virsh")
    return commands


def test_the_console_is_virshs(engine: Any, opened: List[List[str]], host: World) -> None:
    for state in ("running", "paused"):
        engine.here = state
        with pytest.raises(SystemExit):
            run("--console")
    assert opened[0] == opened[1] and opened[0][:4] == ["virsh", "-c", "qemu:///system", "console"]


def test_a_serial_console_behind_a_socket(
    engine: Any, opened: List[List[str]], host: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed characters go in, the guest's come out, Ctrl-] ends it, and the terminal is as it was."""
    engine.line = str(host.root / "console.sock")
    main, other = pty.openpty()
    before = termios.tcgetattr(other)
    with socket.socket(socket.AF_UNIX) as qemu, os.fdopen(other, "r+b", buffering=0) as terminal:
        qemu.bind(engine.line)
        qemu.listen(1)
        monkeypatch.setattr(console.sys, "stdin", terminal)
        monkeypatch.setattr("ovirt_he_ha.cli.terminal.sys", SimpleNamespace(stdin=terminal, stdout=terminal))
        answers: List[int] = []
        user = threading.Thread(target=lambda: answers.append(run("--console").status))
        user.start()
        guest, _ = qemu.accept()
        with guest:
            guest.sendall(b"login: ")
            assert os.read(main, 100) == b"login: "
            os.write(main, b"root\x03")
            got = b""
            while len(got) < 5:
                got += guest.recv(100)
            assert got == b"root\x03"
            os.write(main, b"\x1d")
            user.join(10)
        assert answers == [0] and termios.tcgetattr(other) == before and opened == []
        qemu.close()
        assert run("--console").status == 1
    os.close(main)


def test_a_vm_elsewhere_is_a_failure(engine: Any, opened: List[List[str]]) -> None:
    engine.here = ""
    ran = run("--console")
    assert ran.status == 1 and ran.err.count("\n") == 1 and opened == []


def test_a_missing_program_is_named(engine: Any, opened: List[List[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.shutil, "which", lambda _name: None)
    assert "virsh" in run("--console").err and opened == []


def test_without_a_terminal_it_is_refused(engine: Any) -> None:
    ran = run("--console")
    assert ran.status == 1 and "terminal" in ran.err


def test_a_terminal_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    main, other = pty.openpty()
    with os.fdopen(other, "r") as terminal, os.fdopen(main, "r"):
        monkeypatch.setattr(console.sys, "stdin", terminal)
        monkeypatch.setattr(console.sys, "stdout", Terminal())
        assert console._on_terminal()
        monkeypatch.setattr(console.sys, "stdout", StringIO())
        assert not console._on_terminal()


def test_a_terminal_that_ends_instead_of_a_password(engine: type, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ending(StringIO):
        def isatty(self) -> bool:
            return True

    def ended(*_args: object) -> str:
        raise EOFError

    monkeypatch.setattr(sys, "stdin", Ending())
    monkeypatch.setattr(getpass, "getpass", ended)
    ran = run("--add-console-password")
    assert ran.status == 1 and "internal" not in ran.err and engine.set_to == []  # type: ignore[attr-defined]
