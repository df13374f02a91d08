"""The stand-in appliance as it is told to fail, and as it is seen to work, from outside.

The guest has a control page on a port of its own, which goes on answering when its health page does not. It obeys one
address only, the desk's on the lab's management network: `python -m ovirt_he_ha.lab.guest URL` asks it from there.
"""

import http.client
import json
import subprocess
import sys
import time
from typing import Dict, List, NamedTuple, Optional, Sequence
from urllib.parse import urlsplit

from ovirt_he_ha.lab import process, state
from ovirt_he_ha.lab.layout import Lab, LabError

CONTROL_PORT = 8079
CONTROL_PATH = "/cgi-bin/ctl"
TIMEOUT = 2.0  # wall seconds; the emulated guest answers within 0.2
# Where the guest writes a block per second: its boot's name and a counter.
DIARY_OFFSET = 1024 * 1024
BLOCK = 512

# What each word makes the guest do. The guest itself obeys these; it goes on computing and writing unless said
# otherwise.
WORDS: Dict[str, str] = {
    "health": "the health page says something else",
    "error": "the health page answers 404",
    "page": "the health page's server stops: connections time out",
    "acpi": "the power button is ignored",
    "guest": "the kernel halts: no CPU time, no disk request, no ping",
    "panic": "the kernel panics: 100 % CPU, no disk request, no ping",
    "ok": "works again, but for one that halted or panicked",
}


class GuestUnreachable(LabError):
    def __init__(self, lab: Lab, why: str) -> None:
        super().__init__(
            f"The engine's guest does not answer its control page at {lab.engine_address}:{CONTROL_PORT} ({why}): it "
            "is booting, hung already, or cut off from the management network. `he-lab status` shows the faults."
        )


class Diary(NamedTuple):
    """The latest block that the guest wrote. ``boot``: eight hexadecimal digits; ``blocks``: written since its boot,
    about one per second."""

    boot: str
    blocks: int


def diary(lab: Lab) -> Optional[Diary]:
    """Read from the shared storage itself, whatever the hosts see of it. None: no guest ever wrote. Raises
    OSError."""
    with open(lab.volume_path(lab.identity.disk), "rb", buffering=0) as disk:
        disk.seek(DIARY_OFFSET)
        words = disk.read(BLOCK).split(b"\0", 1)[0].decode("ascii", "replace").split()
    return Diary(words[0], int(words[1])) if len(words) == 2 and words[1].isdigit() else None


def tell(lab: Lab, word: str) -> float:
    """Have the guest do one of :data:`WORDS`. Returns the moment (monotonic wall seconds) before it was told. Raises
    GuestUnreachable, NotRunning."""
    keeper = state.keeper_of(lab.directory)
    if keeper is None:
        raise state.NotRunning(lab.directory)
    url = f"http://{lab.engine_address}:{CONTROL_PORT}{CONTROL_PATH}?{word}"
    words = ["nsenter", "-t", str(keeper.pid), "-n", "--", sys.executable, "-m", "ovirt_he_ha.lab.guest", url]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise GuestUnreachable(lab, (done.stderr.strip().splitlines() or ["no answer"])[-1]) from None
    if answer["said"] != f"done {word}":
        raise GuestUnreachable(lab, str(answer["said"] or answer["error"]))
    return float(answer["at"])


def ask(url: str) -> Dict[str, object]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT)
    at = time.monotonic()
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        said = answer.read(1024).decode(errors="replace").strip()
        return {"at": at, "said": said if answer.status == 200 else "", "error": f"HTTP {answer.status}"}
    except (OSError, http.client.HTTPException) as e:
        return {"at": at, "said": "", "error": str(e) or type(e).__name__}
    finally:
        connection.close()


class Book:
    """Which words the guest that runs now was told: a hung one cannot be asked. They end with the copy that was told,
    but go along with it when it migrates; then only its diary tells that it is the same guest."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._path = lab.log / "guest-faults.json"

    def hangs(self, copies: Sequence[process.ProcessId]) -> List[str]:
        """``copies``: the engine's processes now, on all hosts."""
        try:
            told = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return []  # nobody was told anything, or the command died while it wrote that down
        same = process.ProcessId(told["pid"], told["started"]) in copies
        return list(told["words"]) if same or self._arrived(told["boot"], copies) else []

    def _arrived(self, boot: str, copies: Sequence[process.ProcessId]) -> bool:
        if not any("-incoming" in process.command_line(copy.pid) for copy in copies):
            return False
        now = diary(self._lab)
        return now is not None and now.boot == boot

    def write(self, copy: process.ProcessId, words: Sequence[str]) -> None:
        now = diary(self._lab)
        entry = {"pid": copy.pid, "started": copy.started, "boot": now.boot if now else "", "words": list(words)}
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(entry))
        temporary.rename(self._path)


def stopped(copy: process.ProcessId) -> bool:
    """Whether a SIGSTOP holds it."""
    try:
        text = (process.PROC / str(copy.pid) / "stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1])))
