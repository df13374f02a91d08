"""The keeper's side of a host's storage view: its server, its mount, and how both end.

A process that waits for a hung view cannot be killed. What frees it is the end of the FUSE connection, so a host whose
power is cut loses its view, too: connection aborted, server killed, mount detached. A write that was waiting in the
server is dropped with it; were the hang lifted instead, it would land after the host's death.
"""

import ctypes
import errno
import logging
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Dict, Optional

from ovirt_he_ha.lab import network, process, view
from ovirt_he_ha.lab.layout import Lab, LabError, LabHost

log = logging.getLogger(__name__)

READY_LIMIT = 10.0
# A switch waits for the I/O under way on the backing directory: milliseconds, but for a flush of a busy disk.
SWITCH_LIMIT = 20.0
MNT_DETACH = 2
libc = ctypes.CDLL(None, use_errno=True)


class NoView(LabError):
    def __init__(self, host: LabHost, why: object, log_file: Path) -> None:
        super().__init__(f"The storage view of {host.name} cannot be mounted ({why}): see {log_file}.")


class ViewLost(LabError):
    def __init__(self, name: str, why: object) -> None:
        super().__init__(f"The server of {name}'s storage view does not answer ({why}).")


def detach(mountpoint: Path) -> None:
    """As `umount -l`; nothing mounted there is fine. Asks nothing of the file system, so it cannot hang."""
    if libc.umount2(os.fsencode(mountpoint), MNT_DETACH) and ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(mountpoint))


def mount_connections(lab: Lab) -> None:
    """The kernel's list of FUSE connections, by which they are aborted; visible to the lab alone."""
    lab.connections.mkdir(exist_ok=True)
    network.run(["mount", "-t", "fusectl", "fusectl", str(lab.connections)])


class MountedView:
    """From one power-on to the next power-off. Raises NoView. Any thread may call :meth:`cut`, the others belong to
    the keeper's loop."""

    def __init__(self, host: LabHost) -> None:
        self._name, self._connections = host.name, host.lab.connections
        self._mountpoint = host.view
        self._mountpoint.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._cut = False
        self.mode = view.OK
        self.milliseconds = 0
        ours, theirs = socket.socketpair()
        ours.settimeout(READY_LIMIT)
        self._control = ours
        log_file = host.lab.log / f"view-{host.name}.log"
        words = [str(host.lab.view_program), str(host.lab.storage), str(self._mountpoint), str(theirs.fileno())]
        with theirs, open(log_file, "ab") as output:
            self.server: subprocess.Popen[bytes] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                start_new_session=True,
            )
        self._process = process.identify(self.server.pid)
        self.connection: Optional[int] = None
        try:
            self._expect(b"ready\n")
            self.connection = os.minor(os.stat(self._mountpoint).st_dev)
        except (OSError, ViewLost) as e:
            self.cut()
            raise NoView(host, e, log_file) from e

    def _expect(self, wanted: bytes) -> None:
        try:
            answer = self._control.recv(64)
        except OSError as e:
            raise ViewLost(self._name, e) from e
        if answer != wanted:
            raise ViewLost(self._name, answer or "it has ended")

    def switch(self, mode: str, milliseconds: int) -> None:
        """In force when this returns. Raises ViewLost."""
        line = f"slow {milliseconds}\n" if mode == view.SLOW else f"{mode}\n"
        try:
            self._control.settimeout(SWITCH_LIMIT)
            self._control.sendall(line.encode())
        except OSError as e:
            raise ViewLost(self._name, e) from e
        self._expect(b"done\n")
        self.mode, self.milliseconds = mode, milliseconds

    def lost(self) -> None:
        """The server has ended: without our doing, if the power is still on."""
        if not self._cut:
            self.mode = "lost"

    def facts(self) -> Dict[str, Any]:
        return {"mode": self.mode, "milliseconds": self.milliseconds}

    def cut(self) -> None:
        """Abort, kill, detach. Whatever waited for the storage is let go with an error, and dies if it was killed."""
        with self._lock:
            if self._cut:
                return
            self._cut = True
            if self.connection is not None:
                self._abort(self.connection)
            if self._process is not None:
                process.kill(self._process)
            self._control.close()
            detach(self._mountpoint)

    def _abort(self, connection: int) -> None:
        try:
            (self._connections / str(connection) / "abort").write_text("1\n")
        except FileNotFoundError:
            log.info("the connection of %s's view has ended already", self._name)
