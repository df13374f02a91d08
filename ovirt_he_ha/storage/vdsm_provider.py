"""The provider where vdsm runs: the domain is there already, or will be when vdsm has connected it. Found, verified,
and left alone."""

import os
import time
from pathlib import Path
from typing import List

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.storage.errors import ConnectionProblem, StorageError
from ovirt_he_ha.storage.file_provider import Verifier, daemons_user, files_as, remaining
from ovirt_he_ha.storage.io_process import IoFailure
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.mount_table import mounts
from ovirt_he_ha.storage.provider import Connected

_PROGRAM = b"vdsmd"
_LOOK = 5.0  # wall seconds for one mount: one that hangs does not keep us from the others for ever


def vdsm_runs(proc: Path) -> bool:
    """By its process, not by its files: those stay when it stops. 5 ms with 300 processes."""
    for entry in _entries(proc):
        if entry.isdigit():
            try:
                words = (proc / entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended in this moment
            if any(os.path.basename(word) == _PROGRAM for word in words[:3]):
                return True
    return False


def _entries(proc: Path) -> List[str]:
    try:
        return os.listdir(proc)
    except OSError:
        return []


class VdsmProvider:
    """For file domains. ``connect`` waits for nothing: vdsm connects when its manager tells it to."""

    name = "vdsm"

    def __init__(self, conf: HostedEngineConf, paths: HostPaths, verifier: Verifier) -> None:
        self._conf = conf
        self._paths = paths
        self._verifier = verifier

    def connect(self, seconds: float) -> Connected:
        until = time.monotonic() + seconds
        storage = self._found(until)
        self._verifier.verify(storage, remaining(until))
        return Connected(LocalDomain(storage, self._conf.sd_uuid), changed=False)

    def disconnect(self, _seconds: float) -> bool:
        return False

    def _found(self, until: float) -> str:
        """The mount that holds the domain. The kernel names the mounts without touching them; only those below the
        mount root are looked into."""
        root, silent = self._paths.mount_root, []
        for mount in mounts(self._paths.mount_table):
            if not Path(mount.target).is_relative_to(root):
                continue
            try:
                with files_as(mount.target, min(_LOOK, remaining(until)), daemons_user()) as files:
                    if self._conf.sd_uuid in files.names(mount.target):
                        return mount.target
            except (IoFailure, StorageError) as problem:
                silent.append(f"{mount.target} ({problem.code})")
        looked = f"; these could not be looked into: {', '.join(silent)}" if silent else ""
        raise ConnectionProblem(
            "not-connected",
            f"storage domain {self._conf.sd_uuid}",
            f"to be mounted below {root} by vdsm, which runs on this host",
            f"activate this host in its manager, or stop vdsm if it is not used any more{looked}",
        )
