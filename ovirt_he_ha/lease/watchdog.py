"""How the local sanlock is tied to a watchdog. The binding does not tell, the daemon's status does."""

from dataclasses import dataclass
from typing import Callable, Optional

from ovirt_he_ha.lease import daemon_status
from ovirt_he_ha.lease.daemon_status import DaemonStatus


@dataclass(frozen=True)
class Tie:
    """``armed``: sanlock runs with the watchdog; it joins no lockspace then unless wdmd's device is armed. ``daemon``:
    which sanlock says so; another text after it was started again, empty if that cannot be told."""

    armed: bool
    daemon: str


def tie(ask: Callable[[], DaemonStatus] = daemon_status.ask) -> Optional[Tie]:
    """None: not known. Bounded by the deadline of one question (2 s); starts no process."""
    try:
        status = ask()
    except daemon_status.NoStatus:
        return None
    return None if status.watchdog is None else Tie(status.watchdog, status.daemon)
