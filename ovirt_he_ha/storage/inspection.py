"""A storage domain explained: each volume of the hosted engine, what it should be, what it is, and what to do. Nothing
is changed, and nothing is asked of sanlock or of another host: this is what lies on the storage."""

import struct
from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, MAX_HOST_ID, SLOT_SIZE, Invalid, Record
from ovirt_he_ha.storage import signature as kinds
from ovirt_he_ha.storage.archive import AREA, SIZE, ArchiveError, parse_archive
from ovirt_he_ha.storage.archive_journal import whole
from ovirt_he_ha.storage.domain_files import VolumeFiles
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.io_process import IoFailure, VolumeLook
from ovirt_he_ha.storage.provider import Domain
from ovirt_he_ha.storage.signature import EXAMINED, Signature, signature
from ovirt_he_ha.storage.volumes import (
    LOCKSPACE_USED,
    MIB,
    OWNER,
    SCANNED,
    DomainVolumes,
    VolumeName,
    check_volume,
)

LOCKSPACE = "hosted-engine"
_HOST = struct.Struct("<IIIIQQQQQ48s48sQ")  # a host's place in a lockspace; the last member: 0 when nobody holds it
_DELTA = 0x12212010
# What a disk of a VM cannot begin with: another volume of ours in its place, or a format that is not raw.
_NO_DISK = (
    *(kinds.LOCKSPACE, kinds.RESOURCE, kinds.SLOTS, kinds.ARCHIVE, kinds.OVF_STORE),
    *("qcow2", "vmdk", "vhd", "vhdx"),
)


class Finding(NamedTuple):
    code: str
    text: str


@dataclass(frozen=True)
class VolumeReport:
    """``size`` in bytes, -1 if it could not be looked at; ``holds``: its signature."""

    role: str
    path: str
    size: int = -1
    holds: str = ""
    findings: Tuple[Finding, ...] = ()


@dataclass(frozen=True)
class SlotReport:
    """A slot that is in use. ``state``: ``published``, ``stopped``, ``orphaned`` (nobody holds the host's id),
    ``corrupt`` (``detail``: why it cannot be read) or ``foreign`` (it holds the record of another host)."""

    host_id: int
    state: str
    hostname: str = ""
    detail: str = ""


@dataclass(frozen=True)
class DomainReport:
    directory: str
    sector_size: int
    findings: Tuple[Finding, ...]
    volumes: Tuple[VolumeReport, ...]
    slots: Tuple[SlotReport, ...]

    @property
    def is_whole(self) -> bool:
        return not (self.findings or any(each.findings for each in self.volumes) or any(map(is_doubtful, self.slots)))


def is_doubtful(found: SlotReport) -> bool:
    return found.state not in ("published", "stopped")


def inspect(conf: HostedEngineConf, domain: Domain, files: VolumeFiles) -> DomainReport:
    """Raises StorageError where the storage hangs; everything that it answers is a finding."""
    problem = _problem(domain)
    if problem is not None:
        return DomainReport(domain.directory, 0, (problem,), (), ())
    sector_size, alignment = domain.sector_size(), domain.alignment()
    look = _Look(domain, files, sector_size)
    names = DomainVolumes.of(conf)
    lockspace = domain.volume_path(names.lockspace.image, names.lockspace.volume)
    metadata = domain.volume_path(names.metadata.image, names.metadata.volume)
    configuration = domain.volume_path(names.configuration.image, names.configuration.volume)
    volumes = [
        look.lockspace("ids", domain.ids_path, conf.sd_uuid, alignment),
        look.lockspace("lockspace", lockspace, LOCKSPACE, MIB),
        look.metadata(metadata),
        look.configuration(configuration),
        look.disk(domain.volume_path(names.disk.image, names.disk.volume)),
        look.lease(names.disk, alignment),
    ]
    slots = look.slots(metadata, look.held_ids(lockspace))
    return DomainReport(domain.directory, sector_size, (), tuple(volumes), tuple(slots))


def _problem(domain: Domain) -> Optional[Finding]:
    try:
        domain.verify()
        domain.sector_size()
    except DomainProblem as problem:
        return Finding(problem.code, str(problem))
    return None


