"""What happens to a host that runs oVirt's own daemons, beyond what happens to every host: it is upgraded, and back;
parts of it fail that ours do not have. A host of ours does not notice.
"""

from typing import Iterator

from ovirt_he_ha.sim.faults import Mend, Target, kind
from ovirt_he_ha.sim.upstream_machine import UpstreamMachine


@kind("upgrade", "operator")
def upgrade(target: Target) -> Mend:
    """oVirt's own daemons are replaced by ours, while the VM may run there; at the end of the fault back again."""
    host = target.host
    if not isinstance(host, UpstreamMachine):
        return None
    host.upgrade()
    return host.downgrade


@kind("vdsm-down", "daemon")
def vdsm_down(target: Target) -> Mend:
    """vdsm of a host with oVirt's own daemons does not run; the VM goes on."""
    host = target.host
    if not isinstance(host, UpstreamMachine):
        return None
    host.model.vdsm.up = False

    def mend() -> None:
        host.model.vdsm.up = True

    return mend


@kind("monitor-frozen", "daemon")
def monitor_frozen(target: Target) -> Mend:
    """The engine monitor of a host with oVirt's own daemons takes no sample any more, as 90.9 days after its boot: the
    last result stays published."""
    host = target.host
    if not isinstance(host, UpstreamMachine):
        return None
    health = host.model.broker.health
    look = health.look
    health.look = _nothing  # type: ignore[method-assign]

    def mend() -> None:
        health.look = look  # type: ignore[method-assign]

    return mend


def _nothing() -> Iterator[float]:
    return iter(())
