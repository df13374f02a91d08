"""The readiness and watchdog protocol of systemd; silent without it."""

import logging
import os
import socket
import time
from typing import Callable, Mapping, Optional

log = logging.getLogger(__name__)


def tell_systemd(state: str) -> None:
    """``READY=1`` and its like; nothing without NOTIFY_SOCKET. Does not wait for a systemd that is frozen: the guard
    over the VM says this too."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.setblocking(False)
            notify.sendto(state.encode(), address)
    except OSError as error:
        log.warning("systemd was not told %s: %s", state, error)


def watchdog_seconds(environ: Optional[Mapping[str, str]] = None) -> Optional[float]:
    """Wall seconds without a sign of life after which systemd starts this process again; None: it does not watch."""
    text = (os.environ if environ is None else environ).get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None


class Heartbeat:
    """``beat`` is called by the thread that must not hang, as often as it likes; systemd hears of it three times per
    watchdog period, and only while every other thread that was named has come round within its limit."""

    def __init__(
        self,
        period: Optional[float],
        tell: Callable[[str], None] = tell_systemd,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._period = period
        self._tell = tell
        self._clock = clock
        self._told_at = float("-inf")
        self._rounds: dict[str, tuple[float, float]] = {}

    def came_round(self, who: str, limit: float) -> None:
        """``who`` will come round again within ``limit`` wall seconds."""
        self._rounds[who] = (self._clock(), limit)

    def beat(self) -> None:
        now = self._clock()
        if self._period is None or now - self._told_at < self._period / 3:
            return
        late = [who for who, (at, limit) in dict(self._rounds).items() if now - at > limit]
        if late:
            log.error("No sign of life to systemd: %s hangs", ", ".join(late))
            return
        self._told_at = now
        self._tell("WATCHDOG=1")
