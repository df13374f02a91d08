"""A host by address or by name, resolved rarely and on a thread of its own: a name server that does not answer must
not hang a round, and not the health page of an engine whose address is known."""

import socket
import threading
from typing import Any, Callable, List, Optional, Tuple

from ovirt_he_ha.broker.monitors.frame import Unmeasured

Address = Tuple[int, Tuple[Any, ...]]  # family and socket address
RESOLVE_AGAIN = 600.0  # wall seconds
FIRST_WAIT = 2.0  # wall seconds for a name that was never resolved
NEXT_WAIT = 0.3  # wall seconds for one whose last addresses are known


class _Lookup:
    """One question to the system's resolver, which may take half a minute (5 s twice for each name server)."""

    def __init__(self, host: str, port: int, kind: int) -> None:
        self.addresses: List[Address] = []
        self.problem: Optional[Exception] = None
        self._over = threading.Event()
        self._question = (host, port, kind)

    def ask(self) -> None:
        host, port, kind = self._question
        try:
            found = socket.getaddrinfo(host, port, type=kind)
            self.addresses = [(int(info[0]), info[4]) for info in found]
        except (OSError, UnicodeError) as problem:
            self.problem = problem
        finally:
            self._over.set()

    def begin(self) -> None:
        threading.Thread(target=self.ask, name="resolver", daemon=True).start()

    def over(self, wait: float) -> bool:
        return self._over.wait(wait)


class Target:
    """``now``: wall seconds, monotonic. Not for more than one thread. Never more than one lookup is under way."""

    def __init__(self, host: str, port: int, kind: int, now: Callable[[], float]) -> None:
        self._host = host
        self._port = port
        self._kind = kind
        self._now = now
        self._addresses: List[Address] = []
        self._looked_up = 0.0
        self._lookup: Optional[_Lookup] = None

    def addresses(self, max_age: float = RESOLVE_AGAIN) -> List[Address]:
        """At least one, in the resolver's order; looked up again after ``max_age`` seconds, and while that fails or
        hangs the last ones stay. Bounded by FIRST_WAIT. Raises OSError when the name was never resolved, Unmeasured
        ``resolver`` while nobody says whether it can be."""
        if self._lookup is None:
            if self._addresses and self._now() - self._looked_up < max_age:
                return self._addresses
            self._begin()
        self._take(NEXT_WAIT if self._addresses else FIRST_WAIT)
        if not self._addresses:
            raise Unmeasured("resolver", f"no answer for {self._host} yet")
        return self._addresses

    def _begin(self) -> None:
        self._looked_up = self._now()
        self._lookup = _Lookup(self._host, self._port, self._kind)
        if _is_numeric(self._host):
            self._lookup.ask()
        else:
            self._lookup.begin()

    def _take(self, wait: float) -> None:
        lookup = self._lookup
        if lookup is None or not lookup.over(wait):
            return
        self._lookup = None
        if lookup.problem is not None and not self._addresses:
            raise OSError(f"cannot resolve {self._host}: {lookup.problem}") from lookup.problem
        self._addresses = lookup.addresses or self._addresses


def _is_numeric(host: str) -> bool:
    """Such a one is never asked for."""
    address, scope, _ = host.partition("%")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address if scope else host)
            return True
        except (OSError, UnicodeError, ValueError):
            continue
    return False
