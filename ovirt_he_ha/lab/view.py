"""Each host's view of the shared storage, as faults see it: switch it, ask how it stands.

The storage of a host is a view (FUSE) of the one shared directory; its server runs outside the host. The observer and
the drills read the shared directory itself, never through a view.
"""

from typing import Any, Dict

from ovirt_he_ha.lab import control
from ovirt_he_ha.lab.layout import LabError, LabHost

OK, HANG, ERROR, SLOW = "ok", "hang", "error", "slow"
MODES = (OK, HANG, ERROR, SLOW)
# Product seconds that each data I/O takes in mode `slow` when nothing else is asked for: within sanlock's 10 s, so that
# the lease lives on, and beyond what anybody who waits for storage takes for prompt.
SLOW_SECONDS = 3.0


class NoSuchMode(LabError):
    def __init__(self, mode: str) -> None:
        super().__init__(f"Storage has no mode {mode!r}: expected one of {', '.join(MODES)}.")


class BadDelay(LabError):
    def __init__(self, milliseconds: object) -> None:
        super().__init__(f"Storage cannot be slow by {milliseconds!r} ms: expected 1 to 600000.")


def set_storage(host: LabHost, mode: str, **parameters: float) -> float:
    """Switch what the host's storage does, from one I/O to the next:

    * ``ok``: everything works; what hung goes on, so a hung write lands late, as it would on a real server;
    * ``hang``: nothing is answered, not even an open or a look at a file, until the mode changes or the host loses its
      power; a process that waits cannot be killed meanwhile;
    * ``error``: reads, writes and flushes fail with EIO;
    * ``slow``: each read, write and flush takes ``milliseconds`` (wall, 1 to 600000; default 3 product seconds).

    Returns the moment (monotonic wall seconds) just before it takes effect; on return from a switch to ``hang`` or
    ``error`` no I/O of the mode before is under way. A power loss ends every fault: the next boot begins with ``ok``.
    Raises LabError: unknown mode or parameter, the host is off.
    """
    return float(control.call(host.lab.control, "storage", host=host.host_id, **request(host, mode, parameters))["at"])


def request(host: LabHost, mode: str, parameters: Dict[str, float]) -> Dict[str, Any]:
    """What is asked of the keeper. Raises NoSuchMode, BadDelay."""
    if mode not in MODES:
        raise NoSuchMode(mode)
    given = dict(parameters)
    delay = given.pop("milliseconds", SLOW_SECONDS * 1000 / host.lab.scale) if mode == SLOW else 0
    if given:
        raise NoSuchMode(f"{mode} with {', '.join(sorted(given))}")
    if mode == SLOW and not 1 <= delay <= 600_000:
        raise BadDelay(delay)
    return {"mode": mode, "milliseconds": round(delay)}


def storage_mode(host: LabHost) -> str:
    """One of :data:`MODES`. Raises LabError when the host is off."""
    return str(control.call(host.lab.control, "storage", host=host.host_id)["mode"])
