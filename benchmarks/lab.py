"""The hosts of a running lab, from outside: processor, memory and processes of their daemons.

    python -m benchmarks.lab [SECONDS]      after ``he-lab up --time-scale 1``; a faster lab is refused

Here libvirt, sanlock, the monitors' network and the VM are real, so this is what a host of a cluster pays. Without
bytes: the lab's hosts see the storage through FUSE, and the kernel counts none for them.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List

from benchmarks import idle, reference
from benchmarks.figures import Figure, show
from ovirt_he_ha.lab import process, state
from ovirt_he_ha.lab.footprint import kind_of
from ovirt_he_ha.lab.layout import Lab, LabError, directory_from

_SECONDS = 121.0


def daemons(lab: Lab, host_id: int) -> Dict[str, int]:
    """Broker and agent of one host, by the lab's own note of its PID namespace, and ``vm`` where it runs. Raises
    SystemExit for a host that has not both."""
    try:
        space = lab.host(host_id).namespace_file.read_text()
    except OSError:
        space = ""
    found: Dict[str, int] = {}
    for pid in process.in_namespace(space):
        words = process.command_line(pid)
        # Not their children, nor a shell whose command names them: a daemon is what the host's supervisor started.
        if kind_of(words) in ("broker", "agent") and "python" in words[0]:
            found.setdefault(kind_of(words), pid)
        if process.is_engine(words, lab.identity.vm):
            found["vm"] = pid
    if not {"broker", "agent"} <= found.keys():
        raise SystemExit(f"benchmark: host {host_id} of the lab runs {', '.join(found) or 'none'} of broker and agent")
    return found


def measured(seconds: float) -> List[Figure]:
    lab = state.running_lab(directory_from(None))
    if lab.scale != 1.0:
        raise SystemExit(f"benchmark: the lab runs at {lab.scale:g} times normal speed, expected --time-scale 1")
    there = {host_id: daemons(lab, host_id) for host_id in lab.host_ids}
    with ThreadPoolExecutor(len(there)) as pool:
        jobs = [pool.submit(_one_host, host_id, found, seconds) for host_id, found in there.items()]
        return [figure for job in jobs for figure in job.result()]


def _one_host(host_id: int, found: Dict[str, int], seconds: float) -> List[Figure]:
    name = f"lab.host{host_id}_{'with' if 'vm' in found else 'without'}_vm"
    return idle.measured(found["broker"], found["agent"], seconds, name)


def main(words: List[str]) -> int:
    seconds = float(words[0]) if words else _SECONDS
    show(reference.machine("start"))
    try:
        show(measured(seconds))
    except LabError as problem:
        sys.stderr.write(f"benchmark: {problem}\n")
        return 1
    show(reference.machine("end"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
