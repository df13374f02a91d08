"""How long the VM is away after each kind of fault, on this cluster as it is now: the announced bounds, or nobody.

The bounds are those of core/timers.py; what is there (a spare, live migration, a second network, maintenance) says
which of them holds. Without the guest's own boot.
"""

from dataclasses import dataclass, replace
from typing import List, Mapping, Optional, Sequence, Tuple

from ovirt_he_ha.core.model import LeaseFacts, Level, Protection
from ovirt_he_ha.core.protection import Host, live_targets
from ovirt_he_ha.core.timers import NETWORK_BOUND, Timers, announced_bounds

# Live migration away from a host that lost its management network, where a second network reaches the destination.
LIVE_NETWORK_BOUND = 60.0

NOT_RECOVERED = "not-recovered"
UNKNOWN = "unknown"

HOW: Mapping[str, str] = {
    "restart": "started again on its host",
    "untouched": "the VM runs on; the daemon is started again",
    "elsewhere": "started on another host once sanlock calls the old one dead",
    "elsewhere-alone": "started on the one spare once sanlock calls the old host dead; then there is no spare",
    "power-button": "switched off and started again",
    "live": "moved by live migration: the VM goes on",
    "live-network": "moved by live migration over a second network: the VM goes on",
    "cold": "stopped here and started on another host",
    "all-return": "started on the first host whose turn it is",
    NOT_RECOVERED: "not recovered: {why}",
    UNKNOWN: "not known: {why}",
}

_TITLES: Mapping[str, str] = {
    "vm-crash": "the VM crashes",
    "hung-engine": "the engine hangs, and so does its guest",
    "hung-engine-alone": "only the engine's health page is bad",
    "agent-kill": "agent dies",
    "broker-kill": "broker dies",
    "libvirtd-kill": "libvirt's daemon dies",
    "sanlock-kill": "sanlock dies on the VM's host",
    "storage-loss": "the VM's host loses the storage",
    "network-loss": "the VM's host loses the management network",
    "host-loss": "the VM's host loses power",
    "cold": "all hosts lose power, and come back together",
    "planned-move": "local maintenance of the VM's host",
}


@dataclass(frozen=True)
class Forecast:
    """``seconds`` from the fault to the VM's start at the latest; None: never, or not known. ``why`` says why, also why
    it takes longer than usual. The VM goes on in ``live`` and ``untouched``: there it is how long the move, or the
    daemon's absence, may last."""

    fault: str
    seconds: Optional[float]
    how: str
    why: str = ""

    @property
    def title(self) -> str:
        return _TITLES.get(self.fault, self.fault)

    @property
    def text(self) -> str:
        text = HOW[self.how].format(why=self.why)
        return text if self.how in (NOT_RECOVERED, UNKNOWN) or not self.why else f"{text}; {self.why}"


def forecasts(protection: Protection, hosts: Sequence[Host], timers: Timers, memory_mib: int = 0) -> List[Forecast]:
    """One for each kind of fault. ``memory_mib``: of the VM, 0 if it is not known."""
    outlook = _Outlook(protection, hosts, timers, memory_mib)
    return [outlook.of(fault) for fault in _TITLES]


_RESTARTS = {"vm-crash": "restart", "hung-engine": "power-button", "hung-engine-alone": "power-button"}
_DAEMONS = ("agent-kill", "broker-kill", "libvirtd-kill")
_TAKEOVERS = ("sanlock-kill", "storage-loss", "host-loss")


