"""What can be wrong with storage, each with a code, a sentence, and what to do."""

import os
from typing import Dict, Tuple

# code -> (what is wrong, what to do)
STORAGE_CODES: Dict[str, Tuple[str, str]] = {
    "missing": ("the volume is not there", "check that the storage domain is connected and the UUIDs are right"),
    "no-access": ("access is denied", "it must belong to user and group 36:36 (vdsm:kvm)"),
    "read-only": ("the storage is read-only", "look for file system or path errors in the kernel log"),
    "not-a-volume": ("this is neither a file nor a block device", "check the UUIDs"),
    "sector-size": (
        "the storage refuses direct I/O of this size",
        "compare the domain's sector size with the device's",
    ),
    "no-direct-io": ("the file system knows no direct I/O", "use one that does: sanlock needs it too"),
    "too-small": ("the volume ends too early", "compare its size with the one it was deployed with"),
    "full": ("no space left", "the volume is sparse: free space on the storage"),
    "stale": ("the file handle is stale", "the export was changed: connect the storage again"),
    "short-write": ("only a part was written, three times", "look for errors of the storage in the kernel log"),
    "short-read": ("less than a sector was read", "look for errors of the storage in the kernel log"),
    "not-a-file": ("this is not a file", "check the UUIDs and what is mounted"),
    "too-large": ("the file is larger than it can be", "check the UUIDs and what is mounted"),
    "old-data": (
        "it shows an older record of this host than the one that was written",
        "an old copy is served (a snapshot, a cache, a mirror that fell behind): repair the storage; until then "
        "nothing of it is believed",
    ),
    "metadata": ("this is another storage domain, or a damaged one", "check sdUUID and what is mounted there"),
    "io": ("the storage answers with an error", "look for errors of the storage in the kernel log"),
    "request": ("offset or length is not a multiple of 4096", "this is a defect of ours: please report it"),
    "worker-died": ("the I/O process ended by itself", "nothing: the next access starts another; see the kernel log"),
    "overdue": ("no answer in time", "check the path to the storage; the I/O process was replaced"),
    "not-stored": (
        "what was read back is not what was written",
        "look whether another host uses this host id, and for errors of the storage in the kernel log",
    ),
    "late-write": (
        "it is written, but an earlier write that was given up may still arrive and undo it",
        "restore the path to the storage, then write it again",
    ),
    "stuck": (
        "two I/O processes hang in the kernel and cannot be killed",
        "restore the path to the storage; only then they end, otherwise the host must be restarted",
    ),
    "closed": ("the volume was closed", "nothing: the daemon is stopping"),
}


class StorageError(Exception):
    """An access failed. ``code`` is a key of STORAGE_CODES, ``error`` an errno or 0."""

    msg = "{path}: {what}{detail}; {todo}"

    def __init__(self, code: str, path: str, error: int = 0, detail: str = "") -> None:
        super().__init__(code, path, error, detail)
        self.code = code
        self.path = path
        self.error = error
        self.detail = detail

    def __str__(self) -> str:
        what, todo = STORAGE_CODES.get(self.code, (self.code, "see the kernel log"))
        details = [self.detail] if self.detail else []
        if self.error:
            details.append(os.strerror(self.error))
        detail = f" ({', '.join(details)})" if details else ""
        return self.msg.format(path=self.path, what=what, detail=detail, todo=todo)


class StorageOverdue(StorageError):
    """No answer by the deadline: ``overdue``, or ``stuck`` when not even a new try is possible."""


class DomainProblem(Exception):
    """Something in the storage domain is not as it must be. ``object`` is a path; ``code`` is ``missing``,
    ``not-a-volume``, ``too-small``, ``no-access``, ``read-only``, ``sector-size``, ``no-direct-io``, ``in-use``,
    ``full``, ``metadata``, ``path``, ``short-read`` or ``io``; of a connection also those of ConnectionProblem."""

    msg = "{object}: {code}, expected {expected}; {what_to_do}"

    def __init__(self, code: str, object: str, expected: str, what_to_do: str) -> None:
        super().__init__(code, object, expected, what_to_do)
        self.code = code
        self.object = object
        self.expected = expected
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return self.msg.format(object=self.object, code=self.code, expected=self.expected, what_to_do=self.what_to_do)


class ConnectionProblem(DomainProblem):
    """The domain could not be connected. ``object``: the export, target, device or mount point; ``said``: what the
    system's own tool said, shortened. Codes beside those of DomainProblem: ``not-root``, ``no-helper`` (a program of
    the distribution is missing), ``no-server``, ``no-export``, ``no-domain`` (the export has none of that sdUUID),
    ``nfs-version``, ``options``, ``occupied`` (something else is mounted there), ``duplicate`` (the same is mounted
    elsewhere too), ``busy``, ``stale``, ``silent`` (no answer in time), ``another-copy``, ``older-copy``, ``lease``,
    ``lockspace``, ``not-connected``, ``no-target``, ``authentication``, ``no-lun``, ``no-volume``, ``command`` (it said
    something that we do not know)."""

    def __init__(self, code: str, object: str, expected: str, what_to_do: str, said: str = "") -> None:
        super().__init__(code, object, expected, what_to_do)
        self.said = said

    def __str__(self) -> str:
        return super().__str__() + (f" [{self.said}]" if self.said else "")
