"""The three hosts of a running lab, from outside: processor, memory and processes of their daemons.

    python -m benchmarks.lab        after ``he-lab up --time-scale 1``; another scale makes the daemons that much busier

Here libvirt, sanlock and the VM are real, so this is what a host of a cluster pays.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List

from benchmarks import idle
from benchmarks.figures import Figure, show

_SECONDS = 61.0
_DAEMONS = {"ovirt_he_ha.broker": "broker", "ovirt_he_ha.agent": "agent"}


def hosts() -> List[Dict[str, int]]:
    """Broker and agent of each host; the one that runs the VM first. Hosts are told apart by their PID namespaces."""
    found: Dict[str, Dict[str, int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            space = os.readlink(entry / "ns" / "pid")
        except OSError:
            continue
        for module, name in _DAEMONS.items():
            if any(module in word for word in words[1:4]):
                found.setdefault(space, {})[name] = int(entry.name)
        if words[0].endswith("qemu-system-x86_64"):
            found.setdefault(space, {})["vm"] = int(entry.name)
    whole = [each for each in found.values() if {"broker", "agent"} <= each.keys()]
    return sorted(whole, key=lambda each: "vm" not in each)


def measured() -> List[Figure]:
    there = hosts()
    if not there:
        return []
    with ThreadPoolExecutor(len(there)) as pool:
        return [figure for found in pool.map(_one_host, there, range(1, len(there) + 1)) for figure in found]


def _one_host(daemons: Dict[str, int], number: int) -> List[Figure]:
    """Without bytes: the lab's hosts see the storage through FUSE, and the kernel counts none for them."""
    name = f"lab.host{number}_{'with' if 'vm' in daemons else 'without'}_vm"
    return idle.measured(daemons["broker"], daemons["agent"], _SECONDS, name)


if __name__ == "__main__":
    everything = measured()
    show(everything)
    sys.exit(0 if everything else "no lab is running here")
