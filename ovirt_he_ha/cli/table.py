"""All hosts in one table, as wide as the terminal, with colours where they are seen."""

import os
import shutil
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, TextIO, Tuple

from ovirt_he_ha.cli import upkeep
from ovirt_he_ha.cli.sources import View
from ovirt_he_ha.core.model import PREPARING_FAILED, Invalid, Record

_RED, _GREEN, _YELLOW, _BOLD, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
_GAP = "  "
_SHORTEST = 8  # columns that a host's name keeps
NO_TERMINAL = 120  # columns where nobody's terminal is asked


class Column(NamedTuple):
    """``spare``: the higher, the earlier it is left out where the screen is narrow; 0: never."""

    title: str
    spare: int


_COLUMNS: Tuple[Column, ...] = (
    Column("", 0),
    Column("ID", 0),
    Column("HOST", 0),
    Column("SCORE", 0),
    Column("VM", 0),
    Column("HEALTH", 3),
    Column("STATE", 2),
    Column("MAINTENANCE", 4),
    Column("LIVE", 0),
    Column("SANLOCK", 5),
    Column("AGE", 6),
    Column("FROM", 7),
)
_HOST = 2
_RIGHT = ("ID", "SCORE", "AGE")


class Row(NamedTuple):
    cells: Sequence[str]
    colour: str


def table(view: View, own_id: int, stream: Optional[TextIO] = None) -> str:
    """One line per host, without a newline at the end; this host is marked by a star."""
    stream = stream or sys.stdout
    coloured = is_coloured(stream)
    rows = [_row(view, host_id, own_id) for host_id in view.hosts.slots]
    shown, widths = _fit([row.cells for row in rows], width_of(stream))
    lines = [_paint(_line([each.title for each in _COLUMNS], shown, widths), _BOLD, coloured)]
    lines += [_paint(_line(row.cells, shown, widths), row.colour, coloured) for row in rows]
    return "\n".join([*lines, *_below(view, coloured)])


def is_coloured(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def width_of(stream: TextIO) -> int:
    return shutil.get_terminal_size((NO_TERMINAL, 25)).columns if stream.isatty() else NO_TERMINAL


def _row(view: View, host_id: int, own_id: int) -> Row:
    found = view.hosts.slots[host_id]
    live = host_id in view.hosts.alive
    age = "?" if view.slots.age is None else f"{view.slots.age:.0f} s"
    values: Dict[str, str] = {
        "": "*" if host_id == own_id else "",
        "ID": str(host_id),
        "LIVE": "yes" if live else "no",
        "SANLOCK": view.lease_of(host_id),
        "AGE": age,
        "FROM": view.slots.source,
    }
    if isinstance(found, Record):
        values.update(_values(found))
    elif isinstance(found, Invalid):
        values["HOST"] = f"unreadable: {found.reason}"
    return Row([_plain(values.get(each.title, "-")) for each in _COLUMNS], _colour(found, live))


def _values(record: Record) -> Dict[str, str]:
    return {
        "HOST": record.hostname,
        "SCORE": str(record.score),
        "VM": record.engine.vm.value if record.engine else "unknown",
        "HEALTH": record.engine.health.value if record.engine else "unknown",
        "STATE": "stopped" if record.stopped else record.get("state") or "?",
        "MAINTENANCE": upkeep.WORDS.get(upkeep.state_of(record), upkeep.state_of(record)) or "-",
    }


def _colour(found: Any, live: bool) -> str:
    if not isinstance(found, Record) or not live:
        return _RED
    if found.maintenance or found.stopped or found.score <= 0:
        return _YELLOW
    return _GREEN if found.engine is not None and found.engine.vm.value == "up" else ""


def _fit(rows: List[Sequence[str]], width: int) -> Tuple[List[int], List[int]]:
    """The columns that are shown, and the width of each. A name is cut when nothing is left to leave out."""
    widths = [max([len(_COLUMNS[at].title), *(len(row[at]) for row in rows)]) for at in range(len(_COLUMNS))]
    shown = list(range(len(_COLUMNS)))

    def over() -> int:
        return sum(widths[at] for at in shown) + len(_GAP) * (len(shown) - 1) - width

    if over() > 0:  # before a column goes
        widths[_HOST] = max(min(widths[_HOST], 20), widths[_HOST] - over())
    while over() > 0:
        spare = max(shown, key=lambda at: _COLUMNS[at].spare)
        if not _COLUMNS[spare].spare:
            break
        shown.remove(spare)
    if over() > 0:
        widths[_HOST] = max(_SHORTEST, widths[_HOST] - over())
    return shown, widths


def _line(cells: Sequence[str], shown: List[int], widths: List[int]) -> str:
    parts = []
    for at in shown:
        text = cells[at] if len(cells[at]) <= widths[at] else cells[at][: widths[at] - 1] + "~"
        parts.append(text.rjust(widths[at]) if _COLUMNS[at].title in _RIGHT else text.ljust(widths[at]))
    return _GAP.join(parts).rstrip()


def _below(view: View, coloured: bool) -> List[str]:
    lines = []
    if view.hosts.global_maintenance.value:
        lines.append(_paint("!! The cluster is in GLOBAL MAINTENANCE !!", _YELLOW, coloured))
        lines += [_plain(line) for line in upkeep.cluster_lines(view.hosts)]
    lines += _leaving(view, coloured)
    owner = view.owner.value
    if owner is not None:
        holder = f"host {view.hosts.name(owner.host_id)}" if owner.host_id else "nobody"
        lines.append(_plain(f"The VM's lease is held by {holder}, read {view.owner.age or 0.0:.0f} s ago"))
    lines += [_paint(_plain(problem.text), _RED, coloured) for problem in view.problems]
    return lines


def _leaving(view: View, coloured: bool) -> List[str]:
    """What is worth a line of its own: a host on its way, and one that cannot leave."""
    lines = []
    for host_id, record in view.hosts.records().items():
        struct = upkeep.of_host(record)
        if struct["why"] or (struct["state"] and struct["reason"]):
            colour = _RED if struct["state"] == PREPARING_FAILED else ""
            text = f"Maintenance of host {view.hosts.name(host_id)}: {upkeep.text_of(struct)}"
            lines.append(_paint(_plain(text), colour, coloured))
    return lines


def _paint(text: str, colour: str, coloured: bool) -> str:
    return f"{colour}{text}{_PLAIN}" if coloured and colour else text


def _plain(text: str) -> str:
    """Slots may be written by anybody: nothing in them may steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)
