"""One connection or disconnection at a time on this host: the one-shot unit tries every 10 s, and an administrator may
call the same in that moment. Each undoes what it made when it fails, and cannot tell the other's mount from its own.
"""

import fcntl
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from ovirt_he_ha.storage.errors import ConnectionProblem
from ovirt_he_ha.storage.provider import Connected, Provider

AGAIN = 0.02  # wall seconds between two tries
LEAST = 1.0  # wall seconds that are left for what waited until its time was over


@contextmanager
def turn(path: Path, seconds: float) -> Iterator[float]:
    """Yields the wall seconds that are left of ``seconds``. For root: nobody else can open the file at ``path``, and
    with it hold us up. A process that is killed gives its turn back. Raises ConnectionProblem ``busy``, OSError."""
    until = time.monotonic() + seconds
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while not _taken(handle):
            if time.monotonic() > until:
                raise ConnectionProblem(
                    "busy",
                    str(path),
                    "no other connection of the storage under way",
                    "wait for the other hosted-engine, or ovirt-ha-storage.service, to end (lslocks names it)",
                )
            time.sleep(AGAIN)
        yield max(LEAST, until - time.monotonic())
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class InTurn(Provider):
    """``provider``, one call of it at a time."""

    def __init__(self, provider: Provider, path: Path) -> None:
        self.name = provider.name
        self._provider = provider
        self._path = path

    def connect(self, seconds: float) -> Connected:
        with turn(self._path, seconds) as left:
            return self._provider.connect(left)

    def disconnect(self, seconds: float) -> bool:
        with turn(self._path, seconds) as left:
            return self._provider.disconnect(left)
