"""The guest: how long it boots, what its health page says, what its CPUs do. It moves with a live migration."""

from typing import Optional, Tuple

from ovirt_he_ha.sim.clock import SECOND, Timeline


class Cpus:
    """States of a copy's virtual CPUs."""

    STARTING = "starting"  # none has run
    RUNNING = "running"
    PAUSED = "paused"
    GONE = "gone"


class Guest:
    """Time counts only while its CPUs run. ``boot_seconds``: None for a guest that never comes up."""

    def __init__(self, timeline: Timeline, boot_seconds: Optional[float]) -> None:
        self._timeline = timeline
        self.boot_seconds = boot_seconds
        self.panicked = False  # the kernel is dead: no page, no disk, a CPU that spins
        self.page_bad = False  # the service is ill, the guest is not
        self.flap = 0.0  # seconds of each half of a flapping page's period
        self.slow = 0.0  # seconds that the page takes
        self.agent: Optional[bool] = None
        self._ran = 0
        self._since: Optional[int] = None

    def runs(self, on: bool) -> None:
        now = self._timeline.now
        if on and self._since is None:
            self._since = now
        elif not on and self._since is not None:
            self._ran += now - self._since
            self._since = None

    @property
    def running_seconds(self) -> float:
        now = self._timeline.now
        return (self._ran + (0 if self._since is None else now - self._since)) / SECOND

    @property
    def booted(self) -> bool:
        return self.boot_seconds is not None and self.running_seconds >= self.boot_seconds

    @property
    def obeys(self) -> bool:
        """Whether it follows the ACPI button."""
        return self.booted and not self.panicked

    def page(self) -> Tuple[bool, float]:
        """Whether the page would be good now, and after how many seconds it answers."""
        if self._since is None or not self.booted or self.panicked:
            return False, 30.0
        flapped = self.flap > 0 and int(self.running_seconds / self.flap) % 2 == 1
        return not (self.page_bad or flapped), self.slow + 0.05

    @property
    def healthy(self) -> bool:
        """What the users of the engine see."""
        return self.page()[0]

    def demand(self) -> float:
        """CPU seconds that its one virtual CPU has asked for so far."""
        return self.running_seconds * (1.0 if self.panicked else 0.3)

    def requests(self) -> int:
        """Disk requests so far; a dead kernel makes none."""
        return 0 if self.panicked else int(self.running_seconds * 5)