class _Look:
    def __init__(self, domain: Domain, files: VolumeFiles, sector_size: int) -> None:
        self._domain = domain
        self._files = files
        self._sector_size = sector_size

    # --- one of them ------------------------------------------------------------------------------------------------

    def lockspace(self, role: str, path: str, name: str, least: int) -> VolumeReport:
        report, holds, findings = self._begin(role, path, least)
        if holds is not None and holds != Signature(kinds.LOCKSPACE, name):
            remedy = (
                "hosted-engine --reinitialize-lockspace, with every host stopped"
                if role == "lockspace"
                else ("the domain's own lockspace is written with every host stopped")
            )
            findings.append(_content(path, f"the lockspace {name}", holds, remedy))
        if role == "lockspace" and 0 <= report.size < LOCKSPACE_USED:
            findings.append(
                Finding(
                    "no-lock",
                    f"{path}: {report.size} bytes: no room for the lock of the configuration, expected "
                    f"at least {LOCKSPACE_USED}; shared settings cannot be changed",
                )
            )
        return _done(report, holds, findings)

    def metadata(self, path: str) -> VolumeReport:
        report, holds, findings = self._begin("metadata", path, SCANNED)
        if holds is not None and holds.kind not in (kinds.SLOTS, kinds.ZEROS, kinds.UNKNOWN):
            remedy = "check metadata_volume_UUID; hosted-engine --create-volume --volume=metadata --force zeroes it"
            findings.append(_content(path, "slots", holds, remedy))
        return _done(report, holds, findings)

    def configuration(self, path: str) -> VolumeReport:
        report, holds, findings = self._begin("configuration", path, SIZE)
        if holds is not None:
            try:
                parse_archive(whole(self._files.read(path, 0, AREA if report.size >= AREA else SIZE)))
            except ArchiveError as error:
                findings.append(
                    Finding(
                        error.code,
                        f"{path}: {error.detail}; hosted-engine --restore-shared-config puts the copy "
                        "back, hosted-engine --create-volume --volume=configuration writes it from this host's",
                    )
                )
            except IoFailure as failure:
                findings.append(Finding(failure.code, str(StorageError(failure.code, path, failure.error))))
        return _done(report, holds, findings)

    def disk(self, path: str) -> VolumeReport:
        report, holds, findings = self._begin("disk", path, SLOT_SIZE)
        if holds is not None and holds.kind in _NO_DISK:
            remedy = "the VM is not started from it: check vm_disk_id and vm_disk_vol_id"
            findings.append(_content(path, "a raw disk", holds, remedy))
        return _done(report, holds, findings)

    def lease(self, disk: VolumeName, alignment: int) -> VolumeReport:
        try:
            lease = self._domain.lease(disk.image, disk.volume)
        except DomainProblem as problem:
            return VolumeReport("lease", problem.object, findings=(Finding(problem.code, str(problem)),))
        report, holds, findings = self._begin("lease", lease.path, lease.offset + alignment, lease.offset)
        wanted = Signature(kinds.RESOURCE, f"{lease.lockspace}:{lease.key}")
        if holds is not None and holds != wanted:
            remedy = "no host starts the VM without it: write it with every host stopped"
            findings.append(_content(lease.path, str(wanted), holds, remedy))
        return _done(report, holds, findings)

    def _begin(
        self, role: str, path: str, least: int, offset: int = 0
    ) -> Tuple[VolumeReport, Optional[Signature], List[Finding]]:
        """What it holds is None if it could not be read."""
        findings: List[Finding] = []
        try:
            found = self._files.look(path)
        except IoFailure as failure:
            return VolumeReport(role, path), None, [_failed(path, failure)]
        try:
            check_volume(path, least, self._sector_size, look=lambda _path: found)
        except DomainProblem as problem:
            findings.append(Finding(problem.code, str(problem)))
        if not found.is_device:  # a device's owner is set by udev at each boot
            findings += _owned(path, found)
        report = VolumeReport(role, path, found.size)
        try:
            count = min(EXAMINED, found.size - offset) // SLOT_SIZE * SLOT_SIZE
            return report, signature(self._files.read(path, offset, count)) if count > 0 else None, findings
        except IoFailure as failure:
            return report, None, [*findings, _failed(path, failure)]

    # --- slots ------------------------------------------------------------------------------------------------------

    def held_ids(self, path: str) -> Optional[Dict[int, bool]]:
        """Whether somebody holds each id that the lockspace has; None if it cannot be read. Who holds one may be dead:
        that is not to be seen at one look."""
        try:
            data = self._files.read(path, 0, MIB)
        except IoFailure:
            return None
        if signature(data[:SLOT_SIZE]) != Signature(kinds.LOCKSPACE, LOCKSPACE):
            return None
        found: Dict[int, bool] = {}
        for host_id in range(1, MIB // self._sector_size + 1):
            magic, *_, timestamp = _HOST.unpack_from(data, (host_id - 1) * self._sector_size)
            if magic == _DELTA and host_id <= MAX_HOST_ID:
                found[host_id] = bool(timestamp)
        return found

    def slots(self, path: str, held: Optional[Dict[int, bool]]) -> List[SlotReport]:
        data = bytearray()
        try:
            for at in range(0, SCANNED, MIB):
                data += self._files.read(path, at, min(MIB, SCANNED - at))
        except IoFailure:
            pass  # said with the volume; what was read before is shown
        found: List[SlotReport] = []
        for host_id in range(len(data) // SLOT_SIZE):
            begin = host_id * SLOT_SIZE
            if data[begin]:
                found += _slot(host_id, bytes(data[begin : begin + SLOT_SIZE]), held)
        return found


def _slot(host_id: int, data: bytes, held: Optional[Dict[int, bool]]) -> List[SlotReport]:
    if host_id == GLOBAL_SLOT:
        flag = slot.decode_global(data)
        return [] if flag.known else [SlotReport(host_id, "corrupt", detail=flag.unknown)]
    content = slot.decode(host_id, data)
    if isinstance(content, Invalid):
        state = "foreign" if content.reason == "foreign-id" else "corrupt"
        return [SlotReport(host_id, state, detail=f"{content.reason} {content.detail}".rstrip())]
    if not isinstance(content, Record):
        return []
    if content.stopped:
        return [SlotReport(host_id, "stopped", content.hostname)]
    orphaned = held is not None and not held.get(host_id, False)
    return [SlotReport(host_id, "orphaned" if orphaned else "published", content.hostname)]


# --- texts ------------------------------------------------------------------------------------------------------------


def _owned(path: str, found: VolumeLook) -> List[Finding]:
    if found.owner in (OWNER, (-1, -1)):
        return []
    user, group = found.owner
    return [Finding("owner", f"{path}: it belongs to {user}:{group}, expected 36:36 (vdsm:kvm): chown 36:36 {path}")]


def _content(path: str, expected: str, found: Signature, remedy: str) -> Finding:
    return Finding("content", f"{path}: expected {expected}, found {found}; {remedy}")


def _failed(path: str, failure: IoFailure) -> Finding:
    return Finding(failure.code, str(StorageError(failure.code, path, failure.error)))


def _done(report: VolumeReport, holds: Optional[Signature], findings: List[Finding]) -> VolumeReport:
    return VolumeReport(report.role, report.path, report.size, str(holds or ""), tuple(findings))
