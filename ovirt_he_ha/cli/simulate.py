"""--simulate: what would happen if something failed now. Looks at the cluster, and lets a child do the simulating."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any, Dict, List

from ovirt_he_ha.cli.deployment import deployed_conf
from ovirt_he_ha.cli.live_cluster import snapshot_of
from ovirt_he_ha.cli.request import Refusal, Request, quoted, say
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.what_if import QuestionError, read

SECONDS = 300.0  # wall: the child begins no further run after 60, and the largest cluster's single run takes minutes
NICE = 15
EXIT_INPUT = 2  # of the child: one line says what is wrong with the question
_GOOD = (0, 3)
# Its own interpreter: the simulator has the whole product in it, and a command must not (nor start as slowly). -B: no
# file of compiled code is written. The working directory is on a child's module path, so it is one that only root
# writes to.
_CHILD = (sys.executable, "-B", "-m", "ovirt_he_ha.sim.main", "what-if", "-")
_WORKING_DIRECTORY = "/"


def simulate(request: Request) -> int:
    """0; 3 in some run the engine does not come back."""
    sys.dont_write_bytecode = True
    words = list(request.words)
    try:
        question = read(words)
    except QuestionError as error:
        raise Refusal("usage", str(error)) from error
    if question.words:
        raise Refusal("usage", f"{quoted(question.words[0])}: not understood. --simulate takes options only")
    paths = HostPaths.from_env()
    snapshot = snapshot_of(paths, deployed_conf(paths))
    if question.snapshot:
        say(json.dumps(snapshot, indent=None if request.json else 2))
        return 0
    return _asked(snapshot, words)


def _asked(snapshot: Dict[str, Any], words: List[str]) -> int:
    child = subprocess.Popen(
        [*_CHILD, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=_WORKING_DIRECTORY,
    )
    _yield_to_the_daemons(child.pid)
    try:
        out, err = child.communicate(json.dumps(snapshot).encode("ascii"), timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Refusal(
            "overdue",
            f"The simulation took longer than {SECONDS:.0f} s: take the snapshot with --snapshot to a faster machine "
            "(he-sim what-if)",
        ) from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode in _GOOD:
        sys.stdout.write(out.decode("utf-8", "replace"))
        return child.returncode
    raise _refusal(child.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def _yield_to_the_daemons(pid: int) -> None:
    """It computes for seconds, on a host that has better things to do."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


def _refusal(status: int, out: str, err: str) -> Refusal:
    if status == EXIT_INPUT:
        try:
            return Refusal("question", str(json.loads(out)["error"]["message"]))
        except (ValueError, LookupError, TypeError):
            return Refusal("question", err.strip().partition("he-sim: ")[2] or err.strip())
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    last = err.strip().rpartition("\n")[2]
    return Refusal("simulator", f"The simulator {how}: {last or 'it said nothing'}. This is a defect of ours")
