"""Who is connected, and who has to go when there is no room: nobody can occupy the socket, not even with the same user
id as everybody else."""

import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import Dict, List, Optional
from weakref import WeakValueDictionary

from ovirt_he_ha.broker.request import Limits
from ovirt_he_ha.config.journal import throttled

log = logging.getLogger(__name__)

_TURN_SECONDS = 1.0  # wall: longer than a round of 47 of the largest answers; then it goes ahead all the same


@dataclass(frozen=True)
class Caller:
    """Who is at the other end, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Turn:
    """One process's calls take turns on the processor: with 40 connections it gets the share of one, and who asks once
    in ten seconds does not wait for the other 39. Never a reason to wait for long: a turn that does not come is taken.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether it must be given back."""
        return self._lock.acquire(timeout=_TURN_SECONDS)

    def give_back(self) -> None:
        self._lock.release()


class Connection:
    """One client. ``busy`` while its call runs here: then it is never closed to make room for another. Waiting for the
    client (to ask, to send the rest, to take its answer), and waiting for a change on its behalf, is not busy."""

    def __init__(self, peer: socket.socket, caller: Caller) -> None:
        self.socket = peer
        self.caller = caller
        self.busy = False
        self.quiet_since = time.monotonic()
        self.turn = Turn()  # its process's, from its registration on

    def rest(self) -> None:
        self.busy = False
        self.quiet_since = time.monotonic()

    def shut(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already


class Connections:
    """All open ones. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Dict[int, Connection] = {}
        self._turns: WeakValueDictionary[int, Turn] = WeakValueDictionary()
        self._changed = threading.Condition()
        self._closed = False

    def register(self, connection: Connection) -> "Optional[List[Connection]]":
        """Those that had to go to make room: first of the same user, then of the user who has most, and there of the
        process that has most. None: there is no room, all of them are busy."""
        gone: List[Connection] = []
        with self._changed:
            mine = self._of(connection.caller.uid)
            if len(mine) >= self._limits.per_uid and not self._evict(mine, gone):
                return None
            if len(self._open) >= self._limits.connections and not self._evict(self._of(self._greediest()), gone):
                return None
            if self._closed:
                return None
            connection.turn = self._turns.setdefault(connection.caller.pid, connection.turn)
            self._open[id(connection)] = connection
        for each in gone:
            log.warning(
                "too many connections: a quiet one of process %d (uid %d) was closed",
                each.caller.pid,
                each.caller.uid,
                extra=throttled("evicted", HE_UID=each.caller.uid),
            )
        return gone

    def forget(self, connection: Connection) -> None:
        with self._changed:
            self._open.pop(id(connection), None)
            self._changed.notify_all()
        connection.socket.close()

    def close(self, seconds: float) -> bool:
        """Admit nobody any more, end who waits, cut the rest after so many wall seconds. True if all ended before."""
        with self._changed:
            self._closed = True
            for connection in self._open.values():
                if not connection.busy:
                    connection.shut()
            ended = self._changed.wait_for(lambda: not self._open, max(0.0, seconds))
            for connection in self._open.values():
                connection.shut()
        return ended

    def _of(self, uid: int) -> List[Connection]:
        return [each for each in self._open.values() if each.caller.uid == uid]

    def _greediest(self) -> int:
        uids = [each.caller.uid for each in self._open.values()]
        return max(uids, key=uids.count)

    def _evict(self, candidates: List[Connection], gone: List[Connection]) -> bool:
        quiet = [each for each in candidates if not each.busy]
        if not quiet:
            return False
        share: Dict[int, int] = {}
        for each in candidates:
            share[each.caller.pid] = share.get(each.caller.pid, 0) + 1
        victim = min(quiet, key=lambda each: (-share[each.caller.pid], each.quiet_since))
        victim.shut()
        del self._open[id(victim)]
        gone.append(victim)
        return True
