"""sanlock's Python binding: loaded when it is needed, typed, and its errors sorted.

libsanlock reads SANLOCK_RUN_DIR once per process: one process talks to one daemon for its whole life.
"""

import errno
import importlib
from typing import Any, Dict, List, Optional, Protocol, Sequence, Tuple, Type, cast

Disks = Sequence[Tuple[str, int]]

HOSTID_BUSY = -262  # another host renews our id: sanlock says so after having watched it for 140 s (io_timeout 10)
HOSTID_LOCKED = -263
NO_LEASE = -223  # nothing was ever written where the lockspace should be

# What a call answers when nobody is at the socket, or we may not connect. ENOENT also means "unknown lockspace" in
# some calls; get_lockspaces has no such case, so that is the call to ask with.
UNREACHABLE = (
    errno.ENOENT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EPIPE,
    errno.ENOTCONN,
    errno.EACCES,
    errno.EPERM,
)


class SanlockMissing(Exception):
    msg = "Python module sanlock is missing: install the package python3-sanlock"

    def __str__(self) -> str:
        return self.msg


class Sanlock(Protocol):
    """The part of the module that we use. Lockspace and resource names are bytes, paths are text.

    Every call may block while the daemon does. ``SanlockException.args`` is (code, what failed, why): system errors are
    positive, sanlock's own codes negative.
    """

    SanlockException: Type[Exception]
    LSFLAG_ADD: int
    LSFLAG_REM: int

    def add_lockspace(self, lockspace: bytes, host_id: int, path: str, *, wait: bool = True) -> None: ...

    def rem_lockspace(self, lockspace: bytes, host_id: int, path: str, *, unused: bool = False) -> None: ...

    def get_lockspaces(self) -> List[Dict[str, Any]]: ...

    def get_hosts(self, lockspace: bytes, host_id: int = ...) -> List[Dict[str, Any]]:
        """Without ``host_id`` those that are not free; with it that one, also a free one (generation 0: never used)."""
        ...

    def read_resource_owners(
        self, lockspace: bytes, resource: bytes, disks: Disks, *, align: int = ..., sector: int = ...
    ) -> List[Dict[str, Any]]: ...

    def write_lockspace(self, lockspace: bytes, path: str, *, align: int = ..., sector: int = ...) -> None: ...

    def write_resource(
        self, lockspace: bytes, resource: bytes, disks: Disks, *, align: int = ..., sector: int = ...
    ) -> None: ...


def load() -> Sanlock:
    """Raises SanlockMissing."""
    try:
        return cast(Sanlock, importlib.import_module("sanlock"))
    except ImportError as error:
        raise SanlockMissing from error


def code_of(error: Exception) -> int:
    """The number in a SanlockException; 0 if there is none."""
    first: Optional[object] = error.args[0] if error.args else None
    return first if isinstance(first, int) else 0


def text_of(error: Exception) -> str:
    """One line: what failed, why, and the number."""
    parts = [str(part) for part in error.args[1:]]
    return f"{', '.join(parts) or type(error).__name__} ({code_of(error)})"
