"""This host's id in one lockspace: joined, kept, given back."""

import errno
import logging
import threading
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.core.model import LockspaceState
from ovirt_he_ha.lease.binding import HOSTID_BUSY, HOSTID_LOCKED, NO_LEASE, UNREACHABLE, Sanlock, code_of, text_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """``detail`` says what the state alone does not; empty when there is nothing to say."""

    state: LockspaceState = LockspaceState.UNKNOWN
    detail: str = ""


class Membership:
    """Exclusive: one host id, one host (sanlock sees to it). ``step`` and ``leave`` block while sanlock does, a join
    for 20 s to 160 s: each on a thread of its own. ``status`` never blocks.

    ``may_join`` is asked before every join, and False keeps us out: joining frees at once what this host held before
    its sanlock restarted, also when the VM that was guarded by it still runs.
    """

    def __init__(
        self,
        name: str,
        path: str,
        api: Sanlock,
        on_status: Callable[[], None],
        may_join: Callable[[], bool] = lambda: True,
        only_unused: bool = False,
    ) -> None:
        self.name = name
        self.path = path
        self._api = api
        self._on_status = on_status
        self._may_join = may_join
        self._only_unused = only_unused
        self._lock = threading.Lock()
        self._target: Optional[int] = None
        self._ours: Optional[int] = (
            None  # the id that this process asked for; None: joined by somebody else, or not at all
        )
        self._joining = False
        self._status = Status()

    @property
    def status(self) -> Status:
        return self._status

    @property
    def joining(self) -> bool:
        """A join of ours is under way."""
        return self._joining

    def want(self, host_id: Optional[int]) -> None:
        """None: want nothing from now on; what is held stays until ``leave``."""
        with self._lock:
            self._target = host_id

    # --- one round ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Look, and join if that is wanted."""
        target = self._target
        listed = self._listed()
        if listed is None:
            return
        if target is None:
            self._say(LockspaceState.HELD if _settled(listed) else LockspaceState.NOT_HELD)
            return
        if not listed:
            self._join(target)
            return
        if listed["host_id"] == self._ours != target:
            self._remove(listed["host_id"])
            if self._ours is None:
                return
        self._say_listed(listed, target)

    def _listed(self) -> "Optional[Dict[str, Any]]":
        """sanlock's entry for this lockspace, an empty one if it has none; None: sanlock cannot be asked."""
        try:
            spaces: List[Dict[str, Any]] = self._api.get_lockspaces()
        except self._api.SanlockException as error:
            code = code_of(error)
            self._ours = None  # whatever that daemon knew is gone with it
            state = LockspaceState.NO_DAEMON if code in UNREACHABLE else LockspaceState.ERROR
            self._say(state, text_of(error))
            return None
        name = self.name.encode()
        return next((space for space in spaces if space["lockspace"] == name), {})

    def _say_listed(self, listed: Dict[str, Any], target: int) -> None:
        if listed["host_id"] != target or listed["path"] != self.path:
            found = f"held under host id {listed['host_id']} at {listed['path']}"
            self._say(LockspaceState.MISMATCH, f"{found}, wanted {target} at {self.path}")
        elif listed["flags"] & self._api.LSFLAG_REM:
            self._say(LockspaceState.NOT_HELD, "sanlock is leaving it: its renewals failed, or somebody removed it")
        elif listed["flags"] & self._api.LSFLAG_ADD:
            self._say_joining()
        else:
            self._say(LockspaceState.HELD)

    def _say_joining(self) -> None:
        """While another host was seen with our id, a further try does not make that untrue."""
        if self._status.state is not LockspaceState.ID_TAKEN:
            self._say(LockspaceState.JOINING)

    def _join(self, target: int) -> None:
        if not self.begin_join(target):
            return
        try:
            self._api.add_lockspace(self.name.encode(), target, self.path)
        except self._api.SanlockException as error:
            self.end_join(target, error)
        else:
            self.end_join(target)
        finally:
            self._joining = False

    def begin_join(self, target: int) -> bool:
        """Whether sanlock is to be asked now."""
        if not self._may_join():
            why = "an engine VM runs here that this sanlock does not guard, or this copy of the domain is refused"
            self._say(LockspaceState.NOT_HELD, f"not joined: {why}")
            return False
        with self._lock:
            if self._target != target:
                return False
            self._joining = True
            self._ours = target
        self._say_joining()
        return True

    def end_join(self, target: int, refusal: Optional[Exception] = None) -> None:
        """sanlock has answered, after 20 s to 160 s."""
        if refusal is None:
            self._joined(target)
        else:
            self._refused(refusal)
        self._joining = False

    def _joined(self, target: int) -> None:
        """Somebody may have changed his mind meanwhile, and his ``leave`` may have come before sanlock knew of our
        join."""
        if self._target == target:
            self._say(LockspaceState.HELD)
        else:
            self._remove(target)

    def _refused(self, error: Exception) -> None:
        code, why = code_of(error), text_of(error)
        self._ours = None
        if code in (errno.EEXIST, errno.EINPROGRESS):
            self._someone_elses()
        elif self._target is None:
            self._say(LockspaceState.NOT_HELD)
        elif code in (HOSTID_BUSY, HOSTID_LOCKED):
            self._say(LockspaceState.ID_TAKEN, f"another host renews this host id: {why}")
        elif code == NO_LEASE:
            self._say(
                LockspaceState.ERROR, f"{self.path} holds no lockspace (--reinitialize-lockspace writes one): {why}"
            )
        elif code in UNREACHABLE:
            self._say(LockspaceState.NO_DAEMON, why)
        elif code != errno.EINVAL or not self._someone_elses():
            self._say(LockspaceState.ERROR, f"{self.path}: {why}")

    def _someone_elses(self) -> bool:
        """The name is there already, perhaps under another id or path (EINVAL). Says what it finds."""
        listed = self._listed()
        if listed and self._target is not None:
            self._say_listed(listed, self._target)
        return bool(listed)

    # --- giving it back -------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Give back what this process joined, or is about to join. A lockspace that somebody else joined stays, and
        with ``only_unused`` one in which a lease is held stays too: that is normal, a VM runs."""
        self.want(None)
        with self._lock:
            ours = self._ours
        if ours is not None:
            self._remove(ours)

    def _remove(self, host_id: int) -> None:
        try:
            self._api.rem_lockspace(self.name.encode(), host_id, self.path, unused=self._only_unused)
        except self._api.SanlockException as error:
            code = code_of(error)
            if code == errno.EBUSY:
                log.info("lockspace %s stays: a lease in it is held", self.name, extra=throttled(f"{self.name}-busy"))
                return
            if code != errno.ENOENT:
                self._say(LockspaceState.ERROR, f"not left: {text_of(error)}")
                return
        self._ours = None
        self._say(LockspaceState.NOT_HELD)

    def _say(self, state: LockspaceState, detail: str = "") -> None:
        before, self._status = self._status, Status(state, detail)
        if before == self._status:
            return
        good = state in (LockspaceState.HELD, LockspaceState.JOINING, LockspaceState.NOT_HELD) and not detail
        log.log(
            logging.INFO if good else logging.WARNING,
            "lockspace %s: %s%s",
            self.name,
            state.value,
            f", {detail}" if detail else "",
            extra={"HE_LOCKSPACE": self.name, "HE_LOCKSPACE_STATE": state.value},
        )
        self._on_status()


def _settled(listed: Dict[str, Any]) -> bool:
    return bool(listed) and not listed["flags"]


def leave_all(members: Tuple[Membership, ...]) -> None:
    """Leave all of them at once; returns when sanlock has answered for each."""
    threads = [threading.Thread(target=each.leave, name=f"leave {each.name}", daemon=True) for each in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
