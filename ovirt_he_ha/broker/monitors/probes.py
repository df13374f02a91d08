"""Rounds of probes on one thread: each probe is a socket that is waited for, so slow ones overlap, a round is
bounded."""

import selectors
import socket
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple


class Exchange(Protocol):
    """One request on one non-blocking socket. ``advance`` is called when the socket is ready for ``events``: True means
    answered, False failed, None go on waiting. It never raises and never blocks."""

    def fileno(self) -> int: ...

    def events(self) -> int: ...

    def advance(self) -> Optional[bool]: ...

    def close(self) -> None: ...


class Connect:
    """A TCP connection that is opened and closed again."""

    def __init__(self, family: int, address: Tuple[Any, ...]) -> None:
        """Raises OSError when there is no way to the address at all."""
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(address)
        except BlockingIOError:
            pass
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def events(self) -> int:
        return selectors.EVENT_WRITE

    def advance(self) -> Optional[bool]:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Pace:
    """``count`` probes, one every ``spacing``, each given up after ``timeout`` (wall seconds). A round takes at most
    ``(count - 1) * spacing + timeout``: 4 s at the default."""

    count: int = 5
    spacing: float = 0.5
    timeout: float = 2.0


# Begins probe number n (from 0). Several exchanges (name servers): the probe succeeds with the first that does;
# none: it failed. Raises OSError: this probe failed at once. Raises Unmeasured: nothing can be said, the round is
# void.
Begin = Callable[[int], Sequence[Exchange]]


class Round:
    """One round. Make a new one each time."""

    def __init__(self, begin: Begin, pace: Pace, stopping: Callable[[], bool]) -> None:
        self._begin = begin
        self._pace = pace
        self._stopping = stopping
        self._selector = selectors.DefaultSelector()
        self._deadlines: Dict[int, float] = {}  # probes that are waiting
        self._exchanges: Dict[int, List[Exchange]] = {}
        self._good = 0

    def share(self) -> float:
        """Good probes divided by all, 0.0 to 1.0. Raises what ``begin`` raises, except OSError."""
        start = time.monotonic()
        begun = 0
        try:
            while not self._stopping() and (begun < self._pace.count or self._deadlines):
                now = time.monotonic()
                if begun < self._pace.count and now >= start + begun * self._pace.spacing:
                    self._start_probe(begun, now)
                    begun += 1
                self._expire(now)
                next_start = start + begun * self._pace.spacing if begun < self._pace.count else None
                self._wait(next_start)
        finally:
            for probe in list(self._deadlines):
                self._end_probe(probe)
            self._selector.close()
        return self._good / self._pace.count

    def _start_probe(self, probe: int, now: float) -> None:
        try:
            exchanges = list(self._begin(probe))
        except OSError:
            return
        if not exchanges:
            return
        self._deadlines[probe] = now + self._pace.timeout
        self._exchanges[probe] = exchanges
        for exchange in exchanges:
            self._selector.register(exchange.fileno(), exchange.events(), (probe, exchange))

    def _wait(self, next_start: Optional[float]) -> None:
        times = [*self._deadlines.values(), *([] if next_start is None else [next_start])]
        if not times:
            return
        # Not longer than half a second, so that a stop is noticed.
        for key, _ in self._selector.select(max(0.0, min(0.5, min(times) - time.monotonic()))):
            probe, exchange = key.data
            if probe in self._deadlines:
                self._advance(probe, exchange)

    def _advance(self, probe: int, exchange: Exchange) -> None:
        result = exchange.advance()
        if result is None:
            self._selector.modify(exchange.fileno(), exchange.events(), (probe, exchange))
        elif result:
            self._good += 1
            self._end_probe(probe)
        else:
            self._end_exchange(exchange)
            self._exchanges[probe].remove(exchange)
            if not self._exchanges[probe]:
                self._end_probe(probe)

    def _expire(self, now: float) -> None:
        for probe, deadline in list(self._deadlines.items()):
            if now >= deadline:
                self._end_probe(probe)

    def _end_probe(self, probe: int) -> None:
        del self._deadlines[probe]
        for exchange in self._exchanges.pop(probe):
            self._end_exchange(exchange)

    def _end_exchange(self, exchange: Exchange) -> None:
        self._selector.unregister(exchange.fileno())
        exchange.close()
