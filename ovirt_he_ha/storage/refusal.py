"""A copy of the storage domain that this host must not join, though it can be reached: somebody else has mounted it, or
keeps it mounted. Written by whoever connects the storage, read by the broker before it joins; gone with the next start
of the host, and with the next connection that finds the right copy."""

import contextlib
import os
from pathlib import Path

from ovirt_he_ha.config.text import ConfigError, atomic_write, read_text

# What says "this is not the copy, or not the domain, that this host belongs to". Anything else (no server, no access)
# keeps the broker out by itself, and may be over before anybody connects again.
CODES = frozenset({"another-copy", "older-copy", "lockspace", "lease"})
# From the moment in which it becomes reachable until it was verified, also if that never comes to an end: the broker
# looks for the storage every few seconds, and a verification takes as long as the storage does.
UNVERIFIED = (
    "the storage was connected, and whether it is the right copy of the domain was not verified yet: unless that goes "
    "on just now (systemctl status ovirt-ha-storage), it was interrupted: run hosted-engine --connect-storage as root"
)


class Refusal:
    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, why: str) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        atomic_write(self._path, (why + "\n").encode(), 0o644)

    def clear(self) -> None:
        """Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def why(self) -> str:
        """Empty when there is none. One that is there and cannot be read is one."""
        if not os.path.lexists(self._path):
            return ""
        try:
            return read_text(self._path).strip() or "refused without a word"
        except ConfigError as error:
            return str(error)
