"""The direct provider of file domains: mounted by us (NFS, GlusterFS, POSIX), or a directory that is there already."""

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Callable, Iterator, List, Optional, Tuple

from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.storage.command import CommandError, Commands
from ovirt_he_ha.storage.domain_files import FilesOfWorker
from ovirt_he_ha.storage.errors import ConnectionProblem, DomainProblem, StorageError, StorageOverdue
from ovirt_he_ha.storage.identity import KnownCopy, Traits, verify_contents
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.io_worker import IoWorker
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.mount_errors import mount_problem
from ovirt_he_ha.storage.mount_kinds import mount_plan, same_source
from ovirt_he_ha.storage.mount_table import Mount, mounted_at, mounts
from ovirt_he_ha.storage.provider import Connected
from ovirt_he_ha.storage.volumes import OWNER

UMOUNT_SECONDS = 20.0  # wall: for undoing a mount, also after the caller's time is over
_REST = 1.0  # wall seconds that are kept for a command's end


def remaining(until: float) -> float:
    return max(_REST, until - time.monotonic())


def daemons_user() -> Optional[Tuple[int, int]]:
    """Whose eyes count: the daemons', not root's, whom an export may take for nobody."""
    return OWNER if os.geteuid() == 0 else None


@contextlib.contextmanager
def files_as(path: str, seconds: float, owner: Optional[Tuple[int, int]]) -> Iterator[FilesOfWorker]:
    """Looks that all end within ``seconds`` (wall), by a process that works as ``owner``."""
    clock = SystemClock(1.0)
    worker = IoWorker(path, clock=clock, owner=owner)
    try:
        yield FilesOfWorker(worker, clock, seconds)
    finally:
        worker.close(1.0)  # before anything is unmounted: it may have the mount open


class Verifier:
    """Is the domain that lies there the one of ``conf``, and the copy that this host knows?"""

    def __init__(
        self,
        conf: HostedEngineConf,
        paths: HostPaths,
        accept: bool = False,
        owner: Optional[Tuple[int, int]] = None,
        remember: bool = True,
    ) -> None:
        self._conf = conf
        self._known = KnownCopy(paths.storage_identity)
        self._accept = accept
        self._owner = owner
        self._remember = remember

    def verify(self, storage: str, seconds: float) -> None:
        """``storage``: the directory that holds the domain's. Raises DomainProblem, StorageError, ConfigError,
        OSError."""
        with files_as(storage, seconds, self._owner) as files:
            domain = LocalDomain(storage, self._conf.sd_uuid, files)
            _reachable(storage, files)
            domain.verify()
            generation = verify_contents(domain, self._conf, files)
            number = str(_number(files, domain.ids_path))
        if self._remember:
            copy = (("file number of dom_md/ids", number),)
            self._known.compare(Traits(self._conf.sd_uuid, copy, self._conf.host_id, generation), self._accept)


def _reachable(storage: str, files: FilesOfWorker) -> None:
    """Raises ConnectionProblem ``stale``, ``no-access`` or ``missing``: before the domain's own checks, which cannot
    tell an export that changed from a domain that is not there."""
    try:
        files.names(storage)
    except IoFailure as failure:
        what_to_do = {
            "stale": "the export was changed on the server: connect the storage again",
            "no-access": "give it to user and group 36:36 (vdsm:kvm) on the server, with mode 0755",
        }.get(failure.code, f"{os.strerror(failure.error)}: look into the kernel log and at the server")
        raise ConnectionProblem(failure.code, storage, "a directory that 36:36 can read", what_to_do) from failure


def _number(files: FilesOfWorker, path: str) -> int:
    try:
        return files.number(path)
    except IoFailure as failure:
        raise StorageError(failure.code, path, failure.error) from failure


class DirectoryProvider:
    """domainType=local: the directory is the administrator's; there is nothing to connect."""

    name = "direct"

    def __init__(self, conf: HostedEngineConf, verifier: Verifier) -> None:
        self._conf = conf
        self._verifier = verifier

    def connect(self, seconds: float) -> Connected:
        self._verifier.verify(self._conf.storage, seconds)
        return Connected(LocalDomain(self._conf.storage, self._conf.sd_uuid), changed=False)

    def disconnect(self, _seconds: float) -> bool:
        return False


@dataclass
class _Made:
    """What this call did, to be undone if it fails."""

    directories: List[str]
    mounted: bool = False


