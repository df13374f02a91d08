"""--console, --add-console-password: a person at the engine VM's own screen."""

import getpass
import os
import shutil
import socket
import sys
import time
from typing import Callable, List, NoReturn, Optional, Tuple, TypeVar

from ovirt_he_ha.cli.deployment import deployed_conf
from ovirt_he_ha.cli.request import Refusal, Request, say, warn
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import load_agent_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.hypervisor.connection import Connection
from ovirt_he_ha.hypervisor.console import EngineConsole, NoConsole

T = TypeVar("T")

VARIABLE = "OVIRT_HOSTED_ENGINE_CONSOLE_PASSWORD"
LIFETIME = 120.0  # wall seconds of a password
ASK_SECONDS = 2.0  # wall, for libvirt's answer
PORT_SECONDS = 2.0  # wall, for a VM that has just begun to get its port
AGAIN = 0.5  # wall seconds
_LONGEST = 8  # characters: VNC ignores the rest, and libvirt refuses it
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - compared, never listened on


def console(_request: Request) -> int:
    """A pseudo-terminal is virsh's to open: this process becomes it."""
    engine, uri = _engine()
    if not _on_terminal():
        raise Refusal("no-terminal", "--console: expected a terminal on standard input and output, found none")
    state = _asked(engine.state)
    if state != "running":
        warn(f"The engine VM is {state}: its console may be silent")
    line = _asked(engine.serial_socket)
    if line:
        return _relayed(line)
    path = shutil.which("virsh")
    if path is None:
        raise Refusal(
            "missing-program", "virsh is missing: install the package libvirt-clients (Debian) or libvirt-client"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    _become(path, ["virsh", "-c", uri, "console", engine.vmid, "--safe"])


def _relayed(path: str) -> int:
    from ovirt_he_ha.cli import terminal

    warn("Ctrl-] leaves the console")
    try:
        terminal.relay(path)
    except OSError as error:
        raise Refusal("console", f"{path}: expected the VM's serial console: {error.strerror or error}") from error
    say("")
    return 0


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _become(path: str, words: List[str]) -> NoReturn:
    os.execv(path, words)  # noqa: S606 - a list, and no shell


def add_password(request: Request) -> int:
    given = request.value("--password")
    engine, _ = _engine()
    password = _checked(_password(given))
    _asked(lambda: engine.set_password(password, LIFETIME))
    until = time.monotonic() + PORT_SECONDS
    address = _asked(engine.address)
    while address is None and time.monotonic() < until:
        time.sleep(AGAIN)
        address = _asked(engine.address)
    if address is None:
        raise Refusal(
            "no-port", f"The password is set, and the VM has no VNC port after {PORT_SECONDS:g} s: see virsh domdisplay"
        )
    host, port = address
    host = socket.gethostname() if host in _ANY else host
    say(f"Connect by VNC to {f'[{host}]' if ':' in host else host}:{port} within {LIFETIME:.0f} s")
    return 0


def _password(given: Optional[str]) -> str:
    if given is not None:
        return given
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if not sys.stdin.isatty():
        raise Refusal(
            "no-password", f"--add-console-password: expected --password, {VARIABLE} or a terminal to ask, found none"
        )
    try:
        return getpass.getpass("Password for the VNC console (1 to 8 characters): ", sys.stderr)
    except EOFError:
        return ""


def _checked(password: str) -> str:
    """Never says what it found."""
    if not (1 <= len(password) <= _LONGEST and password.isascii() and password.isprintable() and password.strip()):
        found = f"{len(password)} of them" if password.isascii() and password.isprintable() else "others"
        raise Refusal("password", f"the password: expected 1 to {_LONGEST} printable ASCII characters, found {found}")
    return password


def _engine() -> Tuple[EngineConsole, str]:
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    uri = load_agent_conf(paths.agent_conf).libvirt_uri
    return EngineConsole(Connection(uri, SystemClock(1.0)), conf.vmid, ASK_SECONDS), uri


def _asked(question: Callable[[], T]) -> T:
    try:
        return question()
    except NoConsole as error:
        raise Refusal(error.code, str(error)) from error
