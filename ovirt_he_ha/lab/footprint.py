"""Memory and descriptors of the product's daemons over time, process by process."""

import os
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ovirt_he_ha.lab import process
from ovirt_he_ha.lab.layout import Lab, LabHost

# What a daemon needs to read everything once and fill its caches: growth is counted from then on.
SETTLED = 60.0
# A life shorter than this (wall seconds after it settled) shows no trend.
TREND = 120.0
KINDS = {"ovirt_he_ha.agent.service": "agent", "ovirt_he_ha.broker.service": "broker", "io_process": "worker"}


@dataclass(frozen=True)
class Sample:
    """``rss`` in KiB."""

    at: float
    rss: int
    descriptors: int
    threads: int


Life = Tuple[str, process.ProcessId]


class Footprint:
    """``lives``: samples of each process, oldest first."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.lives: Dict[Life, List[Sample]] = {}

    def look(self) -> None:
        """One sample of every daemon of every powered host."""
        for host_id in self._lab.host_ids:
            for pid in _processes(self._lab.host(host_id)):
                self._sample(pid)

    def _sample(self, pid: int) -> None:
        kind = kind_of(process.command_line(pid))
        identity = process.identify(pid)
        if not kind or identity is None:
            return
        try:
            found = Sample(time.monotonic(), *_figures(pid))
        except OSError:
            return  # it ended while we looked
        self.lives.setdefault((kind, identity), []).append(found)

    def trends(self) -> Dict[str, Any]:
        """By kind: the most that any process of that kind had, and the most that one grew after it settled."""
        return {kind: _trend([life for (k, _), life in self.lives.items() if k == kind]) for kind in KINDS.values()}


def kind_of(words: List[str]) -> str:
    text = " ".join(words)
    return next((kind for mark, kind in KINDS.items() if mark in text), "")


def _processes(host: LabHost) -> List[int]:
    try:
        namespace = host.namespace_file.read_text()
    except OSError:
        return []  # powered off
    return process.in_namespace(namespace)


def _figures(pid: int) -> Tuple[int, int, int]:
    fields = {}
    with open(process.PROC / str(pid) / "status", encoding="ascii", errors="replace") as stream:
        for line in stream:
            name, _, value = line.partition(":")
            fields[name] = value.split()
    rss = int(fields["VmRSS"][0]) if "VmRSS" in fields else 0
    return rss, len(os.listdir(process.PROC / str(pid) / "fd")), int(fields["Threads"][0])


def _trend(lives: List[List[Sample]]) -> Dict[str, Any]:
    samples = [sample for life in lives for sample in life]
    grown = [g for g in (_growth(life) for life in lives) if g is not None]
    return {
        "processes": len(lives),
        "judged": len(grown),
        "rss_kib": max((s.rss for s in samples), default=0),
        "rss_grew_kib": max((g[0] for g in grown), default=0),
        "descriptors": max((s.descriptors for s in samples), default=0),
        "descriptors_grew": max((g[1] for g in grown), default=0),
        "threads": max((s.threads for s in samples), default=0),
        "longest_life": round(max((life[-1].at - life[0].at for life in lives), default=0.0)),
    }


def _growth(life: List[Sample]) -> Optional[Tuple[int, int]]:
    """From the first sample after it settled to the last; None where that is too short to show anything."""
    settled = [sample for sample in life if sample.at >= life[0].at + SETTLED]
    if not settled or settled[-1].at - settled[0].at < TREND:
        return None
    return settled[-1].rss - settled[0].rss, settled[-1].descriptors - settled[0].descriptors
