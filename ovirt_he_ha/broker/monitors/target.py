"""A host by address or by name, resolved rarely: a dead name server must not hang every round."""

import socket
from typing import Any, Callable, List, Tuple

Address = Tuple[int, Tuple[Any, ...]]  # family and socket address
RESOLVE_AGAIN = 600.0  # wall seconds


class Target:
    """``now``: wall seconds, monotonic. Not for more than one thread."""

    def __init__(self, host: str, port: int, kind: int, now: Callable[[], float]) -> None:
        self._host = host
        self._port = port
        self._kind = kind
        self._now = now
        self._addresses: List[Address] = []
        self._looked_up = 0.0

    def addresses(self, max_age: float = RESOLVE_AGAIN) -> List[Address]:
        """At least one, in the resolver's order; looked up again after ``max_age`` seconds, and while that fails
        the last ones stay. Raises OSError when the name was never resolved. May block as long as the system's
        resolver does."""
        if self._addresses and self._now() - self._looked_up < max_age:
            return self._addresses
        self._looked_up = self._now()
        try:
            found = socket.getaddrinfo(self._host, self._port, type=self._kind)
        except (OSError, UnicodeError) as problem:
            if not self._addresses:
                raise OSError(f"cannot resolve {self._host}: {problem}") from problem
            return self._addresses
        self._addresses = [(int(info[0]), info[4]) for info in found]
        return self._addresses
