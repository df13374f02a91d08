"""The stand-in watchdog devices: one per host, petted by the host's own wdmd; what would reset a real host powers ours
off.

A device is a file (see ``native/watchdog_device.c``) in which wdmd's keepalives leave their moment. It counts on, as a
real one does, when wdmd is killed, and stops only when wdmd closes it in order.
"""

import logging
import mmap
import struct
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional

from ovirt_he_ha.lab.layout import LabHost

log = logging.getLogger(__name__)

# Seconds of wdmd's clock.
TIMEOUT = 60  # wdmd sets it itself
OVERDUE = 25
# How soon an armed device is noticed; well within the shortest timeout (3 s at 20 times the speed).
LOOK = 0.1
_CONTENT = struct.Struct("<QQ")


class Device(NamedTuple):
    """``alive``: moment (monotonic wall seconds) of the last keepalive, None while disarmed. ``timeout``: seconds of
    wdmd's clock."""

    alive: Optional[float]
    timeout: int


def set_present(host: LabHost, present: bool) -> None:
    """Whether the host has a watchdog device, from its next power-on. Without one it has no wdmd, and its sanlock runs
    with ``-w 0``."""
    host.no_watchdog.parent.mkdir(parents=True, exist_ok=True)
    if present:
        host.no_watchdog.unlink(missing_ok=True)
    else:
        host.no_watchdog.touch()


def is_present(host: LabHost) -> bool:
    return not host.no_watchdog.exists()


def make_device(path: Path) -> None:
    """A new, disarmed one, as every boot finds it."""
    path.unlink(missing_ok=True)
    path.write_bytes(_CONTENT.pack(0, TIMEOUT))
    path.chmod(0o600)


class OpenDevice:
    """Reads without a system call: wdmd writes the same page, eight bytes at once."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as stream:
            self._memory = mmap.mmap(stream.fileno(), _CONTENT.size, prot=mmap.PROT_READ)

    def read(self) -> Device:
        alive, timeout = _CONTENT.unpack(self._memory[:])
        return Device(alive / 1e9 if alive else None, timeout)


class Watcher(threading.Thread):
    """Resets hosts. ``fire(host_id, last_keepalive)`` is called on this thread once the device has run out; it must cut
    the power by itself and quickly, since the loop of the keeper may be busy. ``scale``: seconds of wdmd's clock per
    wall second."""

    def __init__(self, scale: float, fire: Callable[[int, float], None]) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._scale, self._fire = scale, fire
        self._devices: Dict[int, OpenDevice] = {}
        self._changed = threading.Condition()

    def watch(self, host_id: int, device: OpenDevice) -> None:
        with self._changed:
            self._devices[host_id] = device
            self._changed.notify()

    def forget(self, host_id: int) -> None:
        with self._changed:
            self._devices.pop(host_id, None)

    def facts(self, host_id: int) -> Dict[str, Any]:
        """``present``; ``armed``; and while it is armed, in wall seconds, ``keepalive_ago`` and ``fires_in`` without
        another one; ``overdue``: wdmd, which gives a sign of life every 10 s of its clock, gives none."""
        with self._changed:
            device = self._devices.get(host_id)
        found = device.read() if device is not None else Device(None, TIMEOUT)
        facts: Dict[str, Any] = {"present": device is not None, "armed": found.alive is not None}
        if found.alive is None:
            return facts
        ago = time.monotonic() - found.alive
        left = found.timeout / self._scale - ago
        overdue = ago > OVERDUE / self._scale
        return {**facts, "keepalive_ago": round(ago, 2), "fires_in": round(left, 2), "overdue": overdue}

    def run(self) -> None:
        while True:
            with self._changed:
                due = self.fire_due(time.monotonic())
                self._changed.wait(max(0.0, due - time.monotonic()))

    def fire_due(self, now: float) -> float:
        """Fire what has run out; returns when to look again."""
        looks = [now + 60]  # `watch` wakes us sooner
        for host_id, device in list(self._devices.items()):
            alive, timeout = device.read()
            if alive is None:
                looks.append(now + LOOK)
            elif alive + timeout / self._scale > now:
                looks.append(alive + timeout / self._scale)
            else:
                del self._devices[host_id]
                log.warning("the watchdog of h%s fires: last keepalive %.2f s ago", host_id, now - alive)
                self._fire(host_id, alive)
        return min(looks)
