"""--check-storage: what lies in the storage domain, and what of it has to be mended. --create-volume: one volume that
was lost, made anew."""

import json
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

from ovirt_he_ha import __version__
from ovirt_he_ha.cli.deployment import deployed_conf
from ovirt_he_ha.cli.request import Refusal, Request, say
from ovirt_he_ha.cli.waiting import notice
from ovirt_he_ha.client.shared_config import SharedConfig, SharedConfigError
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import lines_of, read_text
from ovirt_he_ha.storage import signature as kinds
from ovirt_he_ha.storage.archive import CAPACITY, ArchiveError, content_size
from ovirt_he_ha.storage.domain_files import FilesOfWorker
from ovirt_he_ha.storage.domain_place import BLOCK_KINDS, domain_of
from ovirt_he_ha.storage.errors import DomainProblem, StorageError
from ovirt_he_ha.storage.inspection import DomainReport, SlotReport, VolumeReport, inspect, is_doubtful
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.volumes import (
    LOCKSPACE_USED,
    MIB,
    OWNER,
    SCANNED,
    DomainVolumes,
    VolumeName,
    VolumeSizes,
    create_volume,
)

# Wall: 10 MiB, on storage that answers. Where it hangs, 0.2 s more go by until its process counts as one that cannot be
# killed, and 0.4 s have gone by for the start of this one: the answer is there within 3.
LOOK_SECONDS = 2.0
TO_MEND = 3  # exit status
_SIZES = VolumeSizes()
_CREATED: Dict[str, Tuple[int, int]] = {  # bytes of a new one, and how many of them are written as zeros
    "metadata": (_SIZES.metadata, SCANNED),
    "lockspace": (_SIZES.lockspace, LOCKSPACE_USED),
    "configuration": (_SIZES.configuration, MIB),
}
_REMEDY = {
    "orphaned": "no host holds this id: hosted-engine --clean-metadata --host-id={id} --force-cleanup, if it is gone",
    "corrupt": "host {id} writes it anew within 10 s; if that host is gone: hosted-engine --clean-metadata "
    "--host-id={id} --force-cleanup",
    "foreign": "a broken copy of another host's: host {id} writes it anew within 10 s; if there is no such host: "
    "hosted-engine --clean-metadata --host-id={id} --force-cleanup",
}
_FLAG = "the maintenance flag cannot be read: hosted-engine --set-maintenance --mode=none (or global) writes it anew"


def check(request: Request) -> int:
    report = _report(deployed_conf(HostPaths.from_env()))
    if request.json:
        say(json.dumps(_as_struct(report)))
    else:
        say("\n".join(_lines(report)))
    return 0 if report.is_whole else TO_MEND


def create(request: Request) -> int:
    """One volume, and never over what is in use."""
    role = request.value("--volume")
    if role not in _CREATED:
        raise Refusal("usage", f"--volume: expected one of {', '.join(_CREATED)}")
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    force = request.has("--force")
    if conf.domain_type in BLOCK_KINDS and not _has_node(conf, paths, role):
        return _create_logical(conf, paths, role, force)
    report = _report(conf)
    if report.findings:
        raise Refusal(report.findings[0].code, report.findings[0].text)
    found = next(each for each in report.volumes if each.role == role)
    _refuse_used(found, report, force)
    members = _copies(paths) if role == "configuration" else {}
    missing = found.size < 0
    size, zeroed = _CREATED[role]
    with notice(f"Writing {found.path}"):
        if missing or role != "configuration":
            _made(found, size if missing else min(found.size, size), zeroed, force)
        if role == "configuration":
            _write_configuration(paths, members, force, found.path if missing else "")
    say(f"{found.path}: made. {_NEXT[role]}")
    return 0


_NEXT = {
    "metadata": "Each host writes its slot within 10 s; a global maintenance has to be set again",
    "lockspace": "It is empty: hosted-engine --reinitialize-lockspace --force writes the lockspace",
    "configuration": "It holds what this host had: look at it with hosted-engine --get-shared-config",
}


