"""What happens to a host that runs oVirt's own daemons, beyond what happens to every host: it is upgraded, and back."""

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
