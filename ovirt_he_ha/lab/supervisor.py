"""A first process's loop: reap, restart what died, answer its control socket."""

import logging
import os
import selectors
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Mapping, Optional

from ovirt_he_ha.lab.control import ControlServer
from ovirt_he_ha.lab.layout import LabError
from ovirt_he_ha.lab.services import RESTART_DELAY, Service

log = logging.getLogger(__name__)


class NoSuchService(LabError):
    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"This host has no service {name!r}: it has {', '.join(known) or 'none'}.")


class NotRunning(LabError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not running at the moment.")


class _Slot:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.wanted = True
        self.started: Optional[float] = None
        self.due: Optional[float] = None
        self.starts = 0
        self.last_exit: Optional[int] = None


class Supervisor:
    """Keeps the wanted services running: one that ends, however it does, starts again after ``RESTART_DELAY``
    seconds."""

    def __init__(self, services: Iterable[Service], environment: Mapping[str, str], logs: Path) -> None:
        self._slots: Dict[str, _Slot] = {service.name: _Slot(service) for service in services}
        self._environment = environment
        self._logs = logs

    def start_due(self, now: float) -> None:
        for slot in self._slots.values():
            if slot.wanted and slot.process is None and (slot.due is None or slot.due <= now):
                self._start(slot)

    def next_due(self) -> Optional[float]:
        waiting = [s.due for s in self._slots.values() if s.wanted and s.process is None and s.due is not None]
        return min(waiting, default=None)

    def exited(self, pid: int, status: int) -> bool:
        """Tell that child ``pid`` was reaped; whether it was a service."""
        for slot in self._slots.values():
            if slot.process is not None and slot.process.pid == pid:
                slot.last_exit = os.waitstatus_to_exitcode(status)
                slot.process.returncode = slot.last_exit
                slot.process = None
                slot.due = time.monotonic() + RESTART_DELAY
                log.info("%s ended with %s", slot.service.name, slot.last_exit)
                return True
        return False

    def handlers(self) -> Dict[str, Callable[[Dict[str, Any]], Any]]:
        return {"status": self._status, "kill": self._kill, "stop": self._stop, "start": self._start_again}

    def _start(self, slot: _Slot) -> None:
        service = slot.service
        with open(self._logs / f"{service.name}.log", "ab") as output:
            slot.process = subprocess.Popen(
                service.argv,
                env={**self._environment, **service.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        slot.started = time.monotonic()
        slot.starts += 1
        log.info("%s started, pid %s", service.name, slot.process.pid)

    def _slot(self, request: Mapping[str, Any]) -> _Slot:
        name = str(request.get("service"))
        if name not in self._slots:
            raise NoSuchService(name, self._slots)
        return self._slots[name]

    def _status(self, _request: Mapping[str, Any]) -> Dict[str, Any]:
        return {
            name: {
                "pid": slot.process.pid if slot.process else None,
                "started": slot.started,
                "starts": slot.starts,
                "wanted": slot.wanted,
                "last_exit": slot.last_exit,
            }
            for name, slot in self._slots.items()
        }

    def _kill(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Signal one service; it stays wanted, so it comes back, unless ``away`` is asked for."""
        slot = self._slot(request)
        if slot.process is None:
            raise NotRunning(slot.service.name)
        if request.get("away", False):
            slot.wanted = False
        os.kill(slot.process.pid, int(request.get("signal", signal.SIGKILL)))
        return {"at": time.monotonic(), "pid": slot.process.pid}

    def _stop(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """As a service manager's stop: SIGTERM, and it stays away."""
        slot = self._slot(request)
        slot.wanted = False
        if slot.process is not None:
            os.kill(slot.process.pid, signal.SIGTERM)
        return {"at": time.monotonic()}

    def _start_again(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        slot = self._slot(request)
        slot.wanted, slot.due = True, None
        return {"at": time.monotonic()}


class Loop:
    """Single thread. ``on_exit(pid, status)`` is told every reaped child, adopted orphans included; ``on_wake()`` is
    called after every event, and at the moment (monotonic) that ``due()`` names."""

    def __init__(
        self,
        controls: Iterable[ControlServer],
        on_exit: Callable[[int, int], None],
        on_wake: Callable[[], None],
        due: Callable[[], Optional[float]],
    ) -> None:
        self._on_exit, self._on_wake, self._due = on_exit, on_wake, due
        self._selector = selectors.DefaultSelector()
        for control in controls:
            self._selector.register(control.socket, selectors.EVENT_READ, control)
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._wakeup = reader
        self._selector.register(reader, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._writer = writer

    def run(self) -> None:
        while True:
            self._reap()
            self._on_wake()
            due = self._due()
            timeout = None if due is None else max(0.0, due - time.monotonic())
            for key, _ in self._selector.select(timeout):
                if isinstance(key.data, ControlServer):
                    key.data.serve_one()
                else:
                    self._wakeup.recv(4096)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._on_exit(pid, status)
