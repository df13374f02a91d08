"""The lab's storage domain and each host's configuration files: what deploy writes on real hosts."""

import os
from pathlib import Path
from typing import Dict

from ovirt_he_ha import __version__
from ovirt_he_ha.client.archive_lock import LOCKSPACE, PLACE, RESOURCE
from ovirt_he_ha.config.schema import BLANK_UUID
from ovirt_he_ha.lab import definition
from ovirt_he_ha.lab.layout import BRIDGE, DAEMON_GID, DAEMON_UID, ENGINE_FQDN, Lab, LabHost, Volumes
from ovirt_he_ha.lab.network import run
from ovirt_he_ha.storage.archive import write_archive
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import LEASE_AREA, MIB, DomainVolumes, VolumeName, VolumeSizes, create_domain

DISK_SIZE = 64 * MIB
# A lab sends no mail.
BROKER_CONF = "[email]\nsmtp-server=localhost\n[notify]\nstate_transition=^$\n"


def create(lab: Lab) -> None:
    """A new domain with every volume of a cluster, owned by vdsm:kvm, the archive written and nobody's leases in it."""
    ids = lab.identity
    volumes = DomainVolumes(
        metadata=_name(ids.metadata),
        lockspace=_name(ids.lockspace),
        configuration=_name(ids.configuration),
        disk=_name(ids.disk),
    )
    # Behind the lockspace lies the lock of the configuration.
    sizes = VolumeSizes(lockspace=2 * LEASE_AREA, configuration=MIB, disk=DISK_SIZE)
    create_domain(str(lab.storage), ids.domain, volumes, sizes)
    lab.storage.chmod(0o755)
    write_archive(lab.volume_path(ids.configuration), archive_members(lab))
    write_lease_areas(lab)


def _name(volumes: Volumes) -> VolumeName:
    return VolumeName(volumes.image, volumes.volume)


def write_lease_areas(lab: Lab) -> None:
    """With sanlock's own tool, which needs no daemon: none runs yet."""
    ids = lab.identity
    own_ids = LocalDomain(str(lab.storage), ids.domain).ids_path
    for name, path in ((ids.domain, own_ids), (LOCKSPACE, str(lab.volume_path(ids.lockspace)))):
        run(["sanlock", "direct", "init", "-s", f"{name}:0:{path}:0"])
    run(["sanlock", "direct", "init", "-r", f"{ids.domain}:{ids.disk.volume}:{lab.lease_path}:0"])
    place = f"{LOCKSPACE}:{RESOURCE}:{lab.volume_path(ids.lockspace)}:{PLACE}"
    run(["sanlock", "direct", "init", "-r", place])


def own(directory: Path) -> None:
    for base, _, names in os.walk(directory):
        os.chown(base, DAEMON_UID, DAEMON_GID)
        for name in names:
            os.chown(os.path.join(base, name), DAEMON_UID, DAEMON_GID)


def shared_configuration(lab: Lab) -> Dict[str, str]:
    """Keys of hosted-engine.conf that are equal on all hosts."""
    ids = lab.identity
    return {
        "fqdn": ENGINE_FQDN,
        "vmid": ids.vm,
        "vm_disk_id": ids.disk.image,
        "vm_disk_vol_id": ids.disk.volume,
        "configured": "True",
        "conf": "/var/run/ovirt-hosted-engine-ha/vm.conf",
        "domainType": "local",
        "storage": str(lab.storage),
        "sdUUID": ids.domain,
        "spUUID": BLANK_UUID,
        "connectionUUID": ids.connection,
        "metadata_image_UUID": ids.metadata.image,
        "metadata_volume_UUID": ids.metadata.volume,
        "lockspace_image_UUID": ids.lockspace.image,
        "lockspace_volume_UUID": ids.lockspace.volume,
        "conf_image_UUID": ids.configuration.image,
        "conf_volume_UUID": ids.configuration.volume,
        "gateway": lab.gateway,
        "bridge": BRIDGE,
        "network_test": "ping",
        "console": "vnc",
    }


def archive_members(lab: Lab) -> Dict[str, bytes]:
    texts = {
        "version": __version__,
        "fhanswers.conf": "[environment:default]\n",
        "hosted-engine.conf": _lines(shared_configuration(lab)),
        "broker.conf": BROKER_CONF,
        "vm.conf": definition.vm_conf(lab),
    }
    return {name: text.encode() for name, text in texts.items()}


def write_host_files(host: LabHost) -> None:
    """Below the root that the host's daemons are given."""
    root = host.product_root
    config = root / "etc" / "ovirt-hosted-engine"
    config.mkdir(parents=True)
    text = _lines({**shared_configuration(host.lab), "host_id": str(host.host_id)})
    (config / "hosted-engine.conf").write_text(text)
    own_config = root / "etc" / "ovirt-hosted-engine-ha"
    own_config.mkdir()
    (own_config / "agent.conf").write_text(agent_conf(host))
    for made in ("var/lib/ovirt-hosted-engine-ha", "var/log/ovirt-hosted-engine-ha", "run"):
        (root / made).mkdir(parents=True)
    # libvirt's own, which inside of the host lie where they always do.
    (root / "etc" / "libvirt").symlink_to("/etc/libvirt")
    (root / "run" / "libvirtd.pid").symlink_to("/run/libvirtd.pid")
    (root / "var/lib/ovirt-hosted-engine-ha/broker.conf").write_text(BROKER_CONF)
    own(root / "var")


def agent_conf(host: LabHost) -> str:
    """The load of the one machine that all hosts share says nothing about any of them, and would move the VM about: it
    costs no points."""
    score = "[score]\ncpu-load-score-penalty=0\n"
    elements = f"[definition]\nallowed-elements={','.join(definition.ELEMENTS)}\n"
    return f"{score}{elements}[migration]\naddress={host.second_address}\n"


def _lines(values: Dict[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in values.items())
