"""What the actions on the engine VM share: how the domain stands, why something is refused, and the report."""

from dataclasses import dataclass, replace
from typing import Any, Optional

from ovirt_he_ha.core.model import Action, ActionReport, Outcome
from ovirt_he_ha.core.seams import Clock
from ovirt_he_ha.hypervisor.connection import Native


@dataclass(frozen=True)
class Here:
    """The domain as libvirt has it. ``pause_reason`` is VIR_DOMAIN_PAUSED_*."""

    domain: Any
    active: bool
    paused: bool
    pause_reason: int
    persistent: bool


def find_domain(libvirt: Any, native: Native, vmid: str) -> Optional[Here]:
    """None: libvirt has no such domain. Raises libvirtError."""
    try:
        domain = native.lookupByUUIDString(vmid)
        state, reason = domain.state()
        active = bool(domain.isActive())
        persistent = bool(domain.isPersistent())
    except libvirt.libvirtError as e:
        if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    return Here(domain, active, state == libvirt.VIR_DOMAIN_PAUSED, reason, persistent)


class Refused(Exception):
    msg = "{text} ({code})"

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.msg.format(code=self.code, text=self.text)


class ActionRun:
    """One action: its beginning, its deadline, its report."""

    def __init__(self, clock: Clock, action: Action) -> None:
        self._clock = clock
        self._running = ActionReport(action, clock.monotonic())

    def left(self) -> float:
        """Product seconds until the deadline, at least a moment."""
        gone = self._clock.monotonic() - self._running.started_at
        return max(0.1, self._running.action.deadline - gone)

    def report(self, outcome: Outcome, detail: str) -> ActionReport:
        return replace(self._running, outcome=outcome, finished_at=self._clock.monotonic(), detail=detail)
