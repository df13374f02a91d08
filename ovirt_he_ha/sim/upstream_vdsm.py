"""vdsm as oVirt's agent and its engine monitor see it, and that monitor.

vdsm answers a create at once and does the rest later; it keeps the record of a VM that went down until somebody
destroys it. The monitor makes ``vm``, ``health`` and ``detail`` of it.
"""

from dataclasses import dataclass
from typing import Callable, Dict, Iterator, Optional, Tuple

from ovirt_he_ha.sim.upstream_door import Door

PAGE_TIMEOUT = 20.0  # seconds of the HTTP request for the health page
POWERING_DOWN = 300.0
STAMP_BASE = 2**31 - 1
HELD = "Failed to acquire lock: Lease is held by another host"
MIGRATED = 4

# Exit reasons, by libvirt's word for the end.
_REASONS = {"shutdown": 7, "destroyed": 6, "migrated": MIGRATED, "failed": 3, "crashed": 1}
_BOOTING = ("Paused", "WaitForLaunch", "Restoring state", "Powering up")


class VdsmError(Exception):
    """Any answer of vdsm that is an error and not "no such VM"."""


@dataclass(frozen=True)
class VmRecord:
    """``stamp``: vdsm's own time of the answer, as it is published: the text of a number."""

    status: str
    exit_reason: int = 0
    exit_message: str = ""
    stamp: str = ""


class Doing:
    """A call whose answer comes later."""

    def __init__(self) -> None:
        self.ok: Optional[bool] = None

    def answer(self, ok: bool) -> None:
        self.ok = ok


class Vdsm:
    """``on_change``: told of every change of the VM's status, as vdsm's event queue does."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._record: Optional[VmRecord] = None
        self._stopping_since: Optional[float] = None
        self._paused = False
        self.up = True
        self.on_change: Callable[[], None] = lambda: None

    # --- what others ask --------------------------------------------------------------------------------------------

    def vm(self) -> Optional[VmRecord]:
        """None: no such VM. Raises VdsmError."""
        if not self.up or not self._door.hypervisor.reachable:
            raise VdsmError("vdsm or libvirt is not there")
        if self._record is None:
            return None
        now = self._door.monotonic()
        status = self._record.status
        if self._stopping_since is not None and status == "Up" and now < self._stopping_since + POWERING_DOWN:
            status = "Powering down"
        stamp = str(STAMP_BASE + int(now * 1000))
        return VmRecord(status, self._record.exit_reason, self._record.exit_message, stamp)

    @property
    def has_vm(self) -> bool:
        return self._record is not None

    def create(self) -> None:
        """Returns before the VM runs, and before it has the lease. Raises VdsmError."""
        if self.vm() is not None:
            raise VdsmError("the VM exists")
        self._paused = False
        self._set("WaitForLaunch")
        self._door.hypervisor.create(self._created)

    def shutdown(self) -> None:
        if self.vm() is None:
            raise VdsmError("no such VM")
        self._stopping_since = self._door.monotonic()
        self._door.hypervisor.shutdown()

    def destroy(self) -> Doing:
        """Ends the VM, and forgets it."""
        if self.vm() is None:
            raise VdsmError("no such VM")
        doing = Doing()

        def gone(ok: bool) -> None:
            if ok:
                self._record = None
                self._stopping_since = None
                self.on_change()
            doing.answer(ok)

        self._door.hypervisor.destroy(gone)
        return doing

    # --- what libvirt tells -----------------------------------------------------------------------------------------

    def event(self, event: str, detail: str) -> None:
        """libvirt's events: started, resumed, suspended, migrating, job-completed, stopped (``detail``: how)."""
        status = self._record.status if self._record is not None else ""
        if event == "started" and detail == "migrated":
            self._set("Migration Destination")
        elif event == "resumed":
            self._paused = False
            self._set("Up")
        elif event == "suspended":
            self._paused = True
            # The short pause of a switch-over is not shown.
            if status != "Migration Source":
                self._set("Paused")
        elif event == "migrating":
            self._set("Migration Source")
        elif event == "job-completed" and status == "Migration Source":
            self._set("Paused" if self._paused else "Up")
        elif event == "stopped" and status not in ("", "Down"):
            self._down(_REASONS.get(detail, 1), "")

    def _created(self, outcome: str, detail: str) -> None:
        if self._record is None:
            return
        if outcome == "ok":
            self._set("Up")
        else:
            self._down(1, HELD if outcome == "busy" else detail)

    def _set(self, status: str) -> None:
        if status == "Up" and (self._record is None or self._record.status != "Up"):
            self._stopping_since = None
        self._record = VmRecord(status)
        self.on_change()

    def _down(self, reason: int, message: str) -> None:
        self._stopping_since = None
        self._record = VmRecord("Down", reason, message)
        self.on_change()


class EngineHealth:
    """The broker's monitor of the engine. ``value`` None: no result yet."""

    def __init__(self, door: Door, vdsm: Vdsm) -> None:
        self._door = door
        self._vdsm = vdsm
        self._last = "down"
        self._sample: Optional[Tuple[Optional[str], float]] = None
        self.value: Optional[Dict[str, str]] = None

    def look(self) -> Iterator[float]:
        """One evaluation; a poll and every event make one each, and they may overtake each other."""
        began = self._door.monotonic()
        try:
            found = self._vdsm.vm()
        except VdsmError:
            self._take(None, began, "unknown", "unknown", "unknown", remember=False)
            return
        if found is None:
            vm = "down_missing" if self._last == "up" else self._last
            self._take(None, began, vm, "bad", "unknown")
        elif found.status in ("Down", "Migration Destination"):
            self._take(found.stamp, began, self._not_here(found), "bad", found.status)
        elif found.status in _BOOTING:
            self._take(found.stamp, began, "up", "bad", found.status)
        elif self._is_newer(found.stamp, began):
            good, seconds = self._door.page()
            yield min(seconds, PAGE_TIMEOUT)
            self._take(found.stamp, began, "up", "good" if good else "bad", found.status)

    def _not_here(self, found: VmRecord) -> str:
        lost = found.status == "Down" and found.exit_message.endswith(HELD)
        if lost or (found.status == "Down" and found.exit_reason == MIGRATED) or self._last == "down":
            return "down"
        return "down_unexpected"

    def _is_newer(self, stamp: Optional[str], local: float) -> bool:
        if self._sample is None:
            return True
        before, before_local = self._sample
        if stamp is not None and before is not None:
            # Numbers compared as text: "10000000000" is older than "9999999999".
            return stamp > before
        return local > before_local

    def _take(
        self, stamp: Optional[str], local: float, vm: str, health: str, detail: str, remember: bool = True
    ) -> None:
        if not self._is_newer(stamp, local):
            return
        self._sample = (stamp, local)
        if remember:
            self._last = vm
        value = {"vm": vm, "health": health, "detail": detail}
        if health != "good":
            value["reason"] = "health page" if vm == "up" else "vm not running on this host"
        self.value = value
