"""What must be the same in the configuration of all hosts, as one digest that they compare."""

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.core.safeguards import digest

# The VM, its volumes and how they are reached, and what a host's network is measured by. Not: this host's id, and how
# the local vdsm is talked to.
_EQUAL = (
    "fqdn",
    "vmid",
    "sd_uuid",
    "domain_type",
    "storage",
    "vm_disk_id",
    "vm_disk_vol_id",
    "metadata_image_uuid",
    "metadata_volume_uuid",
    "lockspace_image_uuid",
    "lockspace_volume_uuid",
    "conf_image_uuid",
    "conf_volume_uuid",
    "bridge",
    "gateway",
    "network_test",
    "tcp_t_address",
    "tcp_t_port",
)


def deployment_digest(conf: HostedEngineConf) -> str:
    """Six hexadecimal digits."""
    return digest(*(f"{name}={getattr(conf, name)!r}" for name in _EQUAL))
