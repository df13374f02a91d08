"""A serial console behind a Unix socket, on this terminal: qemu listens, and virsh opens pseudo-terminals only."""

import os
import select
import socket
import sys
import termios
import tty

ESCAPE = b"\x1d"  # Ctrl-]
CONNECT_SECONDS = 2.0  # wall
_PART = 4096


def relay(path: str) -> None:
    """Until Ctrl-] is typed or the VM has ended. The terminal is as before afterwards. Raises OSError when nobody
    listens at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as line:
        line.settimeout(CONNECT_SECONDS)
        line.connect(path)
        line.settimeout(None)
        keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
        before = termios.tcgetattr(keyboard)
        try:
            tty.setraw(keyboard)
            _carry(line, keyboard, screen)
        finally:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _carry(line: socket.socket, keyboard: int, screen: int) -> None:
    while True:
        ready, _, _ = select.select([line.fileno(), keyboard], [], [])
        if line.fileno() in ready:
            data = line.recv(_PART)
            if not data:
                return
            _write(screen, data)
        if keyboard in ready:
            typed = os.read(keyboard, _PART)
            before, escape, _ = typed.partition(ESCAPE)
            line.sendall(before)
            if escape or not typed:
                return


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
