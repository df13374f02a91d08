"""The word that this host goes down, from the command to the agent: a file that no boot survives.

It holds until when the host waits, on CLOCK_MONOTONIC. From then on it counts for as long again and no longer: a
shutdown that was called off must not keep this host out of the cluster for ever.
"""

import json
import time
from pathlib import Path
from typing import Optional, Union

from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import atomic_write

_MODE = 0o644  # written by root, read by the daemons' user
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def announce(paths: HostPaths, seconds: float) -> None:
    """This host goes down as soon as the VM has left, at most ``seconds`` (wall) from now. Raises OSError."""
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"by": time.monotonic() + seconds, "seconds": seconds, "boot_id": _boot_id()})
    atomic_write(paths.host_shutdown, text.encode(), _MODE)


def cancel(paths: HostPaths) -> bool:
    """Returns whether it had been announced. Raises OSError."""
    try:
        paths.host_shutdown.unlink()
    except FileNotFoundError:
        return False
    return True


def seconds_left(path: Union[str, Path]) -> Optional[float]:
    """Wall seconds until the host goes down, negative once they are over; None when nobody said that it does, or it
    did not. What cannot be read says nothing."""
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
        by, seconds, boot_id = float(said["by"]), float(said["seconds"]), said["boot_id"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    left = by - time.monotonic()
    return left if boot_id == _boot_id() and -seconds < left <= seconds else None


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()
