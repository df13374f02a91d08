"""When this host may join the storage domain's lockspace."""

import logging
from typing import Callable

from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.hypervisor.process import ProcessTable
from ovirt_he_ha.lease import daemon_status
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus

log = logging.getLogger(__name__)


class JoinRule:
    """True unless an engine process is here that the running sanlock does not know: a join frees at once what this
    host's former sanlock held (measured: another host started the VM 34 s after the kill, with this copy still
    running).

    The kill of such a process is the agent's; the join waits for its end, and the lockspace's state says so. What
    cannot be looked at (no /proc, no answer) counts as a process that is not known. Bounded by one question to
    sanlock. A qemu whose command line cannot be read, because it hangs, may be the VM's.

    Nor is a copy of the domain joined that the connection of the storage refused: two hosts on two copies would each
    see the VM's lease free.
    """

    def __init__(
        self,
        table: ProcessTable,
        vmid: str,
        sanlock: Callable[[], DaemonStatus] = daemon_status.ask,
        refused: Callable[[], str] = lambda: "",
    ) -> None:
        """``refused``: why this copy of the domain must not be joined, or an empty text."""
        self._refused = refused
        self._table = table
        self._vmid = vmid
        self._sanlock = sanlock

    def __call__(self) -> bool:
        refusal = self._refused()
        if refusal:
            log.warning("not joining: %s", refusal, extra=throttled("join"))
            return False
        try:
            pids = {process.pid for process in self._table.find(self._vmid)} | set(self._table.mute_qemus())
            unknown = pids - set(self._sanlock().clients) if pids else pids
        except (OSError, NoStatus) as problem:
            log.warning("not joining: %s", problem, extra=throttled("join"))
            return False
        if unknown:
            listed = ", ".join(str(pid) for pid in sorted(unknown))
            log.warning(
                "not joining: the VM's process %s is not known to this sanlock; it must be gone first",
                listed,
                extra=throttled("join"),
            )
        return not unknown