class _Outlook:
    def __init__(self, protection: Protection, hosts: Sequence[Host], timers: Timers, memory_mib: int) -> None:
        self._protection = protection
        self._hosts = {one.host_id: one for one in hosts}
        self._timers = timers
        self._memory = memory_mib
        self._codes = {finding.code for finding in protection.findings}
        self._able = live_targets(self._hosts, protection.vm_host, protection.spares)
        times = _timeouts(hosts, protection.vm_host)
        self._times_known = times is not None
        self._bounds = announced_bounds(*(times or (LeaseFacts.io_timeout, LeaseFacts.watchdog)))

    def of(self, fault: str) -> Forecast:
        if fault in _DAEMONS:
            return Forecast(fault, self._bounds[fault], "untouched")
        against = self._nobody_acts()
        if against:
            return Forecast(fault, None, NOT_RECOVERED, against)
        if fault in _RESTARTS:
            return self._restart(fault)
        if fault == "cold":
            return self._timed(fault, "all-return")
        if not self._protection.spares:
            return self._without_spare(fault)
        if fault in _TAKEOVERS:
            return self._timed(fault, "elsewhere" if len(self._protection.spares) > 1 else "elsewhere-alone")
        return self._network(fault) if fault == "network-loss" else self._planned(fault)

    def _nobody_acts(self) -> str:
        if "global-maintenance" in self._codes:
            return "global maintenance is on"
        if "global-flag-unknown" in self._codes:
            return "whether global maintenance is on cannot be read"
        return ""

    def _restart(self, fault: str) -> Forecast:
        host = self._hosts.get(self._protection.vm_host)
        if host is None:
            return Forecast(fault, None, UNKNOWN, "the VM runs nowhere")
        if not host.facts.told:
            return Forecast(fault, None, UNKNOWN, "oVirt's own agent has the VM")
        startable = host.facts.definition in ("", "ok") and host.facts.watchdog is not False
        if startable:
            return self._with_budget(fault, host, Forecast(fault, self._bounds[fault], _RESTARTS[fault]))
        if self._protection.spares:
            return Forecast(fault, None, UNKNOWN, "it cannot be started again on its host; another one has to")
        return Forecast(fault, None, NOT_RECOVERED, "no host may start it")

    def _with_budget(self, fault: str, host: Host, usual: Forecast) -> Forecast:
        """Later, or never, where the VM's host has used up what it may do in an hour: it announces so."""
        record = host.record
        if record is None or usual.seconds is None or not record.get("bound.vm-crash").isdigit():
            return usual
        announced = record.get(f"bound.{fault}")
        if not announced.isdigit():
            return Forecast(fault, None, NOT_RECOVERED, "agent.conf of its host allows none in an hour")
        wait = float(announced) - self._bounds[fault]
        if wait <= 0:
            return usual
        return replace(usual, seconds=usual.seconds + wait, why="as often as may be in an hour already, so not at once")

    def _without_spare(self, fault: str) -> Forecast:
        doubted = any(one.code == "no-spare" and one.level is Level.UNKNOWN for one in self._protection.findings)
        if doubted:
            return Forecast(fault, None, UNKNOWN, "whether another host can take the VM")
        return Forecast(fault, None, NOT_RECOVERED, "no other host can take the VM")

    def _timed(self, fault: str, how: str) -> Forecast:
        """What sanlock's timeouts bound."""
        if not self._times_known:
            return Forecast(fault, None, UNKNOWN, "sanlock's timeouts of the VM's host are not known")
        return Forecast(fault, self._bounds[fault], how)

    def _network(self, fault: str) -> Forecast:
        live = any(self._hosts[one].facts.second_network for one in self._able)
        usual = Forecast(fault, LIVE_NETWORK_BOUND, "live-network") if live else Forecast(fault, NETWORK_BOUND, "cold")
        host = self._hosts.get(self._protection.vm_host)
        return usual if host is None else self._with_budget(fault, host, usual)

    def _planned(self, fault: str) -> Forecast:
        if self._able:
            return Forecast(fault, self._timers.migration_deadline(self._memory), "live")
        return Forecast(fault, NETWORK_BOUND, "cold")


def _timeouts(hosts: Sequence[Host], vm_host: int) -> Optional[Tuple[int, int]]:
    """The slowest of all: others wait for what the owner of the lease wrote beside it, and who will be the owner when
    it happens is not known. None: the VM's host does not tell, or nobody does."""
    told = [(one.facts.io_timeout, one.facts.watchdog_timeout) for one in hosts if one.live and one.facts.io_timeout]
    known = not vm_host or any(one.host_id == vm_host and one.facts.io_timeout for one in hosts)
    return max(told, key=lambda pair: 10 * pair[0] + pair[1]) if told and known else None
