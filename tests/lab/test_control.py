"""One line there, one line back."""

import socket
import threading
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from ovirt_he_ha.lab.control import ControlServer, Refused, Unreachable, call, listen
from ovirt_he_ha.lab.layout import LabError


def refuse(_request: Dict[str, Any]) -> None:
    raise LabError("not today")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    found = tmp_path / "s"
    server = ControlServer(listen(found), {"double": lambda request: request["n"] * 2, "refuse": refuse})
    server.socket.settimeout(0.05)
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            try:
                server.serve_one()
            except socket.timeout:
                continue

    thread = threading.Thread(target=loop)
    thread.start()
    yield found
    stop.set()
    thread.join()
    server.socket.close()


def test_answer(path: Path) -> None:
    assert call(path, "double", n=21) == 42


def test_refusals(path: Path) -> None:
    with pytest.raises(Refused, match="not today"):
        call(path, "refuse")
    with pytest.raises(Refused, match="unknown command"):
        call(path, "open the pod bay doors")


def test_nonsense_does_not_stop_the_server(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"\xff\xfe{{\n")
    assert call(path, "double", n=1) == 2


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        call(tmp_path / "none", "double", n=1)
