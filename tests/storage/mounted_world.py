"""A host in a directory whose ``mount`` is a script: an export is another directory, and what it holds moves to the
mount point and back."""

import os
import shutil
import tempfile
from pathlib import Path

from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.storage.connection import provider_for
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import MIB, OWNER, SCANNED, DomainVolumes, VolumeSizes, create_domain
from tests.storage.sanlock_records import write_identity
from tests.storage.scripted import Script

SIZES = VolumeSizes(metadata=SCANNED, lockspace=MIB, configuration=MIB, lease=8 * MIB)
NAMES = ("vm_disk_id", "vm_disk_vol_id", "sdUUID", "metadata_image_UUID", "metadata_volume_UUID")
NAMES += ("lockspace_image_UUID", "lockspace_volume_UUID", "conf_image_UUID", "conf_volume_UUID")
NFS = "rw,nosuid,nodev,noexec,soft,nosharecache,timeo=100,retrans=3,retry=0"


class MountedWorld:
    def __init__(self, **keys):
        self.root = Path(tempfile.mkdtemp(prefix="he-storage", dir="/tmp"))
        self.root.chmod(0o755)
        self.paths = HostPaths(self.root)
        self.export = self.root / "export"
        self.export.mkdir()
        self.table = self.paths.mount_table
        self.table.parent.mkdir(parents=True)
        self.table.write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n")
        self.script = Script(self.root / "tools")
        self.configure(**{"domainType": "nfs", "storage": "srv:/export/a_b", **keys})

    def configure(self, **changes):
        values = {
            "fqdn": "engine.test",
            "vmid": "5a1de5b1-21b5-4c65-9a5e-000000000001",
            "host_id": "2",
            "gateway": "127.0.0.1",
            "bridge": "ovirtmgmt",
        }
        values.update((name, f"00000000-0000-4000-8000-{number:012d}") for number, name in enumerate(NAMES, 1))
        values.update(changes)
        path = self.paths.hosted_engine_conf
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        self.conf = load_hosted_engine_conf(path)

    @property
    def target(self):
        return str(self.paths.mount_root / "srv:_export_a__b")

    def make_domain(self, sector_size=512, generations=None, sizes=SIZES):
        owner = OWNER if os.geteuid() == 0 else None
        create_domain(str(self.export), self.conf.sd_uuid, DomainVolumes.of(self.conf), sizes, sector_size, owner=owner)
        domain = LocalDomain(str(self.export), self.conf.sd_uuid)
        write_identity(domain, self.conf.vm_disk_id, self.conf.vm_disk_vol_id, generations, sector_size)
        return domain

    def provider(self, accept=False):
        return provider_for(self.conf, self.paths, accept, self.script.commands)

    def line(self, source="srv:/export/a_b", target=None, kind="nfs4", options="rw"):
        return f"99 22 0:50 / {target or self.target} rw - {kind} {source} {options}\n"

    def expect_mount(self, options=NFS, kind="nfs", source="srv:/export/a_b", target=None, seen_kind="nfs4", **step):
        target = target or self.target
        do = [["append", str(self.table), self.line(source, target, seen_kind)], ["move", str(self.export), target]]
        self.script.expect("mount", "-t", kind, "-o", options, "--", source, target, **{"do": do, **step})

    def refuse_mount(self, err, status=32):
        self.expect_mount(do=[], err=err, status=status)

    def expect_umount(self, target=None, **step):
        target = target or self.target
        do = [["move", target, str(self.export)], ["drop", str(self.table), f" {target} "]]
        self.script.expect("umount", "--", target, **{"do": do, **step})

    def mounted(self):
        """The export lies there already, by whomever."""
        os.makedirs(self.target)
        for name in os.listdir(self.export):
            os.rename(self.export / name, f"{self.target}/{name}")
        with open(self.table, "a") as file:
            file.write(self.line())

    def made(self):
        """What lies below the mount root."""
        root = self.paths.mount_root
        return sorted(str(path.relative_to(root)) for path in root.rglob("*")) if root.exists() else None

    def close(self):
        shutil.rmtree(self.root)
