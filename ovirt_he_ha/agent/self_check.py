"""What this host tells of its own guards beside what the cycle sees: looked at on a thread of its own.

A change wakes the cycle: the protection meter of every host shows it within a publish and a read (10 s). So does a
change of ``ha.conf`` and the word that this host goes down, so that a maintenance begins when it is asked for and not
up to a cycle later.
"""

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional, Tuple

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import Safeguards
from ovirt_he_ha.hypervisor import lock_manager
from ovirt_he_ha.lease import daemon_status
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus

log = logging.getLogger(__name__)

LOOK = 2.0  # product seconds between two looks at the files: four times stat
LOOK_FLOOR = 0.5  # wall
VERSIONS = 60.0  # product seconds between two questions for the versions: an update is seen without a restart of ours


class SelfCheck:
    """``libvirt_version`` may hang for seconds and returns an empty text if it is not known. ``on_change`` must not
    block."""

    def __init__(
        self,
        paths: HostPaths,
        known: Safeguards,
        clock: SystemClock,
        libvirt_version: Callable[[], str],
        on_change: Callable[[], None],
        sanlock: Callable[[], DaemonStatus] = daemon_status.ask,
    ) -> None:
        self._paths = paths
        self._clock = clock
        self._libvirt_version = libvirt_version
        self._sanlock = sanlock
        self._on_change = on_change
        self._current = known
        self._asked: Tuple[Optional[Tuple[int, int, int]], ...] = ()
        self._versions_due = 0.0
        self._stop = threading.Event()

    def start(self) -> None:
        self._asked = self._orders()
        threading.Thread(target=self._run, name="self-check", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def current(self) -> Safeguards:
        """Returns at once."""
        return self._current

    def look(self) -> None:
        """One look at the files, and sometimes at the versions."""
        before, asked = self._current, self._asked
        word = lock_manager.in_force(self._paths.qemu_conf, self._paths.libvirt_pid_files)
        self._current = replace(self._current, lock_manager=word)
        self._asked = self._orders()
        if self._current != before:
            log.info("libvirt's lock manager: %s", word or "unknown", extra={"HE_LOCK_MANAGER": word})
        if self._current != before or self._asked != asked:
            self._on_change()
        self._ask_versions()

    def _orders(self) -> Tuple[Optional[Tuple[int, int, int]], ...]:
        return _identity(self._paths.ha_conf), _identity(self._paths.host_shutdown)

    def _ask_versions(self) -> None:
        now = self._clock.monotonic()
        if now < self._versions_due:
            return
        self._versions_due = now + VERSIONS
        try:
            sanlock = self._sanlock().version
        except NoStatus:
            sanlock = ""
        self._current = replace(self._current, sanlock=sanlock, libvirt=self._libvirt_version())

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:  # the meter must not end the agent; what it does not know any more it does not tell
                log.exception("This host's guards were not looked at", extra=throttled("self-check"))
                self._current = replace(self._current, lock_manager="")
            self._stop.wait(max(LOOK_FLOOR, self._clock.wall_seconds(LOOK)))


def _identity(path: Path) -> Optional[Tuple[int, int, int]]:
    """What changes when the file is replaced or written; None while it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
