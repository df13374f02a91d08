"""Whether the local sanlock is tied to a watchdog. The binding does not tell, the daemon's status does."""

from typing import Optional

from ovirt_he_ha.lease import daemon_status


def armed() -> Optional[bool]:
    """True: sanlock runs with the watchdog; it joins no lockspace then unless wdmd's device is armed. None: not known.
    Bounded by the deadline of one question (2 s); starts no process."""
    try:
        return daemon_status.ask().watchdog
    except daemon_status.NoStatus:
        return None
