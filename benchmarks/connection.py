"""Connecting a storage domain that is connected already: what the one-shot unit does at each of its starts, and whoever
calls --connect-storage again."""

import os
import statistics
import time
from dataclasses import replace
from typing import Callable, List

from benchmarks.effort import Effort
from benchmarks.figures import Figure
from benchmarks.host import Host
from ovirt_he_ha.storage.command import Commands
from ovirt_he_ha.storage.connection import connect
from ovirt_he_ha.storage.file_provider import MountProvider, Verifier
from ovirt_he_ha.storage.mount_kinds import mount_plan

_BUDGET = 50.0  # ms


def figures(host: Host, effort: Effort) -> List[Figure]:
    """Of a domain in which sanlock has written its records."""
    times = max(3, effort.calls)
    directory = _milliseconds(times, lambda: connect(host.conf, host.paths, 30.0))
    mounted = _milliseconds(times, _mounted(host))
    how = f"wall clock, median of {times}: with the start of the I/O process"
    return [
        Figure("connect.directory", directory, "ms", how, _BUDGET),
        Figure("connect.mounted", mounted, "ms", f"{how}; the mount is told by a table of ours", _BUDGET),
    ]


def _mounted(host: Host) -> Callable[[], object]:
    """An export that a table of mounts names, beside 200 other mounts; what is mounted is a link to the domain."""
    conf = replace(host.conf, domain_type="nfs", storage="server:/export")
    target = mount_plan(conf, host.paths).target
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.symlink(host.conf.storage, target)
    others = "".join(f"{50 + n} 22 0:{n} / /some/where/{n} rw shared:{n} - tmpfs tmpfs rw\n" for n in range(200))
    host.paths.mount_table.parent.mkdir(parents=True, exist_ok=True)
    host.paths.mount_table.write_text(f"{others}999 22 0:50 / {target} rw shared:7 - nfs4 server:/export rw,vers=4.2\n")
    verifier = Verifier(conf, host.paths)
    provider = MountProvider(conf, host.paths, Commands({"PATH": "/nowhere"}), verifier)
    return lambda: provider.connect(30.0)


def _milliseconds(times: int, call: Callable[[], object]) -> float:
    call()
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        found.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(found)