def _report(conf: HostedEngineConf) -> DomainReport:
    with _files(conf) as files:
        try:
            return inspect(conf, domain_of(conf, files=files), files)
        except DomainProblem as problem:
            raise Refusal(problem.code, str(problem)) from problem
        except StorageError as error:
            raise Refusal("storage-" + error.code, str(error)) from error


@contextmanager
def _files(conf: HostedEngineConf) -> Iterator[FilesOfWorker]:
    clock = SystemClock(1.0)
    try:
        worker = IoWorker(domain_of(conf).directory, clock=clock)
    except DomainProblem as problem:
        raise Refusal(problem.code, str(problem)) from problem
    try:
        yield FilesOfWorker(worker, clock, LOOK_SECONDS)
    finally:
        worker.close(0.2)


# --- creating ---------------------------------------------------------------------------------------------------------


def _refuse_used(found: VolumeReport, report: DomainReport, force: bool) -> None:
    """What even --force does not overwrite, and what only --force does."""
    unread = [each for each in found.findings if each.code not in ("owner", "content", "no-lock", "too-small")]
    if found.size >= 0 and unread and not found.holds:
        raise Refusal(unread[0].code, unread[0].text)
    readable = [str(each.host_id) for each in report.slots if each.state in ("published", "stopped", "orphaned")]
    if found.role == "metadata" and readable:
        raise Refusal(
            "in-use",
            f"{found.path}: the slots of hosts {', '.join(readable)} can be read: single ones are blanked by "
            "hosted-engine --clean-metadata",
        )
    if found.role == "lockspace" and found.holds.split(" ")[0] == kinds.LOCKSPACE:
        raise Refusal(
            "in-use", f"{found.path}: it holds {found.holds}, which hosted-engine --reinitialize-lockspace writes anew"
        )
    if not force and found.holds not in ("", kinds.ZEROS):
        raise Refusal("in-use", f"{found.path}: it holds {found.holds}: --force overwrites that")


def _made(found: VolumeReport, size: int, zeroed: int, force: bool) -> None:
    try:
        directory = os.path.dirname(found.path)
        if not (os.path.isdir(directory) or directory.startswith("/dev/")):
            os.mkdir(directory, 0o755)
            if os.geteuid() == 0:
                os.chown(directory, *OWNER)
        create_volume(found.path, size, OWNER if os.geteuid() == 0 else None, force, zeroed)
    except DomainProblem as problem:
        raise Refusal(problem.code, str(problem)) from problem
    except OSError as error:
        raise Refusal("io", f"{directory}: {error.strerror}: nothing was made") from error


def _has_node(conf: HostedEngineConf, paths: HostPaths, role: str) -> bool:
    name: VolumeName = getattr(DomainVolumes.of(conf), role)
    return os.path.exists(paths.root / "dev" / conf.sd_uuid / name.volume)


def _create_logical(conf: HostedEngineConf, paths: HostPaths, role: str, force: bool) -> int:
    """A volume of a group, which the group has lost, or which is not active because the domain is not connected."""
    from ovirt_he_ha.cli.storage import CONNECT_SECONDS, told
    from ovirt_he_ha.storage import connection

    members = _copies(paths) if role == "configuration" else {}
    name: VolumeName = getattr(DomainVolumes.of(conf), role)
    where = f"{conf.sd_uuid}/{name.volume}"
    with told("making the volume"), notice(f"Making {where}"):
        made = connection.make_volume(conf, paths, name, *_CREATED[role], CONNECT_SECONDS, force)
    if not made:
        raise Refusal(
            "not-connected", f"{where} is there, and not active: hosted-engine --connect-storage, then repeat this"
        )
    try:
        with told("connecting"), notice("Connecting the storage"):
            connection.connect(conf, paths, CONNECT_SECONDS)
    except Refusal as refusal:
        raise Refusal(
            refusal.code, f"{where} was made and is empty, but the domain is not connected: {refusal}"
        ) from refusal
    if role == "configuration":
        _write_configuration(paths, members, force, "")
    say(f"{where}: made. {_NEXT[role]}")
    return 0


