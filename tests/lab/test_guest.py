"""The guest's diary on the disk, and what is remembered of a guest that cannot be asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Dict, Iterator, List

import pytest

from ovirt_he_ha.lab import guest, process, state
from ovirt_he_ha.lab.guest import Book, Diary, GuestUnreachable, ask, diary, tell
from ovirt_he_ha.lab.layout import Lab
from ovirt_he_ha.lab.process import ProcessId

FIRST, SECOND = ProcessId(10, 100), ProcessId(11, 110)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(str(tmp_path), 2, 10.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")
    made.log.mkdir()
    made.volume_path(made.identity.disk).parent.mkdir(parents=True)
    write(made, b"")
    return made


def write(lab: Lab, block: bytes) -> None:
    with open(lab.volume_path(lab.identity.disk), "wb") as disk:
        disk.seek(guest.DIARY_OFFSET)
        disk.write(block.ljust(guest.BLOCK, b"\0"))


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"", None),
        (b"0badcafe 17\n", Diary("0badcafe", 17)),
        (b"0badcafe\n", None),
        (b"0badcafe many\n", None),
        (b"\xff\xfe 3 4", None),
    ],
)
def test_diary(lab: Lab, block: bytes, expected: object) -> None:
    write(lab, block)
    assert diary(lab) == expected


def test_a_hang_ends_with_its_copy(lab: Lab) -> None:
    book = Book(lab)
    assert book.hangs([FIRST]) == []
    book.write(FIRST, ["page"])
    assert Book(lab).hangs([FIRST]) == ["page"]
    assert book.hangs([SECOND]) == []
    assert book.hangs([]) == []
    assert book.hangs([ProcessId(FIRST.pid, FIRST.started + 1)]) == []


def test_a_hang_migrates(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only into a copy that was received, and that writes on in the same diary."""
    lines: Dict[int, List[str]] = {SECOND.pid: ["qemu", "-incoming", "defer"]}
    monkeypatch.setattr(process, "command_line", lambda pid: lines.get(pid, []))
    write(lab, b"0badcafe 17\n")
    book = Book(lab)
    book.write(FIRST, ["health"])
    assert book.hangs([SECOND]) == ["health"]
    write(lab, b"deadbeef 1\n")
    assert book.hangs([SECOND]) == []
    write(lab, b"0badcafe 18\n")
    lines[SECOND.pid] = ["qemu"]
    assert book.hangs([SECOND]) == []


def test_a_torn_note_is_no_note(lab: Lab) -> None:
    book = Book(lab)
    book.write(FIRST, ["page"])
    (lab.log / "guest-faults.json").write_text('{"pid": 1')
    assert book.hangs([FIRST]) == []


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403 if "no" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"done " + self.path.partition("?")[2].encode() + b"\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_asking(page: str) -> None:
    assert ask(f"{page}/x?panic")["said"] == "done panic"
    refused = ask(f"{page}/x?no")
    assert (refused["said"], refused["error"]) == ("", "HTTP 403")
    assert ask("http://127.0.0.1:1/x?panic")["error"]


@pytest.mark.parametrize("said", ["done nothing", "", "done page"])
def test_what_was_not_confirmed_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    answer = json.dumps({"at": 7.5, "said": said, "error": "HTTP 403"})
    script = lab.root / "nsenter"
    script.write_text(f"#!/bin/sh\necho '{answer}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(lab.root), prepend=":")
    monkeypatch.setattr(state, "keeper_of", lambda _directory: FIRST)
    if said == "done page":
        assert tell(lab, "page") == 7.5
    else:
        with pytest.raises(GuestUnreachable, match="control page"):
            tell(lab, "page")


def test_without_a_keeper(lab: Lab) -> None:
    with pytest.raises(state.NotRunning):
        tell(lab, "page")
