"""Whether the local sanlock is tied to a watchdog. The binding does not tell, sanlock's own program does."""

import subprocess
from typing import Optional

TIMEOUT = 5.0  # wall seconds
COMMAND = ("sanlock", "client", "status", "-D")


def armed() -> Optional[bool]:
    """True: sanlock runs with the watchdog; it joins no lockspace then unless wdmd's device is armed. None: not known.
    Starts a process and waits for it up to 5 s: for the moment after a join, not for every cycle."""
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(done.stdout) if done.returncode == 0 else None


def parse(status: str) -> Optional[bool]:
    """The daemon's ``use_watchdog=`` line."""
    for line in status.splitlines():
        name, _, value = line.strip().partition("=")
        if name == "use_watchdog":
            return value == "1" if value in ("0", "1") else None
    return None
