"""One JSON line there, one back, over a Unix socket: how commands talk to the keeper and to a host's first process."""

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Union

from ovirt_he_ha.lab.layout import LabError

log = logging.getLogger(__name__)
Request = Dict[str, Any]
Handler = Callable[[Request], Any]


class Unreachable(LabError):
    def __init__(self, path: Union[Path, str], why: object) -> None:
        self.path = path
        super().__init__(f"Nobody answers on {str(path)!r} ({why}): that part of the lab is not running.")


class Refused(LabError):
    """The other side answered that it could not do it."""


class ControlServer:
    """``handlers`` maps a command's name to what answers it. Owned by a single-threaded loop: register :attr:`socket`
    with its selector and call :meth:`serve_one` when it is readable. A client has 2 s to send its line."""

    def __init__(self, listener: socket.socket, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self.socket = listener

    def serve_one(self) -> None:
        connection, _ = self.socket.accept()
        with connection:
            connection.settimeout(2)
            try:
                request = json.loads(connection.makefile("r").readline())
                connection.sendall(json.dumps(self._answer(request)).encode() + b"\n")
            except (OSError, ValueError) as e:
                log.warning("control: %s", e)

    def _answer(self, request: Request) -> Dict[str, Any]:
        handler = self._handlers.get(str(request.get("command")))
        if handler is None:
            return {"error": f"unknown command {request.get('command')!r}"}
        try:
            return {"result": handler(request)}
        except (LabError, OSError) as e:
            log.exception("%s", request)
            return {"error": str(e)}


def listen(path: Path) -> socket.socket:
    """A socket for root alone; a left-over one of a crashed owner is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    os.chmod(path, 0o600)
    listener.listen(16)
    return listener


def call(path: Union[Path, str], command: str, deadline: float = 30.0, **arguments: Any) -> Any:
    """Ask and return the result. Raises Unreachable, Refused. ``deadline`` in wall seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(deadline)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            line = connection.makefile("r").readline()
        except OSError as e:
            raise Unreachable(path, e.strerror or e) from e
    if not line:
        raise Unreachable(path, "connection closed")
    answer = json.loads(line)
    if "error" in answer:
        raise Refused(str(answer["error"]))
    return answer["result"]
