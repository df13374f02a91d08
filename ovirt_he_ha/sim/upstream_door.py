"""What a model of oVirt's daemons needs of the world around it, and nothing more.

The door is one machine's. Calls return at once; what takes time is said by :meth:`Door.spend` or by a callback. What
hangs raises :class:`CallHangs`, and is asked again.
"""

from dataclasses import dataclass
from typing import Callable, Iterator, Mapping, Optional, Protocol, Tuple

WHITEBOARD = "hosted-engine"


class StorageFault(Exception):
    """A read or a write of the volume failed."""


class CallHangs(Exception):
    """A call does not return. Upstream has no deadline: its thread stands until it does."""


class SanlockFault(Exception):
    """``code``: sanlock's or the system's, as the binding has it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


@dataclass(frozen=True)
class Measures:
    """What this host's monitors would measure now. None: it cannot be measured."""

    network: float = 1.0
    bridge: Optional[bool] = True
    mem_free: Optional[float] = 65536.0
    load: float = 0.1
    storage: bool = True


class Hypervisor(Protocol):
    """libvirt, as vdsm uses it. ``done(outcome, detail)``: ``ok``, ``busy`` (the lease is held), ``failed``."""

    @property
    def reachable(self) -> bool: ...

    def create(self, done: Callable[[str, str], None]) -> None: ...

    def shutdown(self) -> None: ...

    def destroy(self, done: Callable[[bool], None]) -> None: ...


class Door(Protocol):
    @property
    def host_id(self) -> int: ...

    @property
    def hostname(self) -> str: ...

    @property
    def mem_needed(self) -> int:
        """MiB of the VM."""
        ...

    @property
    def hypervisor(self) -> Hypervisor: ...

    def monotonic(self) -> float:
        """Seconds of this host's monotonic clock."""
        ...

    def wall(self) -> float: ...

    def spend(self, seconds: float) -> None:
        """The running call has taken so long."""
        ...

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """So many seconds of this host's clock later, unless the machine has ended."""
        ...

    def read_area(self) -> Mapping[int, bytes]:
        """All slots that are not blank, in one read. Raises StorageFault, CallHangs."""
        ...

    def write_slot(self, slot: int, data: bytes) -> None:
        """Raises StorageFault, CallHangs."""
        ...

    def held(self, lockspace: str) -> Optional[bool]:
        """None: in transition. Raises SanlockFault when nobody listens, CallHangs."""
        ...

    def join(self, lockspace: str, done: Callable[[int], None]) -> None:
        """``done(0)`` once it is held, else the code."""
        ...

    def leave(self, lockspace: str) -> None:
        """Begins to leave. Raises SanlockFault."""
        ...

    def domain_lockspace(self) -> str: ...

    def page(self) -> Tuple[bool, float]:
        """Whether the health page is good, and after how many seconds that is known."""
        ...

    def measures(self) -> Measures: ...

    def trace(self, what: str) -> None: ...

    def entered(self, before: str, state: str) -> None:
        """The agent changed its state."""
        ...

    def orders(self, action: str) -> None:
        """The agent orders something of its VM: ``start``, ``stop``, ``force-stop``."""
        ...


class Thread:
    """One of upstream's threads: a generator that yields the seconds it waits. ``wake`` ends a wait early."""

    def __init__(self, door: Door, body: Iterator[float]) -> None:
        self._door = door
        self._body = body
        self._turns = 0
        self._running = False
        self.over = False

    def start(self) -> "Thread":
        self._after(0.0)
        return self

    def wake(self) -> None:
        if not self.over and not self._running:
            self._after(0.0)

    def stop(self) -> None:
        """It is gone as a killed process is: nothing of it is run any more."""
        self.over = True

    def _after(self, seconds: float) -> None:
        self._turns += 1
        turn = self._turns
        self._door.after(seconds, lambda: self._turn(turn))

    def _turn(self, turn: int) -> None:
        if self.over or turn != self._turns:
            return
        self._running = True
        try:
            wait = next(self._body)
        except StopIteration:
            self.over = True
            return
        finally:
            self._running = False
        if not self.over:
            self._after(wait)
