"""The direct provider of block domains: iSCSI or Fibre Channel below, a volume group above."""

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.storage.block_domain import (
    DESCRIPTIONS,
    IDS,
    LEASES,
    BlockDomain,
    BlockRecord,
    load_record,
    save_record,
)
from ovirt_he_ha.storage.block_layout import description_offsets, description_place, geometry, lease_slot
from ovirt_he_ha.storage.block_nodes import DeviceNodes
from ovirt_he_ha.storage.block_stores import search
from ovirt_he_ha.storage.block_transport import Transport, device_identity
from ovirt_he_ha.storage.block_volume import make, refuse_managed
from ovirt_he_ha.storage.command import CommandError, Commands
from ovirt_he_ha.storage.errors import ConnectionProblem, DomainProblem, StorageError, StorageOverdue
from ovirt_he_ha.storage.file_provider import files_as, remaining
from ovirt_he_ha.storage.identity import KnownCopy, Traits, verify_contents
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.provider import Connected
from ovirt_he_ha.storage.volume_group import Group, NoGroup, VolumeGroup
from ovirt_he_ha.storage.volumes import VolumeName

COMMAND = 20.0  # wall seconds for one call of lvm
SEARCH = 10.0  # wall seconds for the descriptions of all volumes: some MiB
AGAIN = 1.0  # wall seconds between two looks for the volume group: devices appear after a login, one by one


@dataclass
class _Made:
    """What this call did, to be undone if it fails."""

    transport: List[str] = field(default_factory=list)
    active: List[str] = field(default_factory=list)
    record: bool = False