def _write_configuration(paths: HostPaths, members: Dict[str, bytes], force: bool, made: str) -> None:
    """``made``: the volume, if it is a new one, which does not stay without its content."""
    try:
        SharedConfig(paths).write_all(members, force)
    except (SharedConfigError, ArchiveError) as error:
        if made and error.code != "late-write":
            os.unlink(made)
        raise Refusal(str(error.code), str(error)) from error


def _copies(paths: HostPaths) -> Dict[str, bytes]:
    """The archive's members as far as this host has them. Raises Refusal, ConfigError."""
    own = [line for line in lines_of(read_text(paths.hosted_engine_conf)) if line.split("=")[0].strip() != "host_id"]
    broker = read_text(paths.broker_conf) if paths.broker_conf.exists() else _BROKER
    vm_conf = next((path for path in (paths.vm_conf, paths.vm_conf_fallback) if path.exists()), None)
    if vm_conf is None:
        raise Refusal("no-copy", f"{paths.vm_conf}: this host has no copy of the VM's definition: use another host")
    definition = [line for line in read_text(vm_conf).splitlines() if line and not line.startswith("#")]
    members = {
        "version": __version__.encode(),
        "fhanswers.conf": b"[environment:default]\n",
        "hosted-engine.conf": _text(own),
        "broker.conf": broker.encode(),
        "vm.conf": _text(definition),
    }
    if content_size(members) > CAPACITY:
        # The VM's XML may be larger than the archive. It came from an OVF_STORE then, and is found there again.
        members["vm.conf"] = _text([line for line in definition if not line.startswith("xmlBase64=")])
    return members


_BROKER = """[email]
smtp-server=localhost
smtp-port=25
source-email=root@localhost
destination-emails=root@localhost
[notify]
state_transition=maintenance|start|stop|migrate|up|down
"""


def _text(lines: List[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


# --- showing ----------------------------------------------------------------------------------------------------------


def _lines(report: DomainReport) -> List[str]:
    lines = [f"Storage domain {report.directory}"]
    if report.sector_size:
        lines[0] += f", sectors of {report.sector_size} bytes"
    for each in report.volumes:
        size = "missing" if each.size < 0 else f"{each.size / MIB:.0f} MiB"
        lines.append(f"  {each.role:<14}{size:>10}  {each.holds or '-'}")
    shown = [f"{each.host_id} {each.state}" + (f" ({each.hostname})" if each.hostname else "") for each in report.slots]
    if report.volumes:
        lines.append(f"  slots of hosts: {', '.join(shown) or 'none'}")
    problems = [each.text for each in report.findings]
    problems += [each.text for volume in report.volumes for each in volume.findings]
    problems += [_told(each) for each in report.slots if is_doubtful(each)]
    if not problems:
        return [*lines, "All is as it should be."]
    return [*lines, "To be mended:", *(f"  {each}" for each in problems)]


def _told(found: SlotReport) -> str:
    if found.host_id == 0:
        return f"slot 0: {found.detail}: {_FLAG}"
    detail = f" ({found.detail})" if found.detail else ""
    return f"slot {found.host_id} is {found.state}{detail}: {_REMEDY[found.state].format(id=found.host_id)}"


def _as_struct(report: DomainReport) -> Dict[str, Any]:
    return {
        "directory": report.directory,
        "sector-size": report.sector_size,
        "whole": report.is_whole,
        "problems": [each._asdict() for each in report.findings],
        "volumes": {
            each.role: {
                "path": each.path,
                "size": each.size if each.size >= 0 else None,
                "holds": each.holds,
                "problems": [one._asdict() for one in each.findings],
            }
            for each in report.volumes
        },
        "slots": {
            str(each.host_id): {"state": each.state, "hostname": each.hostname, "detail": each.detail}
            for each in report.slots
        },
    }
