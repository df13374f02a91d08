"""Is the management bridge up? From sysfs, without asking anybody."""

import errno
from pathlib import Path

from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.options import OptionError

NAME_LIMIT = 15  # IFNAMSIZ less the NUL


def checked_name(bridge: str) -> str:
    """The bridge's name, or OptionError: it becomes a part of a path."""
    odd = "/" in bridge or bridge in (".", "..") or any(c.isspace() or ord(c) < 32 for c in bridge)
    if odd or not 1 <= len(bridge) <= NAME_LIMIT:
        raise OptionError("bridge", f"the name of a network interface (1 to {NAME_LIMIT} characters)", bridge)
    return bridge


class Bridge:
    """``sysfs``: where sysfs is mounted."""

    def __init__(self, name: str, sysfs: Path = Path("/sys")) -> None:
        self._all = sysfs / "class" / "net"
        self._own = self._all / checked_name(name)

    def measure(self) -> bool:
        """True: operationally up (not merely switched on). False: down, or there is no such interface.

        Raises Unmeasured ``unreadable``.
        """
        try:
            state = self._read("operstate")
            if state == "unknown":
                # The driver does not tell (tun, some virtual links): the carrier then decides.
                return self._carrier()
            return state == "up"
        except FileNotFoundError as problem:
            if self._all.is_dir():
                return False
            raise Unmeasured("unreadable", f"{self._all} is not there: is sysfs mounted?") from problem
        except OSError as problem:
            raise Unmeasured("unreadable", str(problem)) from problem

    def _read(self, name: str) -> str:
        return (self._own / name).read_text("ascii", "replace").strip()

    def _carrier(self) -> bool:
        try:
            return self._read("carrier") == "1"
        except OSError as problem:
            if problem.errno == errno.EINVAL:  # the kernel's answer for an interface that is switched off
                return False
            raise