class BlockProvider:
    """``owner``: whose the device nodes become, and as whom the domain is looked at; None: this is not root.
    ``by_vdsm``: vdsm has logged in and activates the volumes; that is awaited from it, and nothing is changed.
    ``opening()``: called before the domain's volumes are activated."""

    def __init__(
        self,
        conf: HostedEngineConf,
        paths: HostPaths,
        commands: Commands,
        transport: Transport,
        owner: Optional[Tuple[int, int]],
        accept: bool = False,
        by_vdsm: bool = False,
        opening: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = "vdsm" if by_vdsm else "direct"
        self._by_vdsm = by_vdsm
        self._conf = conf
        self._paths = paths
        self._transport = transport
        self._group = VolumeGroup(conf.sd_uuid, commands)
        self._nodes = DeviceNodes(conf.sd_uuid, paths.root, owner, commands)
        self._owner = owner
        self._known = KnownCopy(paths.storage_identity)
        self._accept = accept
        self._opening = opening

    def connect(self, seconds: float) -> Connected:
        until = time.monotonic() + seconds
        self._check_root()
        made, notes = _Made(), []
        try:
            notes += self._transport.connect(remaining(until), made.transport)
            domain = None if self._accept or made.transport else self._still_there()
            if domain is None:
                group = self._found(until)
                self._checked(group)
                self._activate(group, made, until)
                stores = self._stores(group, made, notes, until)
                notes += self._strays(group, stores)
                domain = self._recorded(group, made, stores)
                self._verify(domain, group, until)
            else:
                self._verify(domain, None, until)
        except BaseException:
            self._undo(made)
            raise
        return Connected(domain, bool(made.transport or made.active), tuple(notes))

    def disconnect(self, seconds: float) -> bool:
        if self._by_vdsm:
            return False
        self._check_root()
        until = time.monotonic() + seconds
        changed = False
        with contextlib.suppress(NoGroup):
            group = self._group.look(min(COMMAND, remaining(until)))
            names = [*self._wanted(), DESCRIPTIONS, *self._recorded_stores()]
            active = [name for name in names if name in group.volumes and group.volumes[name].active]
            if active:
                self._group.deactivate(active, remaining(until))
                changed = True
        self._forget_record()
        return self._transport.disconnect(remaining(until)) or changed

    def make_volume(self, name: VolumeName, size: int, zeroed: int, seconds: float, force: bool = False) -> bool:
        """Make the logical volume (``block_volume.make``), unless the group has one of that name: False. Sessions that
        this needed are ended again. ``force``: although a management application may be writing the group. Raises what
        ``connect`` raises."""
        self._check_root()
        if self._by_vdsm:
            raise ConnectionProblem(
                "in-use",
                f"volume group {self._conf.sd_uuid}",
                "to be changed by vdsm alone, which runs on this host",
                "make the volume in its manager, or stop vdsm if it is not used any more",
            )
        until = time.monotonic() + seconds
        made = _Made()
        try:
            self._transport.connect(remaining(until), made.transport)
            group = self._found(until)
            if name.volume in group.volumes:
                return False
            self._check_group(group)
            if not force:
                self._refuse_managed(group, made, until)
            node = str(self._paths.root / "dev" / self._conf.sd_uuid / name.volume)
            make(
                *(self._group, group, name, size, zeroed, node),
                left=lambda: min(COMMAND, remaining(until)),
                settle=lambda: self._nodes.settle(remaining(until)),
            )
            if made.transport or made.active:  # the domain is not connected: then nothing of it stays active
                made.active.append(name.volume)
            return True
        finally:
            self._undo(made)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _check_root(self) -> None:
        if self._owner is None:
            raise ConnectionProblem(
                "not-root", f"storage domain {self._conf.sd_uuid}", "to be connected by root alone", "run this as root"
            )

    def _wanted(self) -> List[str]:
        """The logical volumes that the hosted engine lives on; nothing else is ever activated."""
        conf = self._conf
        return [
            IDS,
            LEASES,
            conf.metadata_volume_uuid,
            conf.lockspace_volume_uuid,
            conf.conf_volume_uuid,
            conf.vm_disk_vol_id,
        ]

    def _still_there(self) -> Optional[BlockDomain]:
        """As a call before this one left it, since the start of this host: then LVM need not be asked."""
        try:
            record = load_record(self._paths.storage_record, self._conf.sd_uuid)
        except DomainProblem:
            return None
        domain = self._domain(record)
        nodes = [f"{domain.directory}/{name}" for name in (*self._wanted(), *record.stores)]
        return domain if all(os.path.exists(node) for node in nodes) else None

    def _recorded_stores(self) -> List[str]:
        try:
            return sorted(load_record(self._paths.storage_record, self._conf.sd_uuid).stores)
        except DomainProblem:
            return []

    def _domain(self, record: BlockRecord) -> BlockDomain:
        return BlockDomain(record, str(self._paths.root / "dev"))

    def _found(self, until: float) -> Group:
        """Devices come a while after a login; a LUN that was mapped since then only after a scan."""
        scanned = False
        while True:
            self._nodes.settle(remaining(until))
            try:
                return self._group.look(min(COMMAND, remaining(until)))
            except NoGroup:
                if not scanned:
                    self._transport.rescan(remaining(until))
                    scanned = True
                elif time.monotonic() + AGAIN > until or self._transport.complete():
                    raise self._no_group() from None
                else:
                    time.sleep(AGAIN)

    def _no_group(self) -> ConnectionProblem:
        return ConnectionProblem(
            "no-lun",
            self._transport.where,
            f"a LUN with the volume group {self._conf.sd_uuid}",
            "none that this host sees has it: map the LUN to this host on the storage, check sdUUID and storage= in "
            "hosted-engine.conf",
        )

    def _refuse_managed(self, group: Group, made: _Made, until: float) -> None:
        if LEASES not in group.volumes:
            raise ConnectionProblem(
                "no-volume",
                f"{self._conf.sd_uuid}/{LEASES}",
                "the volume of all leases",
                "the group has none: this is no storage domain, or one that is lost as a whole",
            )
        if not group.volumes[LEASES].active:
            made.active.append(LEASES)
            self._group.activate([LEASES], min(COMMAND, remaining(until)))
            self._nodes.settle(remaining(until))
        sector_size, alignment = geometry(group, self._conf.sd_uuid)
        leases = str(self._paths.root / "dev" / self._conf.sd_uuid / LEASES)
        refuse_managed(leases, self._conf.sd_uuid, alignment, sector_size, remaining(until))

    def _checked(self, group: Group) -> None:
        """What would make a connection dangerous or useless, before anything is activated."""
        self._check_group(group)
        name = self._conf.sd_uuid
        missing = [each for each in self._wanted() if each not in group.volumes]
        if missing:
            raise ConnectionProblem(
                "no-volume",
                f"{name}/{missing[0]}",
                "a logical volume of that name",
                f"the group has none ({len(missing)} of {len(self._wanted())} are missing): check the UUIDs in "
                "hosted-engine.conf; one that was lost: hosted-engine --create-volume",
            )

    def _check_group(self, group: Group) -> None:
        name = self._conf.sd_uuid
        if group.duplicates:
            raise ConnectionProblem(
                "another-copy",
                f"volume group {name}",
                "to be on one LUN alone",
                f"{', '.join(group.duplicates)} carries the same as {', '.join(group.devices)}: a clone or a "
                "snapshot is mapped to this host (unmap it), or several paths are seen and multipathd does not run",
            )
        problem = {
            group.exported: ("in-use", "not to be exported", "it was exported with vgexport: by whom, and why?"),
            bool(group.missing): ("no-lun", "all its LUNs", f"{group.missing} of them cannot be seen from this host"),
            not group.writable: ("read-only", "to be writable", "it is set read-only in LVM"),
        }.get(True)
        if problem:
            raise ConnectionProblem(problem[0], f"volume group {name}", problem[1], problem[2])

    def _strays(self, group: Group, stores: Mapping[str, int]) -> List[str]:
        wanted = [*self._wanted(), DESCRIPTIONS, *stores]
        strays = sorted(name for name, each in group.volumes.items() if each.active and name not in wanted)
        if not strays:
            return []
        return [
            f"{len(strays)} other volumes of {self._conf.sd_uuid} are active on this host ({strays[0]}): something "
            "activates whole groups; keep the domain's LUNs out of its reach (devices file, or filter in lvm.conf)"
        ]

    def _activate(self, group: Group, made: _Made, until: float) -> None:
        names = [name for name in self._wanted() if not group.volumes[name].active]
        if self._by_vdsm:
            self._awaited(names)
            return
        self._nodes.write_rule()
        if not names:
            self._nodes.own(self._wanted())
            return
        made.active += names
        self._opening()
        try:
            self._group.activate(names, min(COMMAND, remaining(until)))
        except CommandError as error:
            busy = "busy" in error.said or "in use" in error.said
            raise ConnectionProblem(
                "in-use" if busy else "command",
                f"volume group {self._conf.sd_uuid}",
                "volumes that can be activated",
                "another device mapping has the LUN: look at dmsetup ls --tree" if busy else "look into the kernel log",
                str(error),
            ) from error
        self._nodes.settle(remaining(until))
        self._nodes.own(self._wanted())

    def _awaited(self, names: List[str]) -> None:
        if names:
            raise ConnectionProblem(
                "not-connected",
                f"{self._conf.sd_uuid}/{names[0]}",
                "to be activated by vdsm, which runs on this host",
                f"{len(names)} of {len(self._wanted())} volumes are not: activate this host in its manager, or stop "
                "vdsm if it is not used any more",
            )

    def _recorded(self, group: Group, made: _Made, stores: Mapping[str, int]) -> BlockDomain:
        """What the daemons cannot ask for themselves."""
        conf = self._conf
        sector_size, alignment = geometry(group, conf.sd_uuid)
        slots = {conf.vm_disk_vol_id: lease_slot(group, conf.sd_uuid, conf.vm_disk_vol_id)}
        record = BlockRecord(conf.sd_uuid, sector_size, alignment, slots, stores, description_place(group))
        made.record = not self._paths.storage_record.exists()
        save_record(self._paths.storage_record, record)
        return self._domain(record)

    def _stores(self, group: Group, made: _Made, notes: List[str], until: float) -> Dict[str, int]:
        """The OVF_STORE volumes, active: where the description of each begins. Without them the VM is defined by the
        configuration archive, so a failure is a note."""
        if DESCRIPTIONS not in group.volumes or (self._by_vdsm and not group.volumes[DESCRIPTIONS].active):
            return {}
        before = len(made.active)
        try:
            self._switch_on([DESCRIPTIONS], group, made, until)
            device = str(self._paths.root / "dev" / self._conf.sd_uuid / DESCRIPTIONS)
            with files_as(device, min(SEARCH, remaining(until)), self._owner) as files:
                found = search(files, device, description_offsets(group), description_place(group))
            if self._by_vdsm:
                return {name: place for name, place in found.items() if group.volumes[name].active}
            self._switch_on(sorted(found), group, made, until)
            return found
        except (CommandError, ConnectionProblem, IoFailure, StorageError) as problem:
            if made.active[before:]:
                with contextlib.suppress(CommandError, ConnectionProblem):
                    self._group.deactivate(made.active[before:], COMMAND)
                del made.active[before:]
            notes.append(f"the OVF_STORE volumes of {self._conf.sd_uuid} cannot be used: {problem}")
            return {}

    def _switch_on(self, names: List[str], group: Group, made: _Made, until: float) -> None:
        new = [name for name in names if not group.volumes[name].active]
        if new:
            made.active += new
            self._group.activate(new, min(COMMAND, remaining(until)))
            self._nodes.settle(remaining(until))
        if not self._by_vdsm:
            self._nodes.own(names)

    def _verify(self, domain: BlockDomain, group: Optional[Group], until: float) -> None:
        """``group`` None: it was compared by the call that activated it."""
        try:
            with files_as(domain.ids_path, remaining(until), self._owner) as files:
                looked = BlockDomain(
                    load_record(self._paths.storage_record, domain.sd_uuid), str(self._paths.root / "dev"), files
                )
                looked.verify()
                generation = verify_contents(looked, self._conf, files)
        except StorageOverdue as error:
            raise ConnectionProblem(
                "silent", self._transport.where, "an answer of the LUN in time", "look at its paths", str(error)
            ) from error
        copy: Tuple[Tuple[str, str], ...] = ()
        if group is not None:
            copy = (("UUID of its volume group", group.uuid), *device_identity(self._paths.root, group.devices))
        known = self._known.load() if not copy and not self._accept else None
        if known is not None and known.sd_uuid == domain.sd_uuid:
            copy = known.copy
        self._known.compare(Traits(domain.sd_uuid, copy, self._conf.host_id, generation), self._accept)

    # --- undoing -----------------------------------------------------------------------------------------------------

    def _undo(self, made: _Made) -> None:
        if made.active:
            with contextlib.suppress(CommandError, DomainProblem):
                self._group.deactivate(made.active, COMMAND)
        if made.record or made.active:
            self._forget_record()
        with contextlib.suppress(CommandError, DomainProblem):
            self._transport.undo(made.transport, COMMAND)

    def _forget_record(self) -> None:
        self._nodes.forget_rule()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._paths.storage_record)