class MountProvider:
    """NFS, GlusterFS and POSIX file systems."""

    name = "direct"

    def __init__(
        self,
        conf: HostedEngineConf,
        paths: HostPaths,
        commands: Commands,
        verifier: Verifier,
        is_root: Callable[[], bool] = lambda: os.geteuid() == 0,
        opening: Callable[[], None] = lambda: None,
    ) -> None:
        """``opening()``: called before something is mounted."""
        self._plan = mount_plan(conf, paths)
        self._sd_uuid = conf.sd_uuid
        self._paths = paths
        self._commands = commands
        self._verifier = verifier
        self._is_root = is_root
        self._opening = opening

    def connect(self, seconds: float) -> Connected:
        until = time.monotonic() + seconds
        made = _Made([])
        self._check_duplicate()
        present = self._present()
        try:
            if present is None:
                self._mount(made, until)
            self._verify(made, until)
        except BaseException:
            self._undo(made)
            raise
        return Connected(LocalDomain(self._plan.target, self._sd_uuid), made.mounted)

    def disconnect(self, seconds: float) -> bool:
        if self._present() is None:
            return False
        self._check_root()
        self._umount(seconds)
        _remove([self._plan.target])
        return True

    def _verify(self, made: _Made, until: float) -> None:
        try:
            self._look(until)
        except ConnectionProblem as problem:
            if problem.code != "stale" or made.mounted:
                raise
            # The handle of an export that was made anew, from before: mounted again, the server gives a new one. Only
            # if nothing uses it: a VM on the old one must not find a second mount beside it.
            self._check_root()
            self._umount(remaining(until))
            self._mount(made, until)
            self._look(until)

    def _look(self, until: float) -> None:
        try:
            self._verifier.verify(self._plan.target, remaining(until))
        except StorageOverdue as error:
            raise ConnectionProblem(
                "silent",
                self._plan.source,
                "an answer of the mounted file system in time",
                f"look whether the server runs and is reached; it stays mounted at {self._plan.target}",
                str(error),
            ) from error
        except DomainProblem as problem:
            if problem.code != "missing" or isinstance(problem, ConnectionProblem):
                raise
            raise ConnectionProblem(
                "no-domain",
                self._plan.source,
                f"the storage domain {self._sd_uuid}",
                "it is not in this export: check storage= and sdUUID= in hosted-engine.conf",
                str(problem),
            ) from problem

    def _present(self) -> Optional[Mount]:
        found = mounted_at(self._paths.mount_table, self._plan.target)
        if found is None:
            return None
        if same_source(found.source, self._plan.source) and self._plan.is_of(found.kind):
            return found
        raise ConnectionProblem(
            "occupied",
            self._plan.target,
            f"{self._plan.source} ({self._plan.type}), or nothing",
            f"{found.source} ({found.kind}) is mounted there: unmount it",
        )

    def _check_duplicate(self) -> None:
        """The same export under a second name below the mount root: tools that search the domain there would find
        either."""
        root = f"{self._paths.mount_root}/"
        for mount in mounts(self._paths.mount_table):
            below = mount.target.startswith(root)
            same = below and mount.target != self._plan.target and same_source(mount.source, self._plan.source)
            if same and self._plan.is_of(mount.kind):
                raise ConnectionProblem(
                    "duplicate",
                    self._plan.source,
                    f"to be mounted at {self._plan.target} alone",
                    f"it is mounted at {mount.target} too (as {mount.source}): unmount that, and write storage= as "
                    f"{self._plan.source} on every host",
                )

    def _check_root(self) -> None:
        if not self._is_root():
            raise ConnectionProblem("not-root", self._plan.source, "to be mounted by root alone", "run this as root")

    def _mount(self, made: _Made, until: float) -> None:
        self._check_root()
        plan = self._plan
        made.directories += _make(plan.target)
        argv = ["mount", "-t", plan.type, "-o", plan.options, "--", plan.source, plan.target]
        self._opening()
        try:
            self._commands.run(argv, remaining(until) - _REST / 2)
        except CommandError as error:
            # Overdue: it may have mounted in its last moment.
            made.mounted = mounted_at(self._paths.mount_table, plan.target) is not None
            raise mount_problem(plan, error) from error
        made.mounted = mounted_at(self._paths.mount_table, plan.target) is not None
        if self._present() is None:
            raise ConnectionProblem(
                "command", plan.source, "to be mounted", f"mount said so, and nothing is mounted at {plan.target}"
            )

    def _umount(self, seconds: float) -> None:
        """Never by force and never lazily: a VM that still writes there would go on doing so, unseen."""
        try:
            self._commands.run(["umount", "--", self._plan.target], max(seconds, 2.0))
        except CommandError as error:
            raise mount_problem(self._plan, error) from error

    def _undo(self, made: _Made) -> None:
        if made.mounted:
            with contextlib.suppress(ConnectionProblem):
                self._umount(UMOUNT_SECONDS)
        if mounted_at(self._paths.mount_table, self._plan.target) is None:
            _remove(made.directories)


def _make(directory: str) -> List[str]:
    """Those that were made, the deepest first. Raises OSError."""
    missing: List[str] = []
    while not os.path.lexists(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for each in reversed(missing):
        os.mkdir(each, 0o755)
        os.chmod(each, 0o755)  # noqa: S103 - whatever the umask: the daemons, of another user, go through it
    return missing


def _remove(directories: List[str]) -> None:
    for each in directories:
        with contextlib.suppress(OSError):  # not empty, or gone: then it is not ours any more
            os.rmdir(each)
