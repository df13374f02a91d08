"""Whether the watchdog is going to reset this host although everything works again.

sanlock that dies with a lockspace leaves it behind in wdmd, and a new sanlock does not take it back: wdmd lets the
watchdog fire 8 io_timeouts and the device's own time after the last renewal, whoever renews by then (measured: 110 to
118 s after the kill). Nothing announces that, so it is remembered which sanlock held the lockspace, in a file that ends
with the boot. Until the time is over the VM has no place here.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.config.text import atomic_write
from ovirt_he_ha.core.seams import Clock

log = logging.getLogger(__name__)

# After the latest moment at which the device can fire; product seconds.
MARGIN = 10.0


@dataclass(frozen=True)
class Held:
    """``daemon``: which sanlock, by pid and start. ``armed``: with a watchdog behind it. ``reset_by``: product seconds
    of the monotonic clock until which a former one may still have this host reset; 0: none."""

    daemon: str
    armed: bool
    reset_by: float = 0.0


class ResetWatch:
    """``path`` lies where a reboot clears it (None: nothing outlives this process), ``boot_id`` guards against a place
    that does not. Called from one thread; ``within`` from any."""

    def __init__(self, clock: Clock, path: Optional[Path] = None, boot_id: str = "") -> None:
        self._clock = clock
        self._path = path
        self._boot_id = boot_id
        self._held = self._load()

    def held_by(self, daemon: str, armed: bool, fires_after: float) -> None:
        """The storage domain's lockspace is held by this sanlock now. ``fires_after``: product seconds from a sanlock's
        death to the latest reset by the watchdog that it leaves behind."""
        before = self._held
        reset_by = before.reset_by if before is not None else 0.0
        if before is not None and before.armed and before.daemon != daemon:
            reset_by = self._clock.monotonic() + fires_after + MARGIN
            log.warning(
                "sanlock died with this host's lockspace: the watchdog resets the host within %.0f s",
                fires_after,
                extra={"HE_RESET_WITHIN": f"{fires_after:.0f}"},
            )
        self._keep(Held(daemon, armed, reset_by))

    def left(self) -> None:
        """The lockspaces were given back: sanlock may end without leaving anything behind."""
        if self._held is not None:
            self._keep(Held("", False, self._held.reset_by))

    def within(self) -> Optional[float]:
        """Product seconds until the host has been reset, or will not be any more; None: no reset is expected."""
        held = self._held
        left = 0.0 if held is None else held.reset_by - self._clock.monotonic()
        return left if left > 0 else None

    def _keep(self, held: Held) -> None:
        if held == self._held:
            return
        self._held = held
        if self._path is None:
            return
        content = {"boot_id": self._boot_id, "daemon": held.daemon, "armed": held.armed, "reset_by": held.reset_by}
        try:
            atomic_write(self._path, json.dumps(content).encode("ascii"), 0o600)
        except OSError as error:  # this process still knows it; only its successor would not
            log.warning("%s: %s", self._path, error.strerror, extra=throttled("reset-watch"))

    def _load(self) -> Optional[Held]:
        """None also for what is no such file: a new one is written with the next join."""
        if self._path is None:
            return None
        try:
            content = json.loads(self._path.read_text())
            if content["boot_id"] != self._boot_id:
                return None
            return Held(str(content["daemon"]), bool(content["armed"]), float(content["reset_by"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is ignored: %s", self._path, error)
            return None
