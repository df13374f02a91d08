"""--vm-status --watch and --stream: one process that looks again when something has changed.

The broker tells when that is; nothing is read from the storage for it. Without the broker the volume is read every
10 s, and the broker is asked every 2 s whether it is back.
"""

import json
import os
import re
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, TextIO, Tuple

from ovirt_he_ha.cli.deployment import link_to_broker
from ovirt_he_ha.cli.request import Refusal, plain
from ovirt_he_ha.cli.sources import View, gather, is_broker_back
from ovirt_he_ha.cli.table import table
from ovirt_he_ha.client.link import BrokerError, BrokerLink
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import Record

LONGEST = 10.0  # wall seconds between two looks: what nobody tells of grows old meanwhile
ASK = 2.0  # wall seconds between two questions to a broker that does not answer
PAUSE = 0.5  # wall seconds between two looks at the least, whatever the broker says
_TOLD = (
    "state", "phase", "problem", "maintenance_state", "maintenance_why", "maintenance_reason", "maintenance_ended",
    "global_since", "global_reason",
)  # fmt: skip
_HOME, _REST, _LINE = "\x1b[H\x1b[2J", "\x1b[J", "\x1b[K"

_COLOUR = re.compile("\x1b\\[[0-9;]*m")

As_json = Callable[[View], Dict[str, Any]]


class Frame:
    """``view``, or why there is none."""

    def __init__(self, view: Optional[View], refusal: Optional[Refusal]) -> None:
        self.view = view
        self.refusal = refusal

    @property
    def meaning(self) -> Tuple[Any, ...]:
        """Equal when nothing has changed but ages, timestamps and countdowns."""
        if self.view is None:
            return ("error", self.refusal.code if self.refusal else "")
        view = self.view
        hosts = [
            (host_id, _meaning(found), host_id in view.hosts.alive, view.lease_of(host_id))
            for host_id, found in view.hosts.slots.items()
        ]
        owner = view.owner.value.host_id if view.owner.value is not None else None
        codes = [problem.code for problem in view.problems]
        return (hosts, view.hosts.global_maintenance.value, owner, codes, view.slots.source)


def _meaning(found: Any) -> Tuple[Any, ...]:
    if not isinstance(found, Record):
        return (getattr(found, "reason", ""),)
    said = tuple(found.get(key) for key in _TOLD)
    return (found.hostname, found.score, found.engine, found.maintenance, found.stopped, said)


def frames(paths: HostPaths, conf: HostedEngineConf) -> Iterator[Frame]:
    """One look after the other, for ever."""
    with link_to_broker(paths) as link:
        while True:
            began = time.monotonic()
            frame = _look(paths, conf, link)
            yield frame
            _await(link, frame.view.serial if frame.view else None)
            time.sleep(max(0.0, began + PAUSE - time.monotonic()))


def _look(paths: HostPaths, conf: HostedEngineConf, link: BrokerLink) -> Frame:
    try:
        return Frame(gather(paths, conf, link), None)
    except Refusal as refusal:
        return Frame(None, refusal)


def _await(link: BrokerLink, serial: Optional[int]) -> None:
    if serial is not None:
        try:
            link.wait_for_change(serial, LONGEST)
        except BrokerError:
            return  # the next look says it
        return
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        time.sleep(min(ASK, max(0.0, until - time.monotonic())))
        if is_broker_back(link):
            return


def watch(paths: HostPaths, conf: HostedEngineConf) -> int:
    """The table, drawn again when something changed; on a terminal also when it has grown older. Ends with Ctrl-C."""
    last: Optional[Tuple[Any, ...]] = None
    out = sys.stdout
    try:
        for frame in frames(paths, conf):
            text = table(frame.view, conf.host_id) if frame.view else plain(str(frame.refusal))
            if out.isatty():
                lines = [f"{line}{_LINE}\n" for line in _fitting([_heading(), *text.splitlines()], out)]
                out.write((_HOME if last is None else "\x1b[H") + "".join(lines) + _REST)
            elif frame.meaning != last:
                out.write(f"{_heading()}\n{text}\n\n")
            last = frame.meaning
            out.flush()
    except KeyboardInterrupt:
        out.write("\n")
    return 0


def _fitting(lines: List[str], out: TextIO) -> List[str]:
    """As many as the screen takes, the cursor's below them, and how many are left out: what scrolls cannot be drawn
    over again. A line that is wider than the screen takes several."""
    try:
        columns, rows = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return lines
    if not columns or not rows:
        return lines
    taken = [max(1, -(-len(_COLOUR.sub("", line)) // columns)) for line in lines]
    if sum(taken) < rows:
        return lines
    shown = 0
    while shown < len(lines) and sum(taken[: shown + 1]) + 1 < rows:
        shown += 1
    return [*lines[:shown], f"{len(lines) - shown} more lines; --vm-status --table shows all"[:columns]]


def _heading() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def stream(paths: HostPaths, conf: HostedEngineConf, as_json: As_json) -> int:
    """One JSON object per line: what --json prints, at once and whenever something changed. Ends with Ctrl-C, or when
    nobody reads any more."""
    last: Optional[Tuple[Any, ...]] = None
    try:
        for frame in frames(paths, conf):
            if frame.meaning != last:
                sys.stdout.write(json.dumps(_struct(frame, as_json)) + "\n")
                sys.stdout.flush()
            last = frame.meaning
    except KeyboardInterrupt:
        return 0
    return 0


def _struct(frame: Frame, as_json: As_json) -> Dict[str, Any]:
    if frame.view is not None:
        return as_json(frame.view)
    messages: List[str] = str(frame.refusal).splitlines()
    return {"error": {"code": frame.refusal.code if frame.refusal else "unknown", "message": "\n".join(messages)}}
